"""Sizes that a group allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import ResizeError
from conet_fx.passes.rounding import allowed
from tests.tiny import TinyNet

SMALL = st.integers(1, 24)


@given(channels=st.floats(0, 5000), quantum=SMALL, minimum=st.integers(1, 300), round_to=SMALL)
def test_the_nearest_that_is_allowed(channels: float, quantum: int, minimum: int, round_to: int) -> None:
    size = allowed(channels, quantum=quantum, minimum=minimum, round_to=round_to)
    assert type(size) is int
    assert size % quantum == size % round_to == 0
    assert size >= max(minimum, 1)
    step = math.lcm(quantum, round_to)
    others = [other for other in (size - step, size + step) if other >= max(minimum, 1)]
    assert all(abs(size - channels) <= abs(other - channels) for other in others)
    assert allowed(size, quantum=quantum, minimum=minimum, round_to=round_to) == size


def test_arrays_have_one_entry_a_group() -> None:
    sizes = allowed(np.array([1.0, 12.0, 20.0]), quantum=np.array([1, 3, 8]), minimum=np.array([1, 1, 40]), round_to=8)
    assert sizes.tolist() == [8, 24, 40]


def plan_of(model: nn.Module) -> conet_fx.ChannelPlan:
    return conet_fx.analyze(model, torch.zeros(2, 1, 8, 8))


class Grouped(nn.Module):
    """Groups: a (quantum 3), b (quantum 1), head (frozen)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 12, 3)
        self.b = nn.Conv2d(12, 7, 3)
        self.c = nn.Conv2d(12, 12, 3, groups=3)
        self.head = nn.Conv2d(7, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        return self.head(self.b(x)), self.c(x)


def test_a_plan_rounds_what_is_free_and_names() -> None:
    plan = plan_of(Grouped())
    assert plan.group("a").quantum == 3
    assert plan.rounded({"a": 30}) == {"a": 24}
    assert plan.rounded({"a": 1, "b": 0.4}) == {"a": 24, "b": 8}
    assert plan.rounded({"b": 12}) == {"b": 16}  # a tie, to the even number of multiples
    assert plan.rounded({"b": 12}, round_to=1) == {"b": 12}
    assert plan.rounded({}) == {}
    assert plan.rounded(plan.sizes) == {"a": 24, "b": 8, "c": 12, "head": 5}  # c and head are outputs
    assert plan.rounded({"head": 2.5, "c": 100}) == {"head": 5, "c": 12}
    assert plan.resize(plan.rounded(plan.sizes)).get_submodule("b").out_channels == 8


@pytest.mark.parametrize("size", [0, -8, float("nan"), float("inf"), 2**41, True, "8"])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(ValueError, match="the size of 'a' must be a positive number"):
        plan_of(TinyNet()).rounded({"a": size})  # type: ignore[dict-item]


def test_bad_arguments() -> None:
    plan = plan_of(TinyNet())
    with pytest.raises(ValueError, match="round_to=0"):
        plan.rounded({"a": 8}, round_to=0)
    with pytest.raises(ResizeError, match="no channel group 'z'"):
        plan.rounded({"z": 8})
