"""``plan.explain()``: the channel groups as a table in plain text, and what else there is to say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conet_fx.passes.groups import ChannelGroup
from conet_fx.passes.paths import has_two_paths, mode_of

if TYPE_CHECKING:
    from conet_fx.plan import ChannelPlan

_WIDTH = 36  # characters for a list of layers
_HEADER = ("group", "size", "quantum", "written by", "read by", "frozen because")
_NUMBERS = (1, 2)  # columns that are set flush right


def explain(plan: ChannelPlan) -> str:
    """What may change, what may not and why, and where the function cannot be kept exactly."""
    cost = plan.cost()
    free = len(plan.free)
    lines = [
        f"{type(plan.trace.graph_module).__name__}: {free} free and {len(plan.groups) - free} frozen channel groups, "
        f"{cost.params:,} parameters, {cost.macs:,} MACs"
    ]
    if plan.groups:
        lines += ["", *aligned([_HEADER, *(_row(group) for group in plan.groups)])]
    notes = _notes(plan)
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are aligned; the last one is as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(group: ChannelGroup) -> tuple[str, ...]:
    return (
        group.name,
        str(group.size),
        str(group.quantum),
        shortened(group.writers),
        shortened(group.readers) or "-",
        _reason(group),
    )


def shortened(names: Sequence[str]) -> str:
    """As many names as fit, and how many more there are: ``conv1, layer1.0.conv2 +3``."""
    shown = list(names[:1])
    for name in names[1:]:
        if len(", ".join([*shown, name])) > _WIDTH:
            break
        shown.append(name)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" +{more}" if more else "")


def _reason(group: ChannelGroup) -> str:
    """Why a group is frozen, with a line of the user's code: that of its first writer where the reason has none."""
    if group.frozen is None or re.search(r":\d+", group.frozen):
        return group.frozen or ""
    return f"{group.frozen} ({group.writers[0]} at {group.source})" if group.source else group.frozen


def _notes(plan: ChannelPlan) -> list[str]:
    notes = []
    mode = mode_of(plan.trace.graph_module.training)
    if has_two_paths(plan.trace.graph_module.graph):
        notes.append(
            f"Train and eval mode take different paths: this plan is of both, its MACs are those of {mode} mode."
        )
    if plan.trace.one_mode:
        notes.append(
            f"The model takes another path in the other mode, which cannot be traced; this plan is of its {mode} mode."
        )
    if plan.trace.pieces:
        pieces = plan.trace.pieces
        notes.append(f"The model cannot be traced as a whole ({pieces.reason}).")
        notes.append(f"It was traced in pieces: {', '.join(pieces.paths)}.")
        notes += (f"Not traced: {path} ({why})." for path, why in pieces.opaque.items())
    if plan.trace.dropped:
        notes.append(f"No graph holds this, and resized modules do without: {', '.join(plan.trace.dropped)}")
    mixed = [(group.name, operator) for group in plan.free for operator in group.mixed_by]
    if mixed:
        notes.append("Operators that mix channels, so that inherited weights keep the function only nearly:")
        notes += (f"  {name}: mixed by {operator}" for name, operator in mixed)
    if plan.facts.unknown:
        notes.append("Operators that were not followed (conet_fx.register_op and register_module teach them):")
        notes += (f"  not followed: {text}" for text in dict.fromkeys(plan.facts.unknown))
    return notes
