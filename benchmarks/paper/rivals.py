"""Other ways to choose widths, with as many parameters: what a searched network must beat."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from conet_fx.evaluate import uniform_sizes
from conet_fx.plan import ChannelPlan

Sizes = dict[str, int]


def rivals(plan: ChannelPlan, params: int, seed: int, round_to: int) -> dict[str, Sizes]:
    """Constant width, the model's own widths times a factor, and random widths; each of about ``params`` parameters."""
    return {
        "constant": uniform_sizes(plan, params, round_to),
        "scaled": scaled_widths(plan, params, round_to),
        "random": random_widths(plan, params, seed, round_to),
    }


def scaled_widths(plan: ChannelPlan, params: int, round_to: int = 1) -> Sizes:
    """The model's own widths times one factor."""
    return nearest(plan, params, {group.name: float(group.size) for group in plan.free}, round_to)


def random_widths(plan: ChannelPlan, params: int, seed: int, round_to: int = 1, spread: float = 4.0) -> Sizes:
    """Widths in proportions that are drawn log-uniformly from [1, ``spread``], one for each free group."""
    draw = random.Random(seed)
    return nearest(plan, params, {group.name: spread ** draw.random() for group in plan.free}, round_to)


def transferred(found: Mapping[str, int], plan: ChannelPlan, other: ChannelPlan) -> Sizes:
    """The sizes found for the network of ``plan`` for that of ``other``, which may have another stem.

    Groups of the same name get the same size; the others keep their own, times the mean factor (geometric) by which the
    search changed the groups of ``plan``.
    """
    own = {group.name: group.size for group in plan.free}
    factor = math.exp(sum(math.log(found[name] / own[name]) for name in own) / len(own))
    return {
        group.name: group.nearest(found.get(group.name, max(1, round(factor * group.size))), 1) for group in other.free
    }


def nearest(plan: ChannelPlan, params: int, proportions: Mapping[str, float], round_to: int = 1) -> Sizes:
    """Sizes in these proportions, rounded to what each group allows, with parameters as near to ``params`` as possible.

    Raises ValueError where no free group is left to change.
    """
    if not proportions:
        raise ValueError("no free group: nothing can be scaled")

    def at(factor: float) -> Sizes:
        return {
            group.name: group.nearest(max(1, round(proportions[group.name] * factor)), round_to) for group in plan.free
        }

    def too_small(factor: float) -> bool:
        return plan.cost(at(factor)).params < params

    low, high = _bracket(too_small)
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return min((at(low), at(high)), key=lambda sizes: abs(plan.cost(sizes).params - params))


def _bracket(too_small: Callable[[float], bool]) -> tuple[float, float]:
    low, high = 1e-6, 1.0
    while too_small(high):
        low, high = high, 2 * high
    return low, high
