"""The paper's tables and figures, ours beside the published ones.

    python -m benchmarks.paper table3 --preset cpu --data cifar10 --root DIR
    python -m benchmarks.paper all --preset gpu --data cifar10 --root DIR --minutes 9

Everything that is done is kept in --out: the same command goes on where it was cut off, and experiments share searches
and trainings. With --minutes it ends in time with status 75; call it until it ends with 0. Table 4 needs --imagenet.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lightning_fabric import Fabric
from rich.console import Console

from benchmarks.paper.authors import Reference, Rule
from benchmarks.paper.experiments import EXPERIMENTS, table4
from benchmarks.paper.lab import Lab
from benchmarks.paper.outcome import Outcome, put
from benchmarks.paper.presets import PRESETS
from benchmarks.processes import describe
from conet_fx import data

# options that replace a field of the preset
FIELDS = {
    "archs": "archs",
    "static": "static",
    "deltas": "deltas",
    "seeds": "seeds",
    "phis": "ablation_phis",
    "channels": "initial_channels",
}
UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: try again


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*EXPERIMENTS, "table4", "all"])
    parser.add_argument("--preset", choices=list(PRESETS), default="smoke")
    parser.add_argument("--data", default="digits", help="as for conet-fx search (default: %(default)s)")
    parser.add_argument("--name", help="what the data are, where --data is a folder of them: cifar10, cifar100")
    parser.add_argument("--imagenet", help="the data of Table 4, say imagenet or folder:DIR")
    parser.add_argument("--root", help="where the data lie")
    parser.add_argument("--out", type=Path, help="default: runs/paper/PRESET")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--minutes", type=float, help="stop before so many minutes are over")
    parser.add_argument("--archs", nargs="+", help="other networks than the preset's")
    parser.add_argument("--static", nargs="+", help="other networks for Fig. 4")
    parser.add_argument("--deltas", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--channels", type=int, help="other channels for searches to start from")
    parser.add_argument("--phis", nargs="+", type=float, help="other first scale factors for Table 2")
    parser.add_argument("--markdown", type=Path, help="write the tables into this page too, each between its marks")
    parser.add_argument("--reference", type=Path, help="a checkout of the authors' repository: ask its code in Table 3")
    options = parser.parse_args(words)
    if (options.table == "table4") and not options.imagenet:
        parser.error("table4 needs --imagenet: the name of a data set of large images")
    given = {field: value for name, field in FIELDS.items() if (value := vars(options)[name]) is not None}
    listed = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
    preset = dataclasses.replace(PRESETS[options.preset], **listed)
    out = options.out or Path("runs", "paper", options.preset)
    fabric = Fabric(accelerator=options.accelerator, devices=1, precision=options.precision)
    images = data.load(options.data, root=options.root, image_size=preset.image_size)
    authors = functools.partial(Reference, options.reference) if options.reference else Rule
    lab = Lab(preset, images, fabric, out, name=options.name, authors=authors)
    device = describe() if fabric.device.type == "cpu" else f"{_card(fabric)}, {describe()}"
    console = Console(width=max(120, Console().width))
    try:
        with _limited(options.minutes):
            for name in _chosen(options.table, bool(options.imagenet)):
                if name == "table4":
                    large = dataclasses.replace(preset, recipes=preset.recipes and "imagenet")
                    images = data.load(options.imagenet, root=options.root)
                    outcomes = table4(lab, Lab(large, images, fabric, out))
                else:
                    outcomes = EXPERIMENTS[name](lab)
                for number, outcome in enumerate(outcomes, start=1):
                    _give(outcome, console, out / (name if len(outcomes) == 1 else f"{name}-{number}"), device)
                if options.markdown:
                    put(
                        options.markdown,
                        name,
                        outcomes,
                        f"`python -m benchmarks.paper {name} {_shown(words)}`, {device}",
                    )
    except _OutOfTimeError:
        print(f"{options.minutes:g} minutes are over: the same command goes on", file=sys.stderr)
        return UNFINISHED
    return 0


class _OutOfTimeError(Exception):
    pass


@contextlib.contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Raise after so many minutes; what can save itself on SIGTERM has done so then."""
    if minutes is None:
        yield
        return
    clock = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    clock.daemon = True
    before = signal.signal(signal.SIGTERM, _end)
    clock.start()
    try:
        yield
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            raise _OutOfTimeError from None
        raise
    finally:
        clock.cancel()
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _chosen(table: str, imagenet: bool) -> list[str]:
    if table != "all":
        return [table]
    return [*EXPERIMENTS, "table4"] if imagenet else list(EXPERIMENTS)


def _shown(words: list[str] | None) -> str:
    """The options of this command that say what is measured, without folders."""
    given = iter([part for word in (sys.argv[1:] if words is None else words) for part in word.split("=", 1)])
    kept = []
    for word in given:
        if word in ("--out", "--root", "--markdown", "--minutes", "--reference"):
            next(given)
        elif word.startswith("folder:"):
            kept.append("folder:DIR")
        else:
            kept.append(word)
    return " ".join(kept[1:])


def _give(outcome: Outcome, console: Console, path: Path, device: str) -> None:
    outcome.show(console)
    written = ", ".join(map(str, outcome.write(path)))
    console.print(f"{device}; written: {written}", markup=False, highlight=False)


def _card(fabric: Fabric) -> str:
    import torch

    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type


if __name__ == "__main__":
    sys.exit(main())
