"""What to do with a channel group after a trial: grow, shrink or stop (paper Algorithm 2).

Pure functions on numbers and numpy arrays; they know nothing of graphs or training.

Where the paper is silent, the authors' code (`channel_size_adjust_algorithm`) settles the rule: the first decision
never counts as a turn; a turn with phi < gamma stops for good, and halves phi like any other; sizes are rounded to
the nearest multiple. One thing differs from that code: the bounds are multiples of what the group allows, so that
clipping never breaks a quantum.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from conet_fx.passes.rounding import allowed
from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Action

_SIGNS: dict[Action | None, int] = {"expand": 1, "shrink": -1, "stop": 0, None: 0}


@dataclasses.dataclass(frozen=True)
class GroupState:
    """What the search remembers of one channel group between trials; each field may be an array, one entry a group.

    `size` is in channels; `last_action` is None before the first decision; `phi` is the scale factor that the next
    decision starts from; `stopped` says that the group never changes again (its last action was "stop").
    """

    size: int
    last_action: Action | None = None
    phi: float = 0.2
    stopped: bool = False


def decide(
    state: GroupState, slope: float, condition: float, config: SearchConfig, *, quantum: int = 1, minimum: int = 1
) -> GroupState:
    """The state of a group after a trial (paper Algorithm 2): of one group, or of arrays of groups at once.

    Expand, but shrink if (slope < delta or condition >= mu) and size > lowest, or if size > highest. If that turns
    back on the last action: stop for good if phi < gamma, and halve phi. The new size is size * (1 + phi), or
    size * (1 - phi), or size, rounded to the nearest multiple of lcm(round_to, quantum) (a tie: to the even number of
    multiples), then clipped to [lowest, highest]. Lowest is the smallest multiple that is neither below min_channels
    nor below `minimum`, highest the largest that is not above max_channels, or lowest where that is larger.

    Args:
        state: before the trial. A stopped group comes back unchanged.
        slope: rank slope S of the group, Eq. 2, rank an epoch.
        condition: kappa of the group, Eq. 3, a ratio.
        config: its delta, mu, gamma, min_channels, max_channels and round_to count.
        quantum: the size must be a multiple of it, channels.
        minimum: the smallest size that the group allows, channels.

    Raises:
        ValueError: `slope` or `condition` is NaN.
    """
    if np.isnan(slope).any() or np.isnan(condition).any():
        raise ValueError(f"slope={slope} and condition={condition} cannot be NaN: check what the probe measured")
    size, phi = np.asarray(state.size), np.asarray(state.phi)
    last = np.vectorize(_SIGNS.__getitem__, otypes=[int])(state.last_action)
    lowest, highest = _bounds(config, quantum, minimum)

    weak = np.less(slope, config.delta) | np.greater_equal(condition, config.mu)
    sign = np.where((weak & (size > lowest)) | (size > highest), -1, 1)
    turned = sign * last < 0
    stop = turned & (phi < config.gamma)
    phi = np.where(turned, phi / 2, phi)
    sign = np.where(stop, 0, sign)
    wanted = size * (1 + sign * phi)
    size = np.minimum(allowed(wanted, quantum=quantum, minimum=lowest, round_to=config.round_to), highest)
    action = np.select([sign > 0, sign < 0], ["expand", "shrink"], "stop")

    return GroupState(
        size=_plain(np.where(state.stopped, state.size, size)),
        last_action=_plain(np.where(state.stopped, np.asarray(state.last_action, dtype=object), action)),
        phi=_plain(np.where(state.stopped, state.phi, phi)),
        stopped=_plain(np.where(state.stopped, True, stop)),
    )


def reason(
    state: GroupState, slope: float, condition: float, config: SearchConfig, *, quantum: int = 1, minimum: int = 1
) -> str:
    """Which thresholds act when `decide` is called like this for one group, in words: "slope 0.0031 < delta 0.0075"."""
    after = decide(state, slope, condition, config, quantum=quantum, minimum=minimum)
    if state.stopped:
        return "stopped before"
    lowest, highest = _bounds(config, quantum, minimum)
    low_slope = f"slope {slope:.4g} < delta {config.delta:g}" if slope < config.delta else ""
    high_condition = f"condition {condition:.4g} >= mu {config.mu:g}" if condition >= config.mu else ""
    weak = " and ".join(filter(None, [low_slope, high_condition]))
    if state.size > highest:
        words = f"size {state.size} > max {highest}"
    elif not weak:
        words = f"slope {slope:.4g} >= delta {config.delta:g}, still rising"
    elif state.size > lowest:
        words = weak
    else:
        words = f"{weak}, but size {state.size} is at min {lowest}"
    if after.stopped:
        words += f"; turned back with phi {state.phi:g} < gamma {config.gamma:g}"
    elif after.phi != state.phi:
        words += f"; turned back, phi {state.phi:g} -> {after.phi:g}"
    return words


def _bounds(config: SearchConfig, quantum: int, minimum: int) -> tuple[Any, Any]:
    """The lowest size of a group and the highest."""
    least = np.maximum(config.min_channels, minimum)
    lowest = allowed(0, quantum=quantum, minimum=least, round_to=config.round_to)
    multiple = np.lcm(config.round_to, quantum)
    return lowest, np.maximum(config.max_channels // multiple * multiple, lowest)


def _plain(value: Any) -> Any:
    """A Python scalar for an array of no dimensions; others as they are."""
    return value.item() if np.ndim(value) == 0 else value
