"""Eq. 4 on plans written by hand."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conet_fx.probe import LayerMetrics
from conet_fx.search import static_sizes


@dataclasses.dataclass(frozen=True)
class Group:
    name: str
    size: int
    writers: tuple[str, ...]
    quantum: int = 1
    minimum: int = 1
    frozen: str | None = None


def plan(*groups: Group) -> SimpleNamespace:
    return SimpleNamespace(groups=groups)


@pytest.mark.parametrize(
    ("scale", "size"),
    [(0.0, 64), (0.2, 58), (0.4, 51), (0.6, 45), (0.8, 38), (1.0, 32)],  # 64 (0.5 + (1 - s) 0.5)
)
def test_by_hand(scale: float, size: int) -> None:
    assert static_sizes(plan(Group("a", 64, ("a",))), {"a": 0.5}, scale) == {"a": size}


def test_the_largest_output_rank_of_the_writers_counts() -> None:
    ranks = {"a": LayerMetrics(0.9, 0.25, 1, 1, 0, 0), "b": LayerMetrics(0.9, 0.5, 1, 1, 0, 0)}
    assert static_sizes(plan(Group("a", 100, ("a", "b", "unmeasured"))), ranks, 1.0) == {"a": 50}


def test_what_stays() -> None:
    groups = (
        Group("frozen", 10, ("a",), frozen="it is an output"),
        Group("unmeasured", 12, ("fc",)),
        Group("nothing", 14, ()),
    )
    assert static_sizes(plan(*groups), {"a": 0.1}, 1.0) == {"frozen": 10, "unmeasured": 12, "nothing": 14}


def test_quantum_and_minimum() -> None:
    assert static_sizes(plan(Group("a", 64, ("a",), quantum=8)), {"a": 0.3}, 1.0) == {"a": 16}  # 19.2
    assert static_sizes(plan(Group("a", 64, ("a",), quantum=8, minimum=30)), {"a": 0.0}, 1.0) == {"a": 32}
    assert static_sizes(plan(Group("a", 64, ("a",))), {"a": 0.0}, 1.0) == {"a": 1}


@given(
    multiples=st.integers(1, 64),
    quantum=st.integers(1, 16),
    rank=st.floats(0, 1),
    scales=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_properties(multiples: int, quantum: int, rank: float, scales: tuple[float, float]) -> None:
    size = multiples * quantum
    groups = plan(Group("a", size, ("a",), quantum=quantum, minimum=quantum))
    gentle, harsh = (static_sizes(groups, {"a": rank}, scale)["a"] for scale in sorted(scales))
    assert quantum <= harsh <= gentle <= size
    assert harsh % quantum == 0
    assert static_sizes(groups, {"a": rank}, 0.0) == {"a": size}


@pytest.mark.parametrize("scale", [-0.1, 1.1, math.nan])
def test_scale_out_of_range(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        static_sizes(plan(), {}, scale)


@pytest.mark.parametrize("rank", [-0.1, 1.5, math.nan])
def test_rank_out_of_range(rank: float) -> None:
    with pytest.raises(ValueError, match="'a'"):
        static_sizes(plan(Group("a", 8, ("a",))), {"a": rank}, 0.5)
