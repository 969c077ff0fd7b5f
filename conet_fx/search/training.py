"""One epoch of training, and the trial that is made of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import fx, nn
from torch.optim import Optimizer

from conet_fx.errors import SearchError
from conet_fx.probe import Pending, Prober
from conet_fx.search.adas import AdaS
from conet_fx.search.batches import Loss, run_on, split
from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Epoch


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Iterable[Any],
    fabric: Fabric,
    loss_fn: Loss,
    where: str,
    on_start: Callable[[], object] = lambda: None,
) -> tuple[float, float | None]:
    """Train one epoch. Returns the mean loss over samples, and the top-1 accuracy where targets are class indices.

    ``on_start`` is called before the first batch is asked for, once the loader has started its processes.

    Raises :class:`SearchError` naming ``where`` and the first batch whose loss is not finite. The check costs one
    synchronisation with the device an epoch.
    """
    model.train()
    losses: list[torch.Tensor] = []
    correct: list[torch.Tensor] = []
    counts: list[int] = []
    batches = iter(loader)
    on_start()
    for batch in batches:
        inputs, target = split(fabric.to_device(batch))
        optimizer.zero_grad(set_to_none=True)
        output = run_on(model, inputs)
        loss = loss_fn(output, target)
        fabric.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
        counts.append(len(target) if isinstance(target, torch.Tensor) and target.ndim else 1)
        hits = top1(output, target)
        if hits is not None:
            correct.append(hits)
    if not losses:
        raise SearchError(f"{where}: the loader gave no batch")
    values = torch.stack(losses).double().cpu()
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        raise SearchError(
            f"the loss is {float(values[first])} in {where}, batch {first + 1}: lower the learning rate (lr), check "
            "the inputs for NaN, or use precision='32-true'"
        )
    total = sum(counts)
    mean = float((values * torch.tensor(counts)).sum() / total)
    return mean, float(torch.stack(correct).sum()) / total if correct else None


def top1(output: Any, target: Any) -> torch.Tensor | None:
    """How many samples have their class as the largest output; None where targets are not one class a sample."""
    if not (isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)):
        return None
    if output.ndim != 2 or target.ndim != 1 or target.is_floating_point():
        return None
    return (output.detach().argmax(1) == target).sum()


def run_trial(
    candidate: fx.GraphModule,
    loader: Iterable[Any],
    config: SearchConfig,
    fabric: Fabric,
    loss_fn: Loss,
    number: int,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Epoch, ...]:
    """Train ``candidate`` for one trial, probing every weight after each epoch (paper 2.1).

    The probe runs beside the next epoch. Under AdaS the first step of that epoch waits for it, since it sets the
    learning rates; it starts when the loader has its processes, lest one be forked from a thread that holds a lock.

    Raises :class:`SearchError` naming trial, epoch and batch of a loss that is not finite, or the layers whose weights
    are not.
    """
    adas = AdaS(
        candidate, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, beta=config.beta
    )  # without epoch_end() plain SGD
    model, optimizer = fabric.setup(candidate, adas)
    epochs: list[Epoch] = []
    trained: Epoch | None = None  # not measured yet
    pending: Pending | None = None  # its measurement

    def measure() -> None:
        nonlocal pending
        if trained is not None:
            pending = prober.submit(candidate)

    def finish(*_: object) -> None:
        nonlocal trained, pending
        if trained is None or pending is None:
            return
        measuring, pending = pending, None
        metrics = measuring.result()
        if config.scheduler == "adas":
            adas.epoch_end(metrics)
        epochs.append(dataclasses.replace(trained, layers=metrics))
        trained = None
        on_epoch(epochs[-1])

    if config.scheduler == "adas":
        adas.register_step_pre_hook(finish)
    with Prober(linear=config.resize_linear) as prober:
        for index in range(1, config.epochs_per_trial + 1):
            start, where = time.perf_counter(), f"trial {number}, epoch {index}"
            try:
                loss, accuracy = train_epoch(model, optimizer, loader, fabric, loss_fn, where, measure)
            finally:
                finish()  # what was wrong in the epoch before is said first
            trained = Epoch(index, loss, accuracy, adas.learning_rates, {}, time.perf_counter() - start)
        measure()
        finish()
    return tuple(epochs)


def make_fabric(config: SearchConfig) -> Fabric:
    """Where to train, as the configuration says."""
    return Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)


@torch.no_grad()
def test_accuracy(model: nn.Module, loader: Iterable[Any], fabric: Fabric) -> float:
    """Top-1 accuracy in [0, 1] over all samples of ``loader``, in eval mode."""
    model.eval()
    hits, count = 0, 0
    for batch in loader:
        inputs, target = split(fabric.to_device(batch))
        correct = top1(run_on(model, inputs), target)
        if correct is None:
            raise SearchError("test accuracy needs a model with one output a class and one class index a sample")
        hits += int(correct)
        count += len(target)
    return hits / count
