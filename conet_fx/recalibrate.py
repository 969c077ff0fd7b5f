"""Batch norm statistics anew, for weights that were resized."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conet_fx.search.batches import describe, run_on, tensors
from conet_fx.search.randomness import reproducible


def recalibrate_bn(
    module: nn.Module,
    loader: Iterable[Any],
    batches: int | None = None,
    device: torch.device | str | None = None,
) -> int:
    """Estimate the running statistics of every batch norm anew: the mean over all batches (``momentum=None``).

    All else is as in evaluation (no dropout). Weights, modes, ``requires_grad``, gradients and random states, also the
    loader's, stay as they are; the statistics too when something goes wrong. Batch norms as functions
    (``F.batch_norm`` with running statistics) count as well; such as never run, or keep no statistics, do not change.

    Args:
        module: any module, for instance the result of ``plan.resize(sizes, init="inherit")``.
        loader: gives (input, target) pairs as for :func:`conet_fx.optimize`, of which only the first item is used, or
            inputs alone. An input is a tensor or a dict of tensors, in a pair also a tuple of tensors.
        batches: how many to use; all when left out. A few hundred samples are enough.
        device: where the batches go; where the parameters are when left out.

    Returns:
        The number of batches.

    Raises:
        TypeError, ValueError: a bad argument, an empty loader, or no batch norm with running statistics that ran.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    if isinstance(loader, (str, bytes, Mapping, Tensor)) or not isinstance(loader, Iterable):
        raise TypeError(f"loader must be an iterable of batches, for instance a DataLoader, not {describe(loader)}")
    if batches is not None and (isinstance(batches, bool) or not isinstance(batches, int) or batches < 1):
        raise ValueError(f"batches={batches!r}: write a number >= 1, or leave it out for all")
    if device is None:
        device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    count = 0
    with _Estimate() as estimate, _evaluating(module), reproducible(loader, torch.device(device)), torch.no_grad():
        for batch in islice(loader, batches):
            run_on(module, _moved(_input(batch), torch.device(device)))
            count += 1
        if not count:
            raise ValueError("loader is empty: it gives no batch (is drop_last set with fewer samples than a batch?)")
        if not estimate.seen:
            raise ValueError(
                f"no batch norm with running statistics ran in this {type(module).__name__}: nothing is to be estimated"
            )
        counts = {id(statistic): calls for statistic, calls in estimate.calls()}
        for part in module.modules():
            calls = counts.get(id(getattr(part, "running_mean", None)))
            tracked = getattr(part, "num_batches_tracked", None)
            if calls is not None and isinstance(tracked, Tensor):
                tracked.fill_(calls)
        estimate.keep()
    return count


@dataclasses.dataclass
class _Statistics:
    """The running mean and variance of one batch norm, as they were, and how often it ran."""

    running: tuple[Tensor, Tensor]
    before: tuple[Tensor, Tensor]
    calls: int = 0


class _Estimate(TorchFunctionMode):
    """Every batch norm that keeps statistics runs as in training and averages them over all its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, _Statistics] = {}
        self._kept = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        names = _ARGUMENTS.get(func)
        if names is None:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        mean, variance = given.get("running_mean"), given.get("running_var")
        if mean is not None and variance is not None:
            given["momentum"] = 1 / self._next(mean, variance)
            given["training"] = True
        return func(**given)

    def _next(self, mean: Tensor, variance: Tensor) -> int:
        """The number of this call of a batch norm, from 1."""
        if id(mean) not in self.seen:
            self.seen[id(mean)] = _Statistics((mean, variance), (mean.clone(), variance.clone()))
            mean.zero_()  # what is not finite would stay so
            variance.fill_(1)
        self.seen[id(mean)].calls += 1
        return self.seen[id(mean)].calls

    def calls(self) -> Iterator[tuple[Tensor, int]]:
        """Each running mean and how often it was averaged."""
        for statistics in self.seen.values():
            yield statistics.running[0], statistics.calls

    def keep(self) -> None:
        """The new statistics are good: do not put the old ones back."""
        self._kept = True

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if not self._kept:
            with torch.no_grad():
                for statistics in self.seen.values():
                    for now, before in zip(statistics.running, statistics.before, strict=True):
                        now.copy_(before)


_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: tuple(inspect.signature(F.batch_norm).parameters),
    torch.batch_norm: (
        *("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled"),
    ),
}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _input(batch: Any) -> Any:
    """The input of a batch. Raises ``TypeError`` where there is none."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not tensors(inputs):
        raise TypeError(f"a batch must be an input of tensors or a pair (input, target), not {describe(batch)}")
    return inputs


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    return tuple(_moved(value, device) for value in inputs) if isinstance(inputs, (tuple, list)) else inputs
