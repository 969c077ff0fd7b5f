"""One epoch of training."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from conet_fx.errors import SearchError
from conet_fx.search.batches import Loss, run_on, split, tensors
from conet_fx.search.config import SearchConfig


@dataclasses.dataclass
class Tally:
    """What an epoch has seen so far: the optimizer's steps, and an entry for each batch of this process."""

    steps: int = 0
    losses: list[Tensor] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)
    hits: list[Tensor] = dataclasses.field(default_factory=list)

    def add(self, loss: Tensor, output: Any, target: Any) -> None:
        self.losses.append(loss.detach())
        self.counts.append(len(target) if isinstance(target, Tensor) and target.ndim else 1)
        hits = top1(output, target)
        if hits is not None:
            self.hits.append(hits)

    def state(self) -> dict[str, Any]:
        """Four tensors and numbers on the CPU, however many batches there were."""
        losses, hits = (torch.stack(values).cpu() if values else None for values in (self.losses, self.hits))
        return {"steps": self.steps, "losses": losses, "counts": torch.tensor(self.counts), "hits": hits}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Self:
        """What :meth:`state` gave, its tensors on ``device``."""
        losses, hits = (
            [] if values is None else list(values.to(device).unbind()) for values in (state["losses"], state["hits"])
        )
        return cls(state["steps"], losses, state["counts"].tolist(), hits)

    def mean(self, fabric: Fabric, where: str) -> tuple[float, float | None]:
        """Mean loss over the samples of all processes, and top-1 accuracy where each batch has it.

        Raises :class:`SearchError` in each of them where a loss of any is not finite.
        """
        if not self.losses:
            raise SearchError(f"{where}: the loader gave no batch")
        values = torch.stack(self.losses).double().cpu()
        counts = torch.tensor(self.counts)
        hits = float(torch.stack(self.hits).sum()) if len(self.hits) == len(self.losses) else float("nan")
        bad = (~values.isfinite()).nonzero()
        sums = torch.stack([(values * counts).sum(), counts.sum().double(), torch.tensor(hits, dtype=torch.float64)])
        if fabric.world_size > 1:
            sums = torch.as_tensor(fabric.all_reduce(sums.to(fabric.device), reduce_op="sum")).cpu()
        if len(bad):
            first = int(bad[0])
            raise SearchError(
                f"the loss is {float(values[first])} in {where}, batch {first + 1}: lower the learning rate (lr), "
                "check the inputs for NaN, or use precision='32-true'"
            )
        loss, total, correct = sums.tolist()
        if loss - loss != 0:
            raise SearchError(f"the loss is not finite in {where}, in another process: see what that one says")
        return loss / total, correct / total if correct == correct else None


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Iterable[Any],
    fabric: Fabric,
    loss_fn: Loss,
    where: str,
    *,
    config: SearchConfig | None = None,
    tally: Tally | None = None,
    on_start: Callable[[], object] = lambda: None,
    on_resume: Callable[[], object] = lambda: None,
    after_step: Callable[[], object] = lambda: None,
) -> tuple[float, float | None]:
    """Train one epoch. Returns the mean loss over samples, and the top-1 accuracy where targets are class indices.

    Args:
        config: of it, ``accumulate``, ``clip_norm`` and ``channels_last`` count.
        tally: of the steps of this epoch that are done already: their batches are passed over.
        on_start: called before the first batch is asked for, once the loader has started its processes.
        on_resume: called when the batches of the steps done already have been passed over.
        after_step: called after each step.

    Raises:
        SearchError: naming ``where`` and the first batch whose loss is not finite. The check costs one
            synchronisation with the device an epoch.
    """
    config = config or SearchConfig()
    tally = Tally() if tally is None else tally
    model.train()
    steps = _grouped(iter(loader), config.accumulate)
    on_start()
    if tally.steps:
        for _ in itertools.islice(steps, tally.steps):
            pass
        on_resume()
    for batches in steps:
        optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches, start=1):
            inputs, target = split(fabric.to_device(batch))
            if config.channels_last:
                inputs = _channels_last(inputs)
            with _without_sync(model, fabric) if number < len(batches) else contextlib.nullcontext():
                output = run_on(model, inputs)
                loss = loss_fn(output, target)
                fabric.backward(loss / len(batches) if len(batches) > 1 else loss)
            tally.add(loss, output, target)
        if config.clip_norm is not None:
            fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        tally.steps += 1
        after_step()
    return tally.mean(fabric, where)


def _grouped(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """The batches of one step after the other; the last step may have fewer."""
    while group := list(itertools.islice(batches, size)):
        yield group


def _without_sync(model: nn.Module, fabric: Fabric) -> contextlib.AbstractContextManager[Any]:
    """Gradients stay in their process: the last batch of a step hands on the sum."""
    return fabric.no_backward_sync(model) if fabric.world_size > 1 else contextlib.nullcontext()  # type: ignore[arg-type]


def _channels_last(inputs: Any) -> Any:
    """Images [N, C, H, W] among the inputs, with the channels last in memory."""
    if isinstance(inputs, Tensor):
        return inputs.to(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
    if not tensors(inputs):
        return inputs
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_channels_last(item) for item in inputs)
    return {name: _channels_last(item) for name, item in inputs.items()}


def top1(output: Any, target: Any) -> Tensor | None:
    """How many samples have their class as the largest output; None where targets are not one class a sample."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
        return None
    if output.ndim != 2 or target.ndim != 1 or target.is_floating_point():
        return None
    return (output.detach().argmax(1) == target).sum()


@torch.no_grad()
def test_accuracy(model: nn.Module, loader: Iterable[Any], fabric: Fabric) -> float:
    """Top-1 accuracy in [0, 1] over all samples of ``loader``, in eval mode; of several outputs the first counts."""
    model.eval()
    hits, count = 0, 0
    for batch in loader:
        inputs, target = split(fabric.to_device(batch))
        output = run_on(model, inputs)
        correct = top1(output[0] if isinstance(output, (tuple, list)) else output, target)
        if correct is None:
            raise SearchError("test accuracy needs a model with one output a class and one class index a sample")
        hits += int(correct)
        count += len(target)
    return hits / count
