"""static_scale(): sizes from the ranks of one trained baseline (paper section 3, Eq. 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from conet_fx import recipe
from conet_fx.plan import ChannelGroup
from conet_fx.report.observer import told
from conet_fx.report.progress import Progress
from conet_fx.search.batches import Loss
from conet_fx.search.config import SearchConfig
from conet_fx.search.distributed import Distributed, launch, make_fabric
from conet_fx.search.history import Trial
from conet_fx.search.hooks import Hooks, TrainEpoch
from conet_fx.search.judge import sizes_of, start
from conet_fx.search.randomness import reproducible, seed_everything
from conet_fx.search.result import SearchResult
from conet_fx.search.static import static_sizes
from conet_fx.search.task import Task, cost_per_sample
from conet_fx.search.trial import TrialTraining


def static_scale(
    model: nn.Module,
    loader: Iterable[Any],
    scale: float,
    *,
    config: SearchConfig | None = None,
    fabric: Fabric | None = None,
    example_inputs: Any = None,
    loss_fn: Loss | None = None,
    optimizer_fn: Callable[[nn.Module], Optimizer] | None = None,
    scheduler_fn: Callable[[Optimizer], LRScheduler] | None = None,
    train_epoch: TrainEpoch | None = None,
    init_fn: Callable[[nn.Module], Any] | None = None,
    progress: bool = True,
    **overrides: Any,
) -> SearchResult:
    """Train ``model`` once as a baseline and keep of each channel group what its rank uses (paper Eq. 4).

    A group of C channels with the largest output rank O of its writers gets C (O + (1 - s) (1 - O)) of them. No group
    grows. The baseline is the one trial in the ``history`` of the result, so that other scales need no other training:
    ``conet_fx.search.static_sizes(result.plan, result.history[0].epochs[-1].layers, 0.5)``.

    Args:
        scale: s in [0, 1]; the paper has 0.2 to 1.
        config: its settings of training count, among them ``epochs_per_trial``, and ``initial_channels``: the width of
            the baseline, or None, which is the default here, for the model's own. ``overrides``: its fields by name.

    The other arguments, what is raised and what is left alone: as for :func:`conet_fx.optimize`.

    Raises:
        ValueError: a scale outside [0, 1].
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"scale={scale!r}: write a number in [0, 1]; the paper tries 0.2 to 1")
    config = SearchConfig.build(config or SearchConfig(initial_channels=None), None, overrides)
    hooks = Hooks(loss_fn, optimizer_fn, scheduler_fn, train_epoch, init_fn)
    together = Distributed(launch(fabric) if fabric else make_fabric(config))
    loader = together.share(loader)
    task = Task.of(model, loader, config, hooks, example_inputs)
    plan = task.plan
    sizes = sizes_of({group.name: start(group, config, task.measured) for group in plan.free})
    with (
        reproducible(loader, together.fabric.device),
        Progress(enabled=progress and together.first, trials=1, epochs=config.epochs_per_trial) as display,
    ):
        seed_everything(config.seed, 1, loader)
        baseline = plan.resize(sizes, init_fn=init_fn)
        cost = cost_per_sample(plan, sizes)
        seed_everything(config.seed, 1, loader, together.fabric.global_rank)
        display.trial(1, cost.params, len(plan.free))
        training = TrialTraining(baseline, loader, config, together.fabric, hooks, 1)
        epochs = training.run(told(display, (), 1), lambda ended: None)
        trial = Trial(1, sizes, cost.params, cost.macs, epochs, {}, sum(epoch.seconds for epoch in epochs))

        groups = [dataclasses.replace(group, size=sizes.get(group.name, group.size)) for group in plan.groups]
        scaled = static_sizes(_Baseline(groups), epochs[-1].layers, scale)
        found = {group.name: scaled[group.name] for group in plan.free}
        seed_everything(config.seed, 0, loader)
        network = plan.resize(found, init_fn=init_fn)
    return SearchResult(network, found, plan, [trial], cost_per_sample(plan, found), recipe.identify(model))


@dataclasses.dataclass(frozen=True)
class _Baseline:
    """The groups of a plan with the sizes of the baseline."""

    groups: Sequence[ChannelGroup]
