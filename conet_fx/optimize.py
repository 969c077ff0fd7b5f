"""optimize(): the whole method in one call. The loop below is the paper's Algorithm 2."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import fx, nn
from torch.fx.node import map_aggregate

from conet_fx import recipe
from conet_fx.errors import SearchError
from conet_fx.plan import ChannelPlan, Cost, analyze
from conet_fx.report.network import save_network
from conet_fx.report.observer import Observer, told
from conet_fx.report.progress import Progress
from conet_fx.search.batches import (
    Loss,
    check_targets,
    first_batch,
    reproducible,
    samples,
    seed_everything,
)
from conet_fx.search.config import DEFAULT_DELTA, SearchConfig
from conet_fx.search.history import Trial
from conet_fx.search.judge import judge, resumed, sizes_of, start
from conet_fx.search.result import SearchResult
from conet_fx.search.run_dir import RunDirectory
from conet_fx.search.training import make_fabric, run_trial

SAMPLES = 2  # traced together: batch norm in train mode needs more than one


def optimize(
    model: nn.Module,
    loader: Iterable[Any],
    delta: float = DEFAULT_DELTA,
    *,
    config: SearchConfig | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    fabric: Fabric | None = None,
    loss_fn: Loss | None = None,
    init_fn: Callable[[nn.Module], Any] | None = None,
    progress: bool = True,
    observers: Sequence[Observer] = (),
    **overrides: Any,
) -> SearchResult:
    """Find the channel size of every layer of ``model`` by training on ``loader`` (paper Algorithm 2).

    Repeats short trials: train a candidate from fresh weights, measure how fast the rank of each weight grows, grow the
    channel groups that still rise and shrink the others, until all have settled. The caller's model, all random states
    and the generators of the loader are left as they were. On a CPU the result repeats bit for bit.

    Args:
        model: any module that torch.fx can trace (with the help of :mod:`conet_fx.passes.trace`).
        loader: gives (input, target) batches, anew each time it is iterated. The input is a tensor, or a tuple or dict
            of tensors for a model with several inputs.
        delta: slope threshold in ranks an epoch; small values give large networks.
        config: all settings; ``delta`` and ``overrides`` (its fields by name) go before it.
        run_dir: a directory for the history; with ``resume`` a search goes on after its last finished trial.
        fabric: a Lightning Fabric to train with, in place of the one that ``config`` describes.
        loss_fn: a callable of (output, target); cross entropy when left out.
        init_fn: applied to each module of a fresh candidate, after ``reset_parameters``.
        progress: show a live line in a terminal, a plain line for each trial elsewhere.
        observers: told of every epoch and trial, say :class:`conet_fx.report.TensorBoard`.

    Raises:
        TypeError, ValueError: a bad argument; TraceError: a model that cannot be traced; SearchError: nothing to
            resize, a model that is traced in pieces, targets that do not fit, a run directory that cannot be used, a
            loss or weight that is not finite. All but the last before any training.
    """
    config = SearchConfig.build(config, delta, overrides)
    fabric = fabric or make_fabric(config)
    if fabric.world_size > 1:
        raise ValueError(f"fabric has {fabric.world_size} processes, and a search runs in one for now: use devices=1")
    inputs, target = first_batch(loader)
    plan = analyze(model, samples(inputs, SAMPLES), tie_concat=config.tie_concat, resize_linear=config.resize_linear)
    if not plan.free:
        raise SearchError(f"there is nothing to resize: {plan.explain()}")
    if plan.trace.pieces:
        raise SearchError(
            f"the model cannot be traced as a whole ({plan.trace.pieces.reason}), and a search needs its graph. Search "
            f"one of its pieces ({', '.join(plan.trace.pieces.paths)}), or resize it with analyze() and plan.resize()"
        )
    if loss_fn is None:
        check_targets(_output(plan), target)
    run, history = _open(run_dir, model, plan, config, resume)

    states = {group.name: start(group, config) for group in plan.free}
    for trial in history:
        states = {name: resumed(record) for name, record in trial.groups.items()}
    for observer in observers:
        observer.begin(history)
    candidate = None
    with (
        reproducible(loader),
        Progress(enabled=progress, trials=config.trials, epochs=config.epochs_per_trial) as display,
    ):
        for number in range(len(history) + 1, config.trials + 1):
            if all(state.stopped for state in states.values()):
                break
            seed_everything(config.seed, number, loader)
            sizes = sizes_of(states)
            candidate = plan.resize(sizes, init="reset", init_fn=init_fn)
            cost = per_sample(plan.cost(sizes))
            display.trial(number, cost.params, sum(not state.stopped for state in states.values()))

            epochs = run_trial(
                candidate,
                loader,
                config,
                fabric,
                loss_fn or F.cross_entropy,
                number,
                told(display, observers, number),
            )
            verdicts = {group.name: judge(group, states[group.name], epochs, config) for group in plan.free}
            states = {name: state for name, (state, _) in verdicts.items()}
            seconds = sum(epoch.seconds for epoch in epochs)
            records = {name: record for name, (_, record) in verdicts.items()}
            history.append(Trial(number, sizes, cost.params, cost.macs, epochs, records, seconds))
            if run is not None:
                run.save_history(history)
            for observer in observers:
                observer.trial(history[-1])

        sizes = sizes_of(states)
        seed_everything(config.seed, 0, loader)
        if config.weights == "trained" and candidate is not None:
            trained = analyze(
                candidate,
                samples(inputs, SAMPLES),
                tie_concat=config.tie_concat,
                resize_linear=config.resize_linear,
            )
            found = trained.resize(sizes, init="inherit")
        else:
            found = plan.resize(sizes, init="reset", init_fn=init_fn)
    cost = per_sample(plan.cost(sizes))
    return SearchResult(found, sizes, plan, history, cost, recipe.identify(model))


def per_sample(cost: Cost) -> Cost:
    """The cost of one of the :data:`SAMPLES` that a plan was traced with."""
    return Cost(cost.params, cost.macs // SAMPLES)


def _output(plan: ChannelPlan) -> Any:
    """The value that the traced network returns, on the meta device."""
    returned = plan.trace.graph_module.graph.output_node().args[0]
    return map_aggregate(returned, lambda a: a.meta["val"] if isinstance(a, fx.Node) else a)


def _open(
    run_dir: str | os.PathLike[str] | None, model: nn.Module, plan: ChannelPlan, config: SearchConfig, resume: bool
) -> tuple[RunDirectory | None, list[Trial]]:
    if run_dir is None:
        if resume:
            raise ValueError("resume=True needs run_dir, the directory of the run to go on with")
        return None, []
    run, history = RunDirectory.open(run_dir, recipe.identify(model), plan.groups, dataclasses.asdict(config), resume)
    save_network(run, plan)
    return run, history
