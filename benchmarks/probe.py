"""CPU time of the probe, beside its floor and the code of the paper's authors, in one process.

    python -m benchmarks.probe [--reference DIR] [--json FILE] [--threads N] [--repeats N]

The floor is one float64 Gram matrix and one `eigvalsh` for each unfolding, with nothing around them. DIR is a checkout
of https://github.com/mahdihosseini/CONet. Times are CPU seconds of the process, the best of the repeats, which take
turns so that a busy machine slows all of them; weights are freshly initialised plus a part of rank 4.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from benchmarks.processes import processor
from conet_fx.probe import probe, probed_layers


def networks() -> dict[str, nn.Module]:
    """ResNet-34 of torchvision, and 130 small convs as in a DARTS network. Seeded."""
    torch.manual_seed(0)
    small = [nn.Conv2d(32, 32, kernel, bias=False) for kernel in (1, 3) for _ in range(65)]
    models: dict[str, nn.Module] = {"resnet34": torchvision.models.resnet34(), "130 small convs": nn.Sequential(*small)}
    with torch.no_grad():
        for model in models.values():
            for layer in probed_layers(model).values():
                outputs, inputs = layer.weight.shape[:2]
                planted = torch.randn(outputs, 4) @ torch.randn(4, inputs)
                layer.weight += layer.weight.std() * planted[:, :, None, None] / 2
    return models


def floor(model: nn.Module) -> None:
    """The least that any exact probe by this route has to do."""
    for layer in probed_layers(model).values():
        weight = layer.weight.detach().double()
        unfoldings = [weight.flatten(1)]
        if weight[0, 0].numel() > 1:
            unfoldings.append(weight.transpose(0, 1).flatten(1))
        for unfolding in unfoldings:
            wide = unfolding if unfolding.shape[0] <= unfolding.shape[1] else unfolding.T
            torch.linalg.eigvalsh(wide @ wide.T)


def authors(checkout: Path) -> Callable[[nn.Module], None]:
    """The authors' `Metrics(...).evaluate` on the conv weights of a model."""
    folder = checkout / "CONet" if (checkout / "CONet").is_dir() else checkout
    if not (folder / "metrics.py").is_file():
        sys.exit(f"{checkout} is not a checkout of the authors' repository: no metrics.py in it")
    sys.path.insert(0, str(folder))
    metrics = importlib.import_module("metrics").Metrics

    def run(model: nn.Module) -> None:
        metrics([layer.weight for layer in probed_layers(model).values()], 1).evaluate(0)

    return run


def best_of(repeats: int, runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Least CPU seconds of each run, after one warm-up, in turns."""
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat > 0:
                best[name] = min(best[name], time.process_time() - start)
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="CPU time of the probe.")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of the authors' repository, timed too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="of which the best counts (default 5)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    reference = authors(options.reference) if options.reference else None

    rows = []
    for name, model in networks().items():
        runs: dict[str, Callable[[], Any]] = {"ours": lambda m=model: probe(m), "floor": lambda m=model: floor(m)}
        if reference:
            runs["authors"] = lambda m=model: reference(m)
        seconds = best_of(options.repeats, runs)
        rows.append({"network": name, **seconds, "ours / floor": seconds["ours"] / seconds["floor"]})
        if reference:
            rows[-1]["authors / ours"] = seconds["authors"] / seconds["ours"]

    print(
        f"{processor()}, {options.threads} thread(s), torch {torch.__version__}; CPU seconds, best of {options.repeats}"
    )
    print("".join(f"{column:>16}" for column in rows[0]))
    for row in rows:
        print("".join(f"{value:>16}" if isinstance(value, str) else f"{value:>16.4f}" for value in row.values()))
    if options.json:
        figures = {"processor": processor(), "threads": options.threads, "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
