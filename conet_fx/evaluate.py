"""Networks trained to the end with one recipe: what the search found beside what it is measured against.

The recipe is the paper's (A.3) in proportion: SGD with momentum 0.9, the learning rate halved after each tenth of the
epochs (25 of 250 there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import fx, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from conet_fx.data import DataSet, loaders
from conet_fx.plan import ChannelPlan
from conet_fx.saving import save
from conet_fx.search.distributed import Distributed
from conet_fx.search.history import Evaluation
from conet_fx.search.randomness import reproducible, seed_everything
from conet_fx.search.run_dir import FOUND, RunDirectory
from conet_fx.search.task import cost_per_sample
from conet_fx.search.training import test_accuracy, train_epoch


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How networks are trained to the end.

    Args:
        epochs: training epochs, >= 1; the learning rate is halved after each tenth of them.
        seeds: one training run each, for the mean and the spread.
        lr: first learning rate, > 0.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, >= 0.

    Raises:
        ValueError: a number out of range, or no seed.
    """

    epochs: int = 250
    seeds: tuple[int, ...] = (0, 1, 2)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("epochs", self.epochs >= 1, "an integer >= 1"),
            (
                "seeds",
                len(self.seeds) >= 1 and len(set(self.seeds)) == len(self.seeds),
                "one or more different integers",
            ),
            ("lr", 0 < self.lr < float("inf"), "a number > 0"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "a number >= 0"),
        ):
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: write {wanted}")


RIVALS = frozenset({"found", "start", "uniform"})


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
) -> tuple[Evaluation, fx.GraphModule | None]:
    """Train the network of ``sizes`` once for each seed: the record, and the trained network of the first seed.

    Seeds that ``known`` has of the same network and recipe are not trained again (None for the network of the first
    then). ``on_seed`` gets the record so far and the network after each seed that was trained.
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
        model, done[seed] = _train(sizes, plan, data, config, fabric, seed, batch_size, workers, on_device, init_fn)
        first = model if seed == config.seeds[0] else first
        on_seed(record(), model)
    return record(), first


def _blank(
    label: str, sizes: Mapping[str, int], plan: ChannelPlan, config: EvaluationConfig, batch_size: int
) -> Evaluation:
    """The record of a network that no seed has trained yet."""
    cost = cost_per_sample(plan, sizes)
    how = (
        f"SGD, lr {config.lr:g}, momentum {config.momentum:g}, weight decay {config.weight_decay:g}, batch {batch_size}"
    )
    return Evaluation(label, dict(sizes), cost.params, cost.macs, (), (), config.epochs, how)


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
        )
    if fabric.is_global_zero:
        run.save_evaluations(list(records.values()))


def _train(
    sizes: Mapping[str, int],
    plan: ChannelPlan,
    data: DataSet,
    config: EvaluationConfig,
    fabric: Fabric,
    seed: int,
    batch_size: int,
    workers: int,
    on_device: bool,
    init_fn: Callable[[nn.Module], Any] | None,
) -> tuple[fx.GraphModule, float]:
    device, part = fabric.device if on_device else None, (fabric.global_rank, fabric.world_size)
    train, test = loaders(data, batch_size, seed, workers, device=device, part=part)
    train = Distributed(fabric).share(train)
    with reproducible(train, fabric.device):
        seed_everything(seed, 0, train)
        network = plan.resize(sizes, init="reset", init_fn=init_fn)
        sgd = SGD(network.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        schedule = LambdaLR(sgd, lambda epoch: 0.5 ** (10 * epoch // config.epochs))
        model, optimizer = fabric.setup(network, sgd)
        for epoch in range(1, config.epochs + 1):
            Distributed.set_epoch(train, epoch)
            train_epoch(model, optimizer, train, fabric, F.cross_entropy, f"final training, epoch {epoch}")
            schedule.step()
        return network, test_accuracy(model, test, fabric)
