"""The cost of a plan grows linearly with the network (DESIGN 4, invariant 7).

Counted are calls of Python and C functions, which are the same on every machine and every run, not seconds. A
network of twice the depth may cost twice the calls and a constant share more; quadratic work would cost four
times as many.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conet_fx.plan import ChannelPlan, analyze


class Chain(nn.Module):
    """A stem, then blocks one after the other."""

    def __init__(self, depth: int, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(*[block() for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


class Plain(nn.Module):
    """Every block has a channel group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Residual(Plain):
    """All blocks together are one group."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Joined(nn.Module):
    """Two branches are joined, and the join is summed with a convolution: a depth becomes a sum in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], 1) + self.c(x)


class ResidualOfJoined(Joined):
    """As before, but the sum runs through all blocks: every depth of the trunk becomes the sum of all parts."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Shuffled(nn.Module):
    """Half of the channels are convolved, then all are shuffled (ShuffleNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        n, c, h, w = x.shape
        return torch.cat([a, self.conv(b)], 1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


BLOCKS = [Plain, Residual, Joined, ResidualOfJoined, Shuffled]


def calls(function: Callable[[], Any]) -> int:
    """How many functions a call of ``function`` calls."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())


DEPTH = 20


def growth(work: Callable[[Any], Any], short: Any, long: Any) -> float:
    """How many times the calls of the short one the long one takes, once all caches are filled."""
    work(short), work(long)
    return calls(lambda: work(long)) / calls(lambda: work(short))


def plan_of(model: nn.Module) -> ChannelPlan:
    return analyze(model, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("block", BLOCKS)
def test_analysis_is_linear(block: Callable[[], nn.Module]) -> None:
    assert growth(plan_of, *[Chain(depth, block).eval() for depth in (DEPTH, 2 * DEPTH)]) < 2.3


@pytest.mark.parametrize("block", BLOCKS)
def test_the_use_of_a_plan_is_linear(block: Callable[[], nn.Module]) -> None:
    def resize(plan: ChannelPlan) -> None:
        plan.resize(larger(plan), init="inherit")

    def count(plan: ChannelPlan) -> None:
        plan.cost(larger(plan))

    plans = [plan_of(Chain(depth, block).eval()) for depth in (DEPTH, 2 * DEPTH)]
    assert growth(resize, *plans) < 2.3
    assert growth(count, *plans) < 2.3
    assert growth(ChannelPlan.explain, *plans) < 2.3


def larger(plan: ChannelPlan) -> dict[str, int]:
    return {group.name: group.size + group.quantum for group in plan.free}
