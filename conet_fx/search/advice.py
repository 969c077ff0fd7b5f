"""Whether the slopes of a trial can tell anything: what its settings leave to chance, in words for the user."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Literal

from conet_fx.plan import ChannelGroup
from conet_fx.search.history import Trial


@dataclasses.dataclass(frozen=True)
class Advice:
    """A reason to distrust the decisions of a trial, and what to do, in words."""

    kind: Literal["one epoch", "no rank", "small delta"]
    words: str


def slope_step(group: ChannelGroup, trial: Trial) -> float:
    """What one singular value more, in one layer, adds to the slope of a group: ranks an epoch.

    A rank is a number of singular values over the channels, and a group has the mean over its measured layers (Eq. 1,
    2): 1 / (layers * channels * (epochs - 1)). A delta below it cannot tell growth from chance. Infinite where no slope
    can be measured: a trial of one epoch, a group without measured layers.
    """
    measured = trial.epochs[-1].layers
    layers = sum(path in measured for path in (*group.writers, *group.whole_readers))
    steps = layers * trial.sizes[group.name] * (len(trial.epochs) - 1)
    return 1 / steps if steps else math.inf


def advice(groups: Sequence[ChannelGroup], trial: Trial, delta: float) -> Iterator[Advice]:
    """What to say of a trial that was judged with this ``delta``; nothing where its slopes can be trusted."""
    moving = [group for group in groups if group.name in trial.groups]
    if not moving:  # the plan of a run that was killed before it was written
        return
    if len(trial.epochs) == 1:
        yield Advice(
            "one epoch",
            "trials of one epoch have no slope, so groups shrink whatever they are. Take epochs_per_trial=2 or more",
        )
        return
    if 2 * len(trial.without_rank) >= len(moving):
        yield Advice(
            "no rank",
            f"the probe finds no rank in {len(trial.without_rank)} of {len(moving)} groups: their slope of 0 says that "
            "trials are too short, not that the groups are too large. Raise epochs_per_trial or lr, or take smaller "
            "batches",
        )
    step = statistics.median(slope_step(group, trial) for group in moving)
    if delta < step < math.inf:
        enough = 1 + math.ceil(step * (len(trial.epochs) - 1) / delta)
        yield Advice(
            "small delta",
            f"delta {delta:g} is less than what one singular value more in one layer adds to a slope "
            f"({step:.2g} in half of the groups or more), so chance decides. Take epochs_per_trial={enough} or more, "
            "start from more channels, or raise delta",
        )
