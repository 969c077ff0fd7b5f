"""Networks trained to the end with one recipe: what the search found beside what it is measured against.

The recipe is the paper's (A.3) in proportion: SGD with momentum 0.9, the learning rate halved after each tenth of the
epochs (25 of 250 there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import fx, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from conet_fx.data import DataSet, loaders
from conet_fx.plan import ChannelPlan
from conet_fx.search.history import Evaluation
from conet_fx.search.randomness import reproducible, seed_everything
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
    init_fn: Callable[[nn.Module], Any] | None = None,
) -> tuple[Evaluation, fx.GraphModule]:
    """Train the network of ``sizes`` once for each seed: the record, and the trained network of the first seed."""
    accuracies = []
    first: fx.GraphModule | None = None
    for seed in config.seeds:
        model, accuracy = _train(sizes, plan, data, config, fabric, seed, batch_size, workers, init_fn)
        first = first or model
        accuracies.append(accuracy)
    cost = cost_per_sample(plan, sizes)
    assert first is not None
    return (
        Evaluation(label, dict(sizes), cost.params, cost.macs, tuple(accuracies), config.seeds, config.epochs),
        first,
    )


def _train(
    sizes: Mapping[str, int],
    plan: ChannelPlan,
    data: DataSet,
    config: EvaluationConfig,
    fabric: Fabric,
    seed: int,
    batch_size: int,
    workers: int,
    init_fn: Callable[[nn.Module], Any] | None,
) -> tuple[fx.GraphModule, float]:
    train, test = loaders(data, batch_size, seed, workers)
    with reproducible(train, fabric.device):
        seed_everything(seed, 0, train)
        network = plan.resize(sizes, init="reset", init_fn=init_fn)
        sgd = SGD(network.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        schedule = LambdaLR(sgd, lambda epoch: 0.5 ** (10 * epoch // config.epochs))
        model, optimizer = fabric.setup(network, sgd)
        for epoch in range(1, config.epochs + 1):
            train_epoch(model, optimizer, train, fabric, F.cross_entropy, f"final training, epoch {epoch}")
            schedule.step()
        return network, test_accuracy(model, test, fabric)
