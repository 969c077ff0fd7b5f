"""optimize(): the whole method in one call. The loop below is the paper's Algorithm 2."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from conet_fx import recipe
from conet_fx.journal import Journal
from conet_fx.report.observer import Observer
from conet_fx.search.batches import Loss
from conet_fx.search.config import DEFAULT_DELTA, SearchConfig
from conet_fx.search.decisions import GroupState
from conet_fx.search.distributed import Distributed, launch, make_fabric
from conet_fx.search.history import Epoch, GroupTrial, Trial
from conet_fx.search.hooks import Hooks, TrainEpoch
from conet_fx.search.judge import judge, resumed, sizes_of, start, within_budget
from conet_fx.search.randomness import reproducible, seed_everything
from conet_fx.search.result import SearchResult
from conet_fx.search.task import Task, cost_per_sample
from conet_fx.search.trial import TrialTraining


def optimize(
    model: nn.Module,
    loader: Iterable[Any],
    delta: float = DEFAULT_DELTA,
    *,
    config: SearchConfig | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    fabric: Fabric | None = None,
    example_inputs: Any = None,
    loss_fn: Loss | None = None,
    optimizer_fn: Callable[[nn.Module], Optimizer] | None = None,
    scheduler_fn: Callable[[Optimizer], LRScheduler] | None = None,
    train_epoch: TrainEpoch | None = None,
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
        model: any module that :mod:`conet_fx.passes.trace` can follow, or large parts of it: of a detector, which is
            traced in pieces, the candidates are copies with the pieces resized inside, and so is the result.
        loader: gives (input, target) batches, anew each time it is iterated. The input is a tensor, or a tuple or dict
            of the inputs of a model with several: for a detector that computes its losses itself ``((images,
            targets), None)``, with ``loss_fn=lambda losses, _: sum(losses.values())``.
        delta: slope threshold in ranks an epoch; small values give large networks.
        config: all settings; ``delta`` and ``overrides`` (its fields by name) go before it.
        run_dir: a directory for the history and the trial under way. With ``resume`` a search that was cut off at any
            moment goes on: on a CPU with the bits of one that was not. While it is given, SIGINT and SIGTERM let the
            step under way end and save it, then raise KeyboardInterrupt or SystemExit(143).
        fabric: a Lightning Fabric to train with, in place of the one that ``config`` describes. With several processes
            (``torchrun``, SLURM, ``devices=2``) a DataLoader is shared out among them; other iterables have to give
            each process its own part. All of them return the same result, the first one writes and shows.
        example_inputs: what the model is traced on, as for :func:`conet_fx.analyze`; the input of the first batch
            when left out. Needed where a batch is no (input, target) pair, which only ``train_epoch`` can take.
        loss_fn: a callable of (output, target); cross entropy when left out.
        optimizer_fn: a callable of a candidate that gives its optimizer; AdaS when left out.
        scheduler_fn: a callable of the optimizer that gives a learning rate schedule, stepped after each epoch, in
            place of the rates of AdaS.
        train_epoch: a callable of (model, optimizer, loader, fabric) that trains one epoch in its own way: it moves
            batches with ``fabric.to_device``, calls ``fabric.backward`` and returns the mean loss, or (mean loss,
            accuracy). A search then is saved after epochs only.
        init_fn: applied to each module of a fresh candidate, after ``reset_parameters``.
        progress: show a live line in a terminal, a plain line for each trial elsewhere.
        observers: told of every epoch and trial, say :class:`conet_fx.report.TensorBoard`.

    Raises:
        TypeError, ValueError: a bad argument; TraceError: a model that cannot be traced; SearchError: nothing to
            resize, targets that do not fit, a run directory that cannot be used, a loss or weight that is not finite,
            memory that ran out. All but these two before any training.
    """
    config = SearchConfig.build(config, delta, overrides)
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the directory of the run to go on with")
    hooks = Hooks(loss_fn, optimizer_fn, scheduler_fn, train_epoch, init_fn)
    together = Distributed(launch(fabric) if fabric else make_fabric(config))
    loader = together.share(loader)
    task = Task.of(model, loader, config, hooks, example_inputs)
    plan, model_id = task.plan, recipe.identify(model)
    journal = Journal(together, plan, config, model_id, run_dir, resume=resume, progress=progress, observers=observers)
    with journal, reproducible(loader, together.fabric.device):
        states = {group.name: start(group, config, task.measured) for group in plan.free}
        for trial in journal.history:
            states = {name: resumed(record) for name, record in trial.groups.items()}
        task.check_budget(sizes_of(states), config)

        while len(journal.history) < config.trials and not all(state.stopped for state in states.values()):
            number = len(journal.history) + 1
            sizes = sizes_of(states)
            seed_everything(config.seed, number, loader)
            candidate = plan.resize(sizes, init="reset", init_fn=init_fn)
            seed_everything(config.seed, number, loader, together.fabric.global_rank)

            cost, moving = cost_per_sample(plan, sizes), sum(not state.stopped for state in states.values())
            training = TrialTraining(candidate, loader, config, together.fabric, hooks, number)
            epochs = journal.train(training, cost.params, moving)

            verdicts = together.from_first(functools.partial(_verdicts, task, states, epochs, config))
            states = {name: state for name, (state, _) in verdicts.items()}
            records = {name: record for name, (_, record) in verdicts.items()}
            seconds = sum(epoch.seconds for epoch in epochs)
            journal.add(Trial(number, sizes, cost.params, cost.macs, epochs, records, seconds), training)

        sizes = sizes_of(states)
        seed_everything(config.seed, 0, loader)
        if config.weights == "trained" and journal.trained is not None:
            last = plan.resize(journal.history[-1].sizes)  # on the CPU, in the model's own precision
            last.load_state_dict(journal.trained)
            found = task.analyze(last).resize(sizes, init="inherit")
        else:
            found = plan.resize(sizes, init="reset", init_fn=init_fn)
    return SearchResult(found, sizes, plan, journal.history, cost_per_sample(plan, sizes), model_id)


def _verdicts(
    task: Task, states: Mapping[str, GroupState], epochs: Sequence[Epoch], config: SearchConfig
) -> dict[str, tuple[GroupState, GroupTrial]]:
    """What becomes of each free group after a trial, and the record of it."""
    verdicts = {group.name: judge(group, states[group.name], epochs, config) for group in task.plan.free}
    return within_budget(task.plan, verdicts, config, lambda sizes: task.fits(sizes, config))
