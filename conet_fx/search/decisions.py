"""What to do with a channel group after a trial: grow, shrink or stop (paper Algorithm 2, Eq. 2 and 3).

Pure functions on numbers and numpy arrays; they know modules by path only and nothing of graphs or training.

Where the paper is silent the authors' code settles the rule (`channel_size_adjust_algorithm`): the very first decision
never counts as a turn; a turn with phi < gamma stops for good, and halves phi like any other turn; rounding goes to
the nearest multiple, a tie to the even one. It is left where it would be wrong in general: a slope is divided by
t2 - t1 itself, not by t2 - t1 + 0.0001; bounds are multiples of what the group allows, so that clipping never
breaks a quantum; and means are over the layers that a group really has, not over a table for three networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from conet_fx.errors import SearchError
from conet_fx.probe import LayerMetrics
from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Action


@dataclasses.dataclass(frozen=True)
class GroupState:
    """What the search remembers of one channel group between trials. Fields may be arrays, one entry a group.

    `size` is in channels; `last_action` is None before the first decision; `phi` is the scale factor that the next
    decision starts from; `stopped` says that the group never changes again (its last action was "stop").
    """

    size: int
    last_action: Action | None = None
    phi: float = 0.2
    stopped: bool = False


def decide(
    state: GroupState,
    slope: float,
    condition: float,
    config: SearchConfig,
    *,
    quantum: int = 1,
    minimum: int = 1,
) -> GroupState:
    """The state of a group after a trial (paper Algorithm 2, lines 6 to 20): one group, or arrays of groups.

    Expand; but shrink when (slope < delta or condition >= mu) and size > lowest, or when size > highest. If that
    turns back on the last action, stop for good when phi < gamma, and halve phi. The new size is size * (1 + phi),
    size * (1 - phi), or size when stopped, rounded to the nearest multiple of lcm(round_to, quantum) (a tie to the
    even multiple) and clipped to [lowest, highest]: the smallest multiple not below min_channels and `minimum`, and
    the largest not above max_channels; where no multiple lies between, both are the smallest.

    Args:
        state: before the trial. Stopped groups come back unchanged.
        slope: S of the group, Eq. 2, rank an epoch.
        condition: kappa of the group, Eq. 3, a ratio.
        config: delta, mu, gamma, min_channels, max_channels and round_to are read.
        quantum: sizes of this group must be multiples of it, channels.
        minimum: the smallest size that this group allows, channels.

    Raises:
        ValueError: `slope` or `condition` is NaN: no threshold can be compared with it.
    """
    if np.isnan(slope).any() or np.isnan(condition).any():
        raise ValueError(f"slope {slope} and condition {condition} must be numbers, not NaN: measure the group again")
    size, phi = np.asarray(state.size), np.asarray(state.phi)
    last = np.vectorize(_SIGNS.__getitem__, otypes=[int])(state.last_action)
    multiple, lowest, highest = _bounds(config, quantum, minimum)

    weak = np.less(slope, config.delta) | np.greater_equal(condition, config.mu)
    shrink = (weak & (size > lowest)) | (size > highest)
    sign = np.where(shrink, -1, 1)
    turned = last * sign < 0
    stop = turned & (phi < config.gamma)
    sign = np.where(stop, 0, sign)
    phi = np.where(turned, phi / 2, phi)
    resized = np.rint(size * (1 + sign * phi) / multiple).astype(int) * multiple
    resized = np.clip(resized, lowest, highest)
    action = np.select([sign > 0, sign < 0], [_EXPAND, _SHRINK], _STOP)

    return GroupState(
        size=_choose(state.stopped, state.size, resized),
        last_action=_choose(state.stopped, state.last_action, action),
        phi=_choose(state.stopped, state.phi, phi),
        stopped=_choose(state.stopped, True, stop),
    )


def reason(
    state: GroupState,
    slope: float,
    condition: float,
    config: SearchConfig,
    *,
    quantum: int = 1,
    minimum: int = 1,
) -> str:
    """Which thresholds acted in `decide` for one group, in words: "slope 0.0031 < delta 0.0075".

    Arguments and raises as for `decide`, which takes the same `state`: the one before the trial.
    """
    after = decide(state, slope, condition, config, quantum=quantum, minimum=minimum)
    if state.stopped:
        return "stopped before"
    _, lowest, highest = _bounds(config, quantum, minimum)
    weak = []
    if slope < config.delta:
        weak.append(f"slope {slope:.4g} < delta {config.delta:g}")
    if condition >= config.mu:
        weak.append(f"condition {condition:.4g} >= mu {config.mu:g}")
    if state.size > highest:
        words = f"size {state.size} > max {highest}"
    elif not weak:
        words = f"slope {slope:.4g} >= delta {config.delta:g}, still rising"
    elif state.size > lowest:
        words = " and ".join(weak)
    else:
        words = f"{' and '.join(weak)}, but size {state.size} <= min {lowest}"
    if after.stopped:
        words += f"; turned back with phi {state.phi:g} < gamma {config.gamma:g}, stopped for good"
    elif after.phi != state.phi:
        words += f"; turned back, phi {state.phi:g} -> {after.phi:g}"
    return words


def group_rank(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics]) -> float:
    """Mean rank of a channel group in one epoch (paper Eq. 1): R_4 of its writers and R_3 of its readers.

    Args:
        writers: paths of modules whose output channels are the group.
        readers: paths of modules whose whole input is the group.
        layers: what the probe measured. Modules that it left out (depthwise convs, say) do not count.

    Raises:
        SearchError: no module of the group was measured.
    """
    return _mean(writers, readers, layers, "rank")


def group_condition(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics]) -> float:
    """Mean condition kappa of a channel group in one epoch (paper Eq. 3), over the members of `group_rank`."""
    return _mean(writers, readers, layers, "condition")


def rank_slope(ranks: ArrayLike) -> float:
    """Rank slope S = (R[t2] - R[t1]) / (t2 - t1) of one trial, rank an epoch, >= 0 (paper Eq. 2).

    t1 is the first epoch and t2 the earliest epoch with the largest mean rank; 0 when they are the same.

    Args:
        ranks: mean rank of a group for each epoch, [epochs]; or [epochs, groups], which gives [groups].

    Raises:
        ValueError: no epoch, or a rank that is NaN or infinite.
    """
    values = np.asarray(ranks, dtype=float)
    if values.ndim == 0 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"ranks {ranks} must be finite, at least one epoch of them: probe after every epoch")
    slope = (values.max(0) - values[0]) / np.maximum(values.argmax(0), 1)
    return _plain(slope)


def _bounds(config: SearchConfig, quantum: int, minimum: int) -> tuple[Any, Any, Any]:
    """The multiple that sizes must be of, and the smallest and largest such size that is allowed."""
    multiple = np.lcm(config.round_to, quantum)
    lowest = -(-np.maximum(config.min_channels, minimum) // multiple) * multiple
    highest = np.maximum(config.max_channels // multiple * multiple, lowest)
    return multiple, lowest, highest


def _mean(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics], what: str) -> float:
    writers, readers = list(writers), list(readers)
    values = [getattr(layers[path], f"{what}_out") for path in writers if path in layers]
    values += [getattr(layers[path], f"{what}_in") for path in readers if path in layers]
    if not values:
        raise SearchError(
            f"no layer was probed that writes ({', '.join(writers) or 'none'}) or reads ({', '.join(readers) or 'none'}) "
            "this channel group alone: keep its size, or probe linear layers too"
        )
    return float(np.mean(values))


def _choose(condition: Any, yes: Any, no: Any) -> Any:
    if np.ndim(condition) == np.ndim(no) == 0:
        return yes if condition else _plain(no)
    return np.where(condition, yes, no)


def _plain(value: Any) -> Any:
    """A Python scalar instead of a numpy one or an array of no dimensions; other arrays as they are."""
    return value.item() if np.ndim(value) == 0 else value
