"""Wall time of a training epoch with the probe beside it, against one without.

The whole cost of the probe falls into the first step of an epoch, so pairs of steps are measured: one that copies the
weights, trains, and then waits for the probe as AdaS has to, and one that only trains; they take turns. An epoch has
images / 128 steps. `ratio` is 1 + median difference of a pair / seconds of an epoch; `between` is the same ratio for a
probe between the epochs. Inputs are random images of CIFAR's shape.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from conet_fx import analyze, models
from conet_fx.probe import Prober, probe

BATCH = 128


def epochs(device: torch.device, images: int, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    wide = models.build("resnet34_cifar", 10)
    plan = analyze(wide, torch.zeros(2, 3, 32, 32))
    narrow = plan.resize({group.name: 32 for group in plan.free})
    rows = []
    for name, model in (("resnet34_cifar", wide), ("resnet34_cifar, 32 channels", narrow)):
        rows.append({"network": name, **_epoch(model.to(device), device, images // BATCH, repeats)})
    return rows


def _epoch(model: nn.Module, device: torch.device, steps: int, repeats: int) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(BATCH, 3, 32, 32, device=device)
    labels = torch.randint(10, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    with Prober() as prober:

        def beside() -> None:
            pending = prober.submit(model)
            step()
            pending.result()

        for run in (step, beside, step):
            run()
        alone, extra, between = [], [], []
        for _ in range(repeats):
            alone.append(_seconds(step, device))
            extra.append(_seconds(beside, device) - alone[-1])
            between.append(_seconds(lambda: probe(model), device))
    epoch = statistics.median(alone) * steps
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads",
        "steps": steps,
        "step, s": statistics.median(alone),
        "spread": max(alone) - min(alone),
        "beside, s more": statistics.median(extra),
        "between, s more": statistics.median(between),
        "ratio": f"{1 + statistics.median(extra) / epoch:.5f}",
        "ratio between": f"{1 + statistics.median(between) / epoch:.5f}",
    }


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
