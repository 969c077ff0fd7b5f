"""Runs as a search would leave them: made-up ranks, but decided by the real rules."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping

from conet_fx.probe import LayerMetrics, rank_slope
from conet_fx.report import Run
from conet_fx.search.config import SearchConfig
from conet_fx.search.decisions import GroupState, decide, reason
from conet_fx.search.history import Epoch, Evaluation, GroupTrial, Trial

RESNET18 = {
    "conv1": ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
    "layer1.0.conv1": ("layer1.0.conv1",),
    "layer1.1.conv1": ("layer1.1.conv1",),
    "layer2.0.conv1": ("layer2.0.conv1",),
    "layer2.0.conv2": ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2"),
    "layer2.1.conv1": ("layer2.1.conv1",),
    "layer3.0.conv1": ("layer3.0.conv1",),
    "layer3.0.conv2": ("layer3.0.conv2", "layer3.0.shortcut.0", "layer3.1.conv2"),
    "layer3.1.conv1": ("layer3.1.conv1",),
    "layer4.0.conv1": ("layer4.0.conv1",),
    "layer4.0.conv2": ("layer4.0.conv2", "layer4.0.shortcut.0", "layer4.1.conv2"),
    "layer4.1.conv1": ("layer4.1.conv1",),
}
RESNET18_SIZES = (64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512)
FROZEN = {"x": "network input", "fc": "network output"}


def deep_groups(number: int) -> tuple[dict[str, tuple[str, ...]], tuple[int, ...]]:
    """The groups of a network of many cells, with the long module paths that such networks have."""
    names = [f"cells.{n // 8}.nodes.{n % 8}.branch.separable.pointwise" for n in range(number)]
    return {name: (name,) for name in names}, (32,) * number


def ranks(size: int, demand: float, epochs: int, rng: random.Random) -> tuple[float, ...]:
    """Mean rank by epoch: it climbs towards what the data demand, faster where the group is too narrow."""
    ceiling = min(0.85, 0.1 + 0.35 * demand / size)
    curve = [ceiling * (1 - math.exp(-(t + 0.4) / (0.3 * epochs))) for t in range(epochs)]
    return tuple(min(1.0, max(0.0, r + rng.gauss(0, 0.006))) for r in curve)


def cost(sizes: Mapping[str, int]) -> tuple[int, int]:
    """Parameters and MACs of a chain of 3x3 convolutions, on images that shrink with depth."""
    widths = list(sizes.values())
    params = macs = 27 * widths[0]
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        params += 9 * before * after
        macs += 9 * before * after * (32 >> (3 * index // len(widths))) ** 2
    return params, macs


def synthetic_run(
    groups: Mapping[str, tuple[str, ...]] = RESNET18,
    sizes: tuple[int, ...] = RESNET18_SIZES,
    *,
    trials: int = 8,
    epochs: int = 5,
    delta: float = 0.07,
    model: str = "resnet18_cifar",
    data: str = "digits",
    accuracies: Mapping[str, tuple[float, ...]] | None = None,
) -> Run:
    """A search of ``groups`` with two frozen ones beside them; ``accuracies`` are keyed by label."""
    rng = random.Random(0)
    config = SearchConfig(delta=delta, trials=trials, epochs_per_trial=epochs, lr=0.03, mu=18.0)
    demands = {name: 25 + 75 * abs(math.sin(2.5 * n)) * (1 - 0.6 * n / len(groups)) for n, name in enumerate(groups)}
    states = {name: GroupState(32, phi=config.phi) for name in groups}
    history = []
    for number in range(1, trials + 1):
        present = {name: state.size for name, state in states.items()}
        decided: dict[str, GroupTrial] = {}
        for name, state in states.items():
            curve = ranks(state.size, demands[name], epochs, rng)
            slope, condition = rank_slope(curve), 4 + 0.07 * state.size + abs(rng.gauss(0, 3))
            states[name] = after = decide(state, slope, condition, config)
            assert after.last_action is not None
            decided[name] = GroupTrial(
                state.size,
                curve,
                slope,
                condition,
                after.last_action,
                after.phi,
                after.size,
                reason(state, slope, condition, config),
            )
        params, macs = cost(present)
        training = tuple(
            Epoch(
                number=t,
                loss=2.2 / (1 + t) * (params / 1e5) ** -0.2,
                accuracy=1 - 0.85 / (1 + t) * (params / 1e5) ** -0.1,
                learning_rates=dict.fromkeys(groups, 0.03),
                layers={name: LayerMetrics(0.3, 0.3, 5.0, 5.0, 0.1, 0.1, 0.9, 0.9) for name in groups},
                seconds=4.0,
            )
            for t in range(1, epochs + 1)
        )
        history.append(Trial(number, present, params, macs, training, decided, 4.5 * epochs))
    initial = dict(zip(groups, sizes, strict=True))
    found = {name: state.size for name, state in states.items()}
    scale = math.sqrt(cost(found)[0] / cost(initial)[0])
    networks = {
        "found": found,
        "start": initial,
        "uniform": {name: round(size * scale) for name, size in initial.items()},
    }
    if accuracies is None:
        accuracies = {
            "found": (0.9861, 0.9889, 0.9875, 0.9903, 0.9878),
            "start": (0.9889, 0.9861, 0.9894, 0.9906, 0.9875),
            "uniform": (0.9806, 0.9833, 0.9819, 0.9842, 0.9811),
        }
    return Run(
        model=model,
        data=data,
        config=dataclasses.asdict(config),
        trials=history,
        evaluations=[
            Evaluation(label, networks[label], *cost(networks[label]), values, tuple(range(len(values))), 30)
            for label, values in accuracies.items()
        ],
        initial_sizes={"x": 3, **initial, "fc": 10},
        frozen=FROZEN,
        groups={"x": (), **groups, "fc": ("fc",)},
    )
