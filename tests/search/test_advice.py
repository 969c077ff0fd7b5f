"""What a search says of trials that cannot tell anything."""

from __future__ import annotations

import math

import pytest

from conet_fx.plan import ChannelGroup
from conet_fx.probe import LayerMetrics
from conet_fx.search.advice import advice, slope_step
from conet_fx.search.history import Epoch, GroupTrial, Trial

SEEN = LayerMetrics(0.5, 0.5, 1.0, 1.0, 0.5, 0.5)


def group(name: str, writers: tuple[str, ...], readers: tuple[str, ...] = ()) -> ChannelGroup:
    return ChannelGroup(name, 32, 1, 1, writers, readers, readers, None, ())


GROUPS = [group("a", ("a",), ("b",)), group("b", ("b",), ("c", "d")), group("head", ("head",))]


def trial(epochs: int, ranks: float = 0.5, size: int = 32) -> Trial:
    """Groups a and b of ``size`` channels, whose rank is ``ranks`` after the last epoch; the head is no free group."""
    layers = dict.fromkeys("abcd", SEEN)
    each = tuple(Epoch(n, 1.0, 0.5, {}, layers, 1.0) for n in range(1, epochs + 1))
    record = GroupTrial(size, (*[0.0] * (epochs - 1), ranks), 0.0, 1.0, "shrink", 0.2, size, "")
    return Trial(1, {"a": size, "b": size, "head": 10}, 1, 1, each, {"a": record, "b": record}, 1.0)


def kinds(of: Trial, delta: float = 0.0075) -> list[str]:
    return [each.kind for each in advice(GROUPS, of, delta)]


def test_a_step_is_one_singular_value_in_one_layer() -> None:
    assert slope_step(GROUPS[0], trial(5)) == 1 / (2 * 32 * 4)
    assert slope_step(GROUPS[1], trial(5, size=16)) == 1 / (3 * 16 * 4)
    assert slope_step(GROUPS[0], trial(1)) == math.inf
    assert slope_step(GROUPS[2], trial(5)) == math.inf, "a linear layer is not measured"


def test_nothing_is_said_of_the_settings_of_the_paper() -> None:
    assert kinds(trial(20)) == []


@pytest.mark.parametrize(("epochs", "said"), [(3, ["small delta"]), (4, []), (30, [])])
def test_a_delta_below_one_step(epochs: int, said: list[str]) -> None:
    """Steps of 1/64 and 1/96 are spread over the epochs; their median is the middle of both."""
    middle = (1 / 64 + 1 / 96) / 2
    assert kinds(trial(epochs), delta=middle / 2.5) == said


def test_the_epochs_that_it_asks_for_are_enough() -> None:
    [told] = advice(GROUPS, trial(2), delta=0.0021)
    enough = int(told.words.partition("epochs_per_trial=")[2].split()[0])
    assert kinds(trial(enough), delta=0.0021) == []
    assert kinds(trial(enough - 1), delta=0.0021) == ["small delta"]


def test_nothing_is_said_without_a_plan() -> None:
    assert list(advice([], trial(2), 0.0075)) == []


def test_no_rank_and_no_slope() -> None:
    assert kinds(trial(20, ranks=0.0)) == ["no rank"]
    assert kinds(trial(1, ranks=0.0)) == ["one epoch"]
    assert kinds(trial(2, ranks=0.0)) == ["no rank", "small delta"]
