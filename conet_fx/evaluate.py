"""Networks trained to the end with one recipe: what the search found beside what it is measured against.

The recipe is the paper's (A.3) in proportion, see :class:`EvaluationConfig`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_fabric import Fabric
from torch import fx, nn

from conet_fx.data import DataSet, loaders
from conet_fx.final import EvaluationConfig, FinalTraining
from conet_fx.plan import ChannelPlan
from conet_fx.saving import save
from conet_fx.search.checkpoint import Saver, discard_checkpoints, read_checkpoint
from conet_fx.search.distributed import Distributed
from conet_fx.search.history import Evaluation
from conet_fx.search.randomness import reproducible, seed_everything
from conet_fx.search.run_dir import FOUND, RunDirectory
from conet_fx.search.signals import Signals
from conet_fx.search.task import cost_per_sample
from conet_fx.search.training import test_accuracy

RIVALS = frozenset({"found", "start", "uniform"})
UNDER_WAY = "final"  # of a run directory: the final training that is not done yet


def rivals(plan: ChannelPlan, found: Mapping[str, int], round_to: int = 1) -> dict[str, dict[str, int]]:
    """The networks to compare: "found", "start" (as handed in) and "uniform" (one width, as many parameters)."""
    own = {group.name: group.size for group in plan.free}
    return {"found": dict(found), "start": own, "uniform": uniform_sizes(plan, plan.cost(found).params, round_to)}


def uniform_sizes(plan: ChannelPlan, params: int, round_to: int = 1) -> dict[str, int]:
    """One width for all free groups, so that the parameters come as near to ``params`` as its quantum allows."""

    def at(width: int) -> dict[str, int]:
        return {group.name: group.nearest(width, round_to) for group in plan.free}

    low, high = 1, 2
    while plan.cost(at(high)).params < params:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plan.cost(at(middle)).params < params else (low, middle)
    return min((at(low), at(high)), key=lambda sizes: abs(plan.cost(sizes).params - params))


def evaluate(
    label: str,
    sizes: Mapping[str, int],
    plan: ChannelPlan,
    data: DataSet,
    config: EvaluationConfig,
    fabric: Fabric,
    *,
    batch_size: int = 128,
    workers: int = 0,
    on_device: bool = False,
    init_fn: Callable[[nn.Module], Any] | None = None,
    known: Sequence[Evaluation] = (),
    on_seed: Callable[[Evaluation, fx.GraphModule], None] = lambda evaluation, network: None,
    run_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
) -> tuple[Evaluation, fx.GraphModule | None]:
    """Train the network of ``sizes`` once for each seed: the record, and the trained network of the first seed.

    Seeds that ``known`` has of the same network and recipe are not trained again (None for the network of the first
    then). ``on_seed`` gets the record so far and the network after each seed that was trained.

    With ``run_dir`` the training under way is saved there after an epoch now and then, as ``checkpoint_seconds`` of a
    search says, and a call of the same network, recipe and seed goes on with it: on a CPU with the bits of one that
    was not cut off. SIGINT and SIGTERM then let the epoch under way end first.
    """
    blank = _blank(label, sizes, plan, config, batch_size)
    done: dict[int, float] = {}
    for each in known:
        if _alike(each, blank):
            done.update(zip(each.seeds, each.accuracies, strict=True))

    def record() -> Evaluation:
        seeds = tuple(seed for seed in config.seeds if seed in done)
        return dataclasses.replace(blank, seeds=seeds, accuracies=tuple(done[seed] for seed in seeds))

    first: fx.GraphModule | None = None
    for seed in config.seeds:
        if seed in done:
            continue
        model, done[seed] = _train(
            dataclasses.replace(blank, seeds=(seed,)),
            plan,
            data,
            config,
            fabric,
            batch_size=config.batch_size or batch_size,
            workers=workers,
            on_device=on_device,
            init_fn=init_fn,
            store=None if run_dir is None else RunDirectory(run_dir),
            checkpoint_seconds=checkpoint_seconds,
        )
        first = model if seed == config.seeds[0] else first
        on_seed(record(), model)
    return record(), first


def _blank(
    label: str, sizes: Mapping[str, int], plan: ChannelPlan, config: EvaluationConfig, batch_size: int
) -> Evaluation:
    """The record of a network that no seed has trained yet."""
    cost = cost_per_sample(plan, sizes)
    return Evaluation(label, dict(sizes), cost.params, cost.macs, (), (), config.epochs, config.words(batch_size))


def _alike(first: Evaluation, second: Evaluation) -> bool:
    """Whether both are of one network and one recipe; the seeds may differ."""
    return dataclasses.replace(first, accuracies=(), seeds=()) == dataclasses.replace(second, accuracies=(), seeds=())


def evaluate_rivals(
    run: RunDirectory,
    plan: ChannelPlan,
    found: Mapping[str, int],
    model_id: Mapping[str, str],
    data: DataSet,
    config: EvaluationConfig,
    fabric: Fabric,
    *,
    round_to: int = 1,
    batch_size: int = 128,
    workers: int = 0,
    on_device: bool = False,
    tell: Callable[[str], None] = lambda words: None,
) -> None:
    """Train the ``found`` network and its :func:`rivals` to the end, and save the record in ``run`` after each seed.

    The found network of the first seed is saved too. Seeds that ``run`` has already are not trained again. ``tell``
    gets a line for each seed.
    """
    known = run.evaluations()
    networks = rivals(plan, found, round_to)
    blanks = {label: _blank(label, sizes, plan, config, batch_size) for label, sizes in networks.items()}
    # what was trained otherwise must not be compared with what is trained now
    records = {each.label: each for each in known if each.label not in blanks or _alike(each, blanks[each.label])}

    def keep(evaluation: Evaluation, trained: fx.GraphModule) -> None:
        if not fabric.is_global_zero:
            return
        if evaluation.label == "found" and evaluation.seeds == config.seeds[:1]:
            save(trained.cpu(), plan, run.path / FOUND, model_id=model_id)
        records[evaluation.label] = evaluation
        run.save_evaluations(list(records.values()))
        accuracy = f"{100 * evaluation.accuracies[-1]:.2f} %"
        tell(f"final training: {evaluation.label}, {config.epochs} epochs, seed {evaluation.seeds[-1]}: {accuracy}")

    for label, sizes in networks.items():
        records[label], _ = evaluate(
            label,
            sizes,
            plan,
            data,
            config,
            fabric,
            batch_size=batch_size,
            workers=workers,
            on_device=on_device,
            known=known,
            on_seed=keep,
            run_dir=run.path / UNDER_WAY,
        )
    if fabric.is_global_zero:
        run.save_evaluations(list(records.values()))


def _train(
    record: Evaluation,
    plan: ChannelPlan,
    data: DataSet,
    config: EvaluationConfig,
    fabric: Fabric,
    *,
    batch_size: int,
    workers: int,
    on_device: bool,
    init_fn: Callable[[nn.Module], Any] | None,
    store: RunDirectory | None,
    checkpoint_seconds: float,
) -> tuple[fx.GraphModule, float]:
    """Train the network of ``record`` with its one seed; the trained network and its test accuracy."""
    [seed] = record.seeds
    together = Distributed(fabric)
    device, part = fabric.device if on_device else None, (fabric.global_rank, fabric.world_size)
    train, test = loaders(data.with_cutout(config.cutout), batch_size, seed, workers, device=device, part=part)
    train = together.share(train)
    with reproducible(train, fabric.device), Signals() if store else contextlib.nullcontext() as signals:
        seed_everything(seed, 0, train)
        network = plan.resize(record.sizes, init="reset", init_fn=init_fn)
        training = FinalTraining(network, train, config, fabric, dataclasses.asdict(record))
        if store is None or signals is None:
            training.run(lambda ended: None)
        else:
            found = together.from_first(lambda: read_checkpoint(store, lambda kept: training.fits(kept.state)))
            if found is not None:
                training.load(found.state)
            training.run(Saver(store if together.first else None, together, checkpoint_seconds, signals).of(training))
        accuracy = test_accuracy(training.model, test, fabric)
        if signals is not None:
            signals.act()  # one that came after the last epoch
    if store is not None and together.first:
        discard_checkpoints(store)
    return network, accuracy
