"""What users may put in place of the search's own training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from conet_fx.search.batches import Loss

EpochResult = float | tuple[float, float | None]
TrainEpoch = Callable[[nn.Module, Optimizer, Iterable[Any], Fabric], EpochResult]


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Callables of the user; None stands for what the search does itself.

    ``loss_fn(output, target)``: a scalar tensor (cross entropy). ``optimizer_fn(model)``: an optimizer over the
    parameters of a candidate (AdaS). ``scheduler_fn(optimizer)``: a learning rate schedule that is stepped after each
    epoch, in place of the rates of AdaS. ``train_epoch(model, optimizer, loader, fabric)``: trains one epoch and
    returns the mean loss, or (mean loss, accuracy). ``init_fn(module)``: initialises each module of a fresh candidate.

    Raises TypeError for what cannot be called.
    """

    loss_fn: Loss | None = None
    optimizer_fn: Callable[[nn.Module], Optimizer] | None = None
    scheduler_fn: Callable[[Optimizer], LRScheduler] | None = None
    train_epoch: TrainEpoch | None = None
    init_fn: Callable[[nn.Module], Any] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not callable(value):
                raise TypeError(f"{field.name}={value!r}: pass a callable, or leave it out")
        if self.train_epoch is not None and self.loss_fn is not None:
            raise TypeError("pass train_epoch or loss_fn, not both: train_epoch computes its own loss")
