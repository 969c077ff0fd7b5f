"""Algorithm 2: traces worked by hand, words, properties, and the means over a group's members."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conet_fx.search import GroupState, SearchConfig, decide, reason

CONFIG = SearchConfig()
RISING, FLAT = (0.02, 3.0), (0.001, 3.0)  # slope, condition
ILL = (0.02, 14.2)

states = st.builds(
    GroupState,
    size=st.integers(1, 400),
    last_action=st.sampled_from([None, "expand", "shrink"]),
    phi=st.sampled_from([0.2 / 2**i for i in range(8)]),
)
slopes = st.floats(0, 0.05)
conditions = st.floats(0, 30)
many = settings(max_examples=200, deadline=None)


def trace(start: GroupState, *trials: tuple[float, float], config: SearchConfig = CONFIG) -> list[GroupState]:
    found = []
    for slope, condition in trials:
        start = decide(start, slope, condition, config)
        found.append(start)
    return found


class TestTraces:
    def test_growth_without_a_turn(self) -> None:
        """32 -> 38.4 -> 45.6 -> 55.2 -> 67.2, each rounded to the nearest even number."""
        sizes = [state.size for state in trace(GroupState(32), RISING, RISING, RISING, RISING)]
        assert sizes == [38, 46, 56, 68]

    def test_every_turn_halves_phi_until_it_stops(self) -> None:
        """Sizes by hand: 38.4, 38 * 0.9 = 34.2, 34 * 1.05 = 35.7, 36 * 0.975 = 35.1, then 36 * (1 +- 0.0125) ..."""
        found = trace(GroupState(32), RISING, FLAT, RISING, FLAT, RISING, FLAT, RISING, FLAT)
        assert found == [
            GroupState(38, "expand", 0.2),
            GroupState(34, "shrink", 0.1),
            GroupState(36, "expand", 0.05),
            GroupState(36, "shrink", 0.025),
            GroupState(36, "expand", 0.0125),
            GroupState(36, "shrink", 0.00625),
            GroupState(36, "stop", 0.003125, stopped=True),
            GroupState(36, "stop", 0.003125, stopped=True),
        ]

    def test_the_first_decision_is_never_a_turn(self) -> None:
        assert decide(GroupState(32), *FLAT, CONFIG) == GroupState(26, "shrink", 0.2)
        assert decide(GroupState(32, phi=0.001), *FLAT, CONFIG) == GroupState(32, "shrink", 0.001)

    def test_high_condition_shrinks_what_still_rises(self) -> None:
        assert decide(GroupState(100, "shrink", 0.1), *ILL, CONFIG) == GroupState(90, "shrink", 0.1)

    def test_at_min_a_weak_group_expands(self) -> None:
        """The guard `size > min` of the algorithm; here it is a turn too: 16 * 1.1 = 17.6."""
        assert decide(GroupState(16, "shrink", 0.2), *FLAT, CONFIG) == GroupState(18, "expand", 0.1)

    def test_above_max_a_rising_group_shrinks(self) -> None:
        assert decide(GroupState(512, None, 0.2), *RISING, CONFIG) == GroupState(256, "shrink", 0.2)
        assert decide(GroupState(300, None, 0.2), *RISING, CONFIG) == GroupState(240, "shrink", 0.2)

    def test_at_max_a_rising_group_stays(self) -> None:
        assert decide(GroupState(256, "expand", 0.2), *RISING, CONFIG) == GroupState(256, "expand", 0.2)

    def test_thresholds_are_strict_for_delta_and_not_for_mu(self) -> None:
        assert decide(GroupState(32), CONFIG.delta, 9.99, CONFIG).last_action == "expand"
        assert decide(GroupState(32), CONFIG.delta, 10.0, CONFIG).last_action == "shrink"

    def test_phi_equal_to_gamma_does_not_stop(self) -> None:
        config = SearchConfig(gamma=0.1)
        assert decide(GroupState(100, "expand", 0.1), *FLAT, config) == GroupState(96, "shrink", 0.05)
        assert decide(GroupState(100, "expand", 0.09), *FLAT, config).stopped

    def test_a_tie_goes_to_the_even_number_of_multiples(self) -> None:
        config = SearchConfig(phi=0.5, min_channels=1)
        assert decide(GroupState(22, None, 0.5), *RISING, config).size == 32  # 33 = 16.5 * 2
        assert decide(GroupState(46, None, 0.5), *RISING, config).size == 68  # 69 = 34.5 * 2
        assert decide(GroupState(50, None, 0.5), *RISING, config).size == 76  # 75 = 37.5 * 2


class TestQuantum:
    def test_multiples_of_both(self) -> None:
        assert decide(GroupState(33, None, 0.2), *RISING, CONFIG, quantum=3).size == 42  # 39.6 / 6 = 6.6
        assert (
            decide(GroupState(36, None, 0.2), *FLAT, SearchConfig(round_to=1), quantum=3).size == 30
        )  # 28.8 / 3 = 9.6

    def test_bounds_are_multiples(self) -> None:
        assert decide(GroupState(24, "shrink", 0.2), *FLAT, CONFIG, quantum=24) == GroupState(24, "expand", 0.1)
        assert decide(GroupState(240, "expand", 0.2), *RISING, CONFIG, quantum=24).size == 240
        assert decide(GroupState(300, "expand", 0.2), *RISING, CONFIG, quantum=500).size == 500

    def test_minimum_wins_over_min_and_max(self) -> None:
        assert decide(GroupState(70, None, 0.2), *FLAT, CONFIG, minimum=61).size == 62
        assert decide(GroupState(300, None, 0.2), *FLAT, CONFIG, minimum=290).size == 290


class TestProperties:
    @many
    @given(states, slopes, conditions, st.integers(1, 12), st.integers(1, 64), st.integers(1, 8))
    def test_sizes(
        self, state: GroupState, slope: float, condition: float, quantum: int, minimum: int, round_to: int
    ) -> None:
        config = SearchConfig(round_to=round_to)
        after = decide(state, slope, condition, config, quantum=quantum, minimum=minimum)
        multiple = math.lcm(round_to, quantum)
        assert after.size % multiple == 0
        assert after.size >= max(minimum, config.min_channels)
        assert after.size <= config.max_channels
        assert isinstance(after.size, int)

    @many
    @given(states, slopes, conditions)
    def test_phi_and_action(self, state: GroupState, slope: float, condition: float) -> None:
        after = decide(state, slope, condition, CONFIG)
        turned = after.phi != state.phi
        if turned:
            assert after.phi == state.phi / 2
            assert state.last_action is not None
            assert after.last_action != state.last_action
            assert after.stopped == (state.phi < CONFIG.gamma)
        else:
            assert not after.stopped
            assert state.last_action in (None, after.last_action)
        assert after.stopped == (after.last_action == "stop")

    @many
    @given(states, st.lists(st.tuples(slopes, conditions), max_size=40))
    def test_stopped_never_moves(self, state: GroupState, trials: list[tuple[float, float]]) -> None:
        found = trace(state, *trials)
        for before, after in itertools.pairwise(found):
            if before.stopped:
                assert after == before

    @many
    @given(st.lists(st.tuples(states, slopes, conditions, st.integers(1, 4)), min_size=1, max_size=6))
    def test_arrays_equal_one_by_one(self, groups: list[tuple[GroupState, float, float, int]]) -> None:
        group_states = [group[0] for group in groups]
        together = decide(
            GroupState(
                size=np.array([state.size for state in group_states]),
                last_action=np.array([state.last_action for state in group_states], dtype=object),
                phi=np.array([state.phi for state in group_states]),
                stopped=np.array([state.stopped for state in group_states]),
            ),
            np.array([group[1] for group in groups]),
            np.array([group[2] for group in groups]),
            CONFIG,
            quantum=np.array([group[3] for group in groups]),
        )
        for index, (state, slope, condition, quantum) in enumerate(groups):
            alone = decide(state, slope, condition, CONFIG, quantum=quantum)
            fields = (together.size, together.last_action, together.phi, together.stopped)
            assert GroupState(*(field[index] for field in fields)) == alone

    @pytest.mark.parametrize(("slope", "condition"), [(math.nan, 1), (0.1, math.nan)])
    def test_nan_is_refused(self, slope: float, condition: float) -> None:
        with pytest.raises(ValueError, match="NaN"):
            decide(GroupState(32), slope, condition, CONFIG)


class TestReason:
    @pytest.mark.parametrize(
        ("state", "trial", "words"),
        [
            (GroupState(32), (0.0031, 3), "slope 0.0031 < delta 0.0075"),
            (GroupState(32), ILL, "condition 14.2 >= mu 10"),
            (GroupState(32), (0.0031, 14.2), "slope 0.0031 < delta 0.0075 and condition 14.2 >= mu 10"),
            (GroupState(260), RISING, "size 260 > max 256"),
            (GroupState(32), RISING, "slope 0.02 >= delta 0.0075, still rising"),
            (GroupState(16), FLAT, "slope 0.001 < delta 0.0075, but size 16 is at min 16"),
            (GroupState(32, "expand"), FLAT, "slope 0.001 < delta 0.0075; turned back, phi 0.2 -> 0.1"),
            (
                GroupState(32, "expand", 0.005),
                FLAT,
                "slope 0.001 < delta 0.0075; turned back with phi 0.005 < gamma 0.01",
            ),
            (GroupState(32, "stop", 0.005, stopped=True), FLAT, "stopped before"),
        ],
    )
    def test_words(self, state: GroupState, trial: tuple[float, float], words: str) -> None:
        assert reason(state, *trial, CONFIG) == words

    def test_bounds_in_words_are_those_of_the_group(self) -> None:
        assert reason(GroupState(24), *FLAT, CONFIG, quantum=24).endswith("size 24 is at min 24")
