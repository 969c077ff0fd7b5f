"""What the probe costs and says, beside its floor and the code of the paper's authors; tables in Markdown.

    python -m benchmarks.probe [--reference DIR] [--json FILE] [--threads N] [--repeats N] [PART ...]

Parts, all but `training` when none is named:

* `speed`: CPU seconds for whole networks (`benchmarks/probe/speed.py`);
* `scaling`: CPU seconds for one conv of 32 to 1024 channels;
* `agreement`: where ranks differ from the authors' and why; needs `--reference` (`benchmarks/probe/agreement.py`);
* `training`: wall time of a training epoch with the probe beside it and without (`benchmarks/probe/training.py`), on
  `--device`, with all threads; a few minutes.

DIR is a checkout of https://github.com/mahdihosseini/CONet. CPU times are those of the process, the best of the
repeats, in which everything that is compared takes turns, so that a busy machine slows all of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.probe import agreement, speed, training
from benchmarks.probe.authors import Authors
from benchmarks.processes import describe

PARTS = ("speed", "scaling", "agreement", "training")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table; figures with four significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [list(rows[0]), ["---" if isinstance(value, str) else "---:" for value in rows[0].values()]]
    lines += [[cell(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cost and answers of the probe.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of the authors' repository")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for the CPU seconds (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")
    parser.add_argument("--device", default="cpu", help="where `training` trains (default cpu)")
    parser.add_argument("--images", type=int, default=20_000, help="in an epoch of `training` (default 20,000)")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    if "agreement" in options.parts and not options.reference:
        parser.error("agreement needs --reference DIR, a checkout of the authors' repository")
    reference = Authors(options.reference) if options.reference else None
    parts = options.parts or [part for part in PARTS if part != "training" and (reference or part != "agreement")]

    figures: dict[str, Any] = {"environment": describe(), "threads": options.threads}
    print(f"{describe()}, {options.threads} thread(s), best of {options.repeats}\n")
    for part in parts:
        threads = torch.get_num_threads()
        if part != "training":
            torch.set_num_threads(options.threads)
        if part == "speed":
            rows = speed.whole_networks(options.repeats, reference)
        elif part == "scaling":
            rows = speed.scaling(options.repeats, reference)
        elif part == "agreement":
            assert reference
            rows = agreement.compare(reference)
        else:
            rows = training.epochs(torch.device(options.device), options.images, options.repeats)
        torch.set_num_threads(threads)
        figures[part] = rows
        print(f"## {part}\n\n{table(rows)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
