"""SearchConfig refuses what cannot work, in words that say what to write instead."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from conet_fx.search import SearchConfig


def test_defaults_are_those_of_the_paper() -> None:
    config = SearchConfig()
    assert (config.delta, config.mu, config.gamma, config.phi) == (0.0075, 10, 0.01, 0.2)
    assert (config.trials, config.epochs_per_trial) == (25, 20)
    assert (config.initial_channels, config.min_channels, config.max_channels, config.round_to) == (32, 16, 256, 2)
    assert (config.lr, config.momentum, config.weight_decay, config.beta) == (0.1, 0.9, 5e-4, 0.8)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        *[("delta", value, "a number > 0") for value in (0, -1, math.nan, math.inf)],
        ("mu", 0, "a number > 0"),
        ("gamma", 1, r"in \[0, 1\)"),
        ("phi", 0, r"in \(0, 1\)"),
        ("phi", 1, r"in \(0, 1\)"),
        ("trials", 0, "an integer >= 1"),
        ("epochs_per_trial", 0, "an integer >= 1"),
        ("initial_channels", 0, "or None for the model's own"),
        ("min_channels", 0, "an integer >= 1"),
        ("min_channels", 300, "above max_channels=256"),
        ("max_channels", 8, "below|above"),
        ("round_to", 0, "an integer >= 1"),
        ("round_to", 300, "no multiple of round_to=300"),
        ("lr", 0, "a number > 0"),
        ("momentum", 1, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("weight_decay", -1, "a number >= 0"),
        ("beta", 1, r"in \[0, 1\)"),
        ("scheduler", "cosine", "'adas', 'none'"),
        ("seed", -1, "in"),
        ("seed", 2**32, "in"),
        ("accelerator", "abacus", "'cpu'"),
        ("precision", "8", "'32-true'"),
        ("weights", "stale", "'fresh', 'trained'"),
    ],
)
def test_values_out_of_range(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        SearchConfig(**{field: value})
    assert str(caught.value).startswith(f"{field}={value!r}") or field in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delta", "0.1"),
        ("delta", None),
        ("delta", True),
        ("trials", 2.0),
        ("trials", True),
        ("initial_channels", "32"),
        ("seed", None),
        ("tie_concat", 1),
        ("resize_linear", None),
        ("scheduler", None),
        ("precision", 32),
        ("devices", 1.5),
    ],
)
def test_values_of_the_wrong_type(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{field}=.*: write"):
        SearchConfig(**{field: value})


def test_numbers_of_numpy_become_plain_ones() -> None:
    config = SearchConfig(delta=np.float32(0.5), trials=np.int64(3), lr=1)
    assert [type(value) for value in (config.delta, config.trials, config.lr)] == [float, int, float]
    assert (config.delta, config.trials, config.lr) == (0.5, 3, 1.0)


def test_allowed_edges() -> None:
    SearchConfig(gamma=0, momentum=0, weight_decay=0, beta=0, initial_channels=None)
    SearchConfig(min_channels=16, max_channels=16, initial_channels=512)
    with pytest.raises(ValueError, match="no multiple of round_to=2"):
        SearchConfig(min_channels=17, max_channels=17)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchConfig().delta = 1.0


class TestBuild:
    def test_from_nothing(self) -> None:
        assert SearchConfig.build(None, None, {}) == SearchConfig()
        assert SearchConfig.build(None, 0.02, {"trials": 3}) == SearchConfig(delta=0.02, trials=3)

    def test_later_ones_win(self) -> None:
        config = SearchConfig(delta=0.02, trials=7, seed=5)
        assert SearchConfig.build(config, 0.03, {"trials": 3}) == SearchConfig(delta=0.03, trials=3, seed=5)
        assert SearchConfig.build(config, None, {}) == config

    def test_the_default_delta_leaves_the_one_in_the_config(self) -> None:
        assert SearchConfig.build(SearchConfig(delta=0.02), 0.0075, {}).delta == 0.02

    def test_unknown_names(self) -> None:
        with pytest.raises(TypeError, match="'trails': did you mean 'trials'"):
            SearchConfig.build(None, None, {"trails": 3})
        with pytest.raises(TypeError, match="the fields are delta, mu"):
            SearchConfig.build(None, None, {"zzz": 3})

    def test_not_a_config(self) -> None:
        with pytest.raises(TypeError, match="pass a SearchConfig"):
            SearchConfig.build({"delta": 1}, None, {})

    def test_overrides_are_checked(self) -> None:
        with pytest.raises(ValueError, match="trials=0"):
            SearchConfig.build(None, None, {"trials": 0})
        with pytest.raises(ValueError, match="delta=-1"):
            SearchConfig.build(SearchConfig(), -1, {})
