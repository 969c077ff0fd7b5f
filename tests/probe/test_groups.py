"""Group means, plateau and slope, by hand and over random ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conet_fx.errors import SearchError
from conet_fx.probe import LayerMetrics, group_condition, group_rank, plateau, rank_slope


class TestRankSlope:
    @pytest.mark.parametrize(
        ("ranks", "slope"),
        [
            ([0.1, 0.2, 0.4, 0.3], 0.15),
            ([0.1, 0.4, 0.4], 0.3),  # the first of equal ones
            ([0.4, 0.3, 0.2], 0.0),
            ([0.3, 0.3], 0.0),
            ([0.3], 0.0),
            ([0.2, 0.1, 0.3], 0.05),
        ],
    )
    def test_by_hand(self, ranks: list[float], slope: float) -> None:
        assert rank_slope(ranks) == pytest.approx(slope)
        assert isinstance(rank_slope(ranks), float)

    def test_groups_at_once(self) -> None:
        np.testing.assert_allclose(rank_slope([[0.1, 0.4], [0.2, 0.3], [0.4, 0.2]]), [0.15, 0.0])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_never_negative(self, ranks: list[float]) -> None:
        assert 0 <= rank_slope(ranks) <= 1

    @pytest.mark.parametrize("ranks", [[], [0.1, math.nan], [math.inf], 0.5])
    def test_bad_ranks(self, ranks: list[float]) -> None:
        with pytest.raises(ValueError, match="at least one epoch"):
            rank_slope(ranks)


LAYERS = {"a": LayerMetrics(0.1, 0.2, 3, 4, 0, 0), "b": LayerMetrics(0.3, 0.5, 6, 8, 0, 0)}


class TestMeans:
    def test_output_of_writers_and_input_of_readers(self) -> None:
        assert group_rank(["a"], ["b"], LAYERS) == pytest.approx((0.2 + 0.3) / 2)
        assert group_condition(["a"], ["b"], LAYERS) == pytest.approx((4 + 6) / 2)
        assert group_rank(["a", "b"], [], LAYERS) == pytest.approx((0.2 + 0.5) / 2)
        assert group_rank(["a"], ["a"], LAYERS) == pytest.approx((0.2 + 0.1) / 2)  # a conv that feeds itself

    def test_what_was_not_measured_does_not_count(self) -> None:
        assert group_rank(["a", "depthwise"], ["fc"], LAYERS) == 0.2

    def test_no_member(self) -> None:
        with pytest.raises(SearchError, match="fc"):
            group_rank([], ["fc"], LAYERS)
        with pytest.raises(SearchError, match="no layer"):
            group_condition([], [], LAYERS)


class TestPlateau:
    @pytest.mark.parametrize(
        ("ranks", "epoch"), [([0.1, 0.2, 0.4, 0.3], 2), ([0.1, 0.4, 0.4], 1), ([0.4, 0.3], 0), ([0.3], 0)]
    )
    def test_by_hand(self, ranks: list[float], epoch: int) -> None:
        assert plateau(ranks) == epoch
        assert isinstance(plateau(ranks), int)

    def test_groups_at_once(self) -> None:
        assert plateau([[0.1, 0.4], [0.2, 0.3], [0.4, 0.2]]).tolist() == [2, 0]

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
    def test_the_slope_is_that_of_the_line_to_it(self, ranks: list[float]) -> None:
        end = plateau(ranks)
        assert ranks[end] == max(ranks)
        assert rank_slope(ranks) == pytest.approx((ranks[end] - ranks[0]) / end if end else 0)

    def test_bad_ranks(self) -> None:
        with pytest.raises(ValueError, match="at least one epoch"):
            plateau([])
