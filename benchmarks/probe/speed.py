"""CPU seconds of the probe.

The floor is one float64 Gram matrix and one `eigvalsh` for each unfolding, with nothing around them. Weights are
freshly initialised plus a part of rank 4, which leaves work for the solver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from benchmarks.probe.authors import Authors
from conet_fx.probe import probe, probed_layers

CHANNELS = (32, 64, 128, 256, 512, 1024)


def networks() -> dict[str, nn.Module]:
    """ResNet-34 of torchvision, and 130 small convs as in a DARTS network. Seeded."""
    torch.manual_seed(0)
    small = [nn.Conv2d(32, 32, kernel, bias=False) for kernel in (1, 3) for _ in range(65)]
    return {"resnet34": planted(torchvision.models.resnet34()), "130 small convs": planted(nn.Sequential(*small))}


@torch.no_grad()
def planted(model: nn.Module) -> nn.Module:
    """The model with a part of rank 4 added to each conv weight."""
    for layer in probed_layers(model).values():
        outputs, inputs = layer.weight.shape[:2]
        part = torch.randn(outputs, 4) @ torch.randn(4, inputs)
        layer.weight.add_(layer.weight.std() * part[:, :, None, None] / 2)
    return model


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


def whole_networks(repeats: int, reference: Authors | None) -> list[dict[str, Any]]:
    return [{"network": name, **compared(model, repeats, reference)} for name, model in networks().items()]


def scaling(repeats: int, reference: Authors | None) -> list[dict[str, Any]]:
    """One conv of as many inputs as outputs, 1 x 1 and 3 x 3."""
    torch.manual_seed(0)
    rows = []
    for kernel in (1, 3):
        for channels in CHANNELS:
            model = planted(nn.Conv2d(channels, channels, kernel, bias=False))
            rows.append({"conv": f"{kernel} x {kernel}, {channels}", **compared(model, repeats, reference)})
    return rows


def compared(model: nn.Module, repeats: int, reference: Authors | None) -> dict[str, float]:
    """Seconds of ours, the floor and the authors' code, and their ratios."""
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: probe(model), "floor": lambda: floor(model)}
    if reference:
        runs["authors"] = lambda: reference.evaluate(model)
    seconds = best_of(repeats, runs)
    ratios = {"ours / floor": seconds["ours"] / seconds["floor"]}
    if reference:
        ratios["authors / ours"] = seconds["authors"] / seconds["ours"]
    return {**seconds, **ratios}


def best_of(repeats: int, runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Least CPU seconds of each run, after one warm-up, in turns; short ones are repeated up to 20 ms a turn."""
    best: dict[str, float] = {}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            count, start = 0, time.process_time()
            while count == 0 or time.process_time() - start < 0.02:
                run()
                count += 1
            best[name] = min(best.get(name, float("inf")), (time.process_time() - start) / count)
    return best
