"""From what a trial measured to the next sizes: the group statistics and decisions of one trial, written down."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence

from conet_fx.plan import ChannelGroup, ChannelPlan
from conet_fx.probe import group_condition, group_rank, rank_slope
from conet_fx.search.bounds import bounded
from conet_fx.search.config import SearchConfig
from conet_fx.search.decisions import GroupState, decide, reason
from conet_fx.search.history import Epoch, GroupTrial


def start(group: ChannelGroup, config: SearchConfig, measured: Container[str]) -> GroupState:
    """The state of a free group before the first trial: ``initial_channels``, as nearly as its quantum allows.

    A group without a layer in ``measured`` has no slope, and keeps its size for good.
    """
    if not _members(group, measured):
        return GroupState(size=group.size, last_action="stop", phi=config.phi, stopped=True)
    if config.initial_channels is None:
        return GroupState(size=group.size, phi=config.phi)
    return GroupState(size=group.nearest(config.initial_channels, config.round_to), phi=config.phi)


def judge(
    group: ChannelGroup, state: GroupState, epochs: Sequence[Epoch], config: SearchConfig
) -> tuple[GroupState, GroupTrial]:
    """What to do with ``group`` after a trial (paper Algorithm 2), and the record of it."""
    if not _members(group, epochs[-1].layers):
        return dataclasses.replace(state, last_action="stop", stopped=True), _unmeasured(state)
    members = (group.writers, group.whole_readers)
    ranks = tuple(group_rank(*members, epoch.layers) for epoch in epochs)
    slope, condition = rank_slope(ranks), group_condition(*members, epochs[-1].layers)
    bounds = {"quantum": group.quantum, "minimum": group.minimum}
    after = decide(state, slope, condition, config, **bounds)
    why = reason(state, slope, condition, config, **bounds)
    if not (any(ranks) or state.stopped):
        why += "; no rank was found in any epoch"
    assert after.last_action is not None
    return after, GroupTrial(
        size=state.size,
        ranks=ranks,
        slope=slope,
        condition=condition,
        action=after.last_action,
        phi=after.phi,
        next_size=after.size,
        reason=why,
    )


def _members(group: ChannelGroup, measured: Container[str]) -> list[str]:
    """The layers whose ranks a group has the mean of."""
    return [path for path in (*group.writers, *group.whole_readers) if path in measured]


def _unmeasured(state: GroupState) -> GroupTrial:
    return GroupTrial(
        size=state.size,
        ranks=(),
        slope=0.0,
        condition=0.0,
        action="stop",
        phi=state.phi,
        next_size=state.size,
        reason="keeps its size: the probe measures none of its layers",
    )


def resumed(record: GroupTrial) -> GroupState:
    """The state that a recorded decision led to."""
    return GroupState(size=record.next_size, last_action=record.action, phi=record.phi, stopped=record.action == "stop")


def sizes_of(states: Mapping[str, GroupState]) -> dict[str, int]:
    """The size of each group."""
    return {name: state.size for name, state in states.items()}


def within_budget(
    plan: ChannelPlan,
    verdicts: Mapping[str, tuple[GroupState, GroupTrial]],
    config: SearchConfig,
    fits: Callable[[Mapping[str, int]], bool],
) -> dict[str, tuple[GroupState, GroupTrial]]:
    """The verdicts of a trial, with growth cut so that the next candidate ``fits``; their reasons say so."""
    multiples = {group.name: math.lcm(config.round_to, group.quantum) for group in plan.free}
    before = {name: record.size for name, (_, record) in verdicts.items()}
    after = {name: state.size for name, (state, _) in verdicts.items()}
    sizes = bounded(before, after, multiples, fits)
    held = {}
    for name, (state, record) in verdicts.items():
        if sizes[name] != state.size:
            reason = f"{record.reason}; held at {sizes[name]} by the budget, not {state.size}"
            state = dataclasses.replace(state, size=sizes[name])
            record = dataclasses.replace(record, next_size=sizes[name], reason=reason)
        held[name] = (state, record)
    return held
