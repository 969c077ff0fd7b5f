"""Channel groups: the classes of depths that layers write, under names that users know."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
from collections.abc import Mapping, Sequence
from fractions import Fraction

from conet_fx.errors import ResizeError
from conet_fx.passes.call import Facts
from conet_fx.passes.rounding import allowed


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channel sizes that must stay equal (or in proportion): the unit that is resized.

    ``name`` is the module path of the first writer (with ``#2``, ``#3`` where one module is the first writer of several
    groups) and ``size`` its channels in this group. Sizes are multiples of ``quantum`` and at least ``minimum``.
    ``writers`` and ``readers`` are the dense and grouped convolutions and linear layers whose output or input channels
    these are, in the order of the graph; ``whole_readers`` those whose entire input is this group. ``frozen`` says why
    the size cannot change, or None. ``mixed_by`` names operators that normalise or reduce over the channels: there
    ``init="inherit"`` cannot keep the function exactly. ``source`` is the "file:line" where the first writer is called,
    empty where it is not known.
    """

    name: str
    size: int
    quantum: int
    minimum: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    whole_readers: tuple[str, ...]
    frozen: str | None
    mixed_by: tuple[str, ...]
    source: str = dataclasses.field(default="", compare=False)

    def nearest(self, channels: float, round_to: int = 1) -> int:
        """The size nearest to ``channels`` that the group allows, a multiple of ``round_to`` too."""
        return int(allowed(channels, quantum=self.quantum, minimum=self.minimum, round_to=round_to))


def channel_groups(facts: Facts) -> dict[int, ChannelGroup]:
    """The groups by the root of their class of depths, in the order in which the graph writes them."""
    depths = facts.depths
    writers: dict[int, list[str]] = {}
    readers: dict[int, list[str]] = {}
    whole: dict[int, list[str]] = {}
    for path, dim in facts.writers.items():
        for root in depths.roots(dim):
            writers.setdefault(root, []).append(path)
    for path, dim in facts.readers.items():
        roots = depths.roots(dim)
        for root in roots:
            readers.setdefault(root, []).append(path)
        if len(roots) == 1 and all(not isinstance(part, int) for part in depths.resolve(dim)):
            whole.setdefault(roots[0], []).append(path)
    lines = _lines(facts)
    groups = {}
    taken: dict[str, int] = {}
    for root, paths in writers.items():
        first = paths[0]
        taken[first] = taken.get(first, 0) + 1
        size = depths.share(facts.writers[first], root)
        groups[root] = ChannelGroup(
            name=first if taken[first] == 1 else f"{first}#{taken[first]}",
            size=size,
            quantum=size // depths.steps(root),
            minimum=size // depths.steps(root) * depths.least(root),
            writers=tuple(paths),
            readers=tuple(readers.get(root, ())),
            whole_readers=tuple(whole.get(root, ())),
            frozen=depths.frozen(root),
            mixed_by=depths.notes(root),
            source=lines.get(first, ""),
        )
    return groups


def scales(groups: Mapping[int, ChannelGroup], sizes: Mapping[str, int]) -> dict[int, Fraction]:
    """The factor of each class of depths. Raises :class:`ResizeError` for sizes that the groups do not allow."""
    factors: dict[int, Fraction] = {}
    roots = {group.name: root for root, group in groups.items()}
    for name, size in sizes.items():
        group = find(list(groups.values()), name)
        fault = _fault(group, size)
        if fault is not None:
            written = f"{group.writers[0]} at {group.source}" if group.source else group.writers[0]
            raise ResizeError(f"{fault} (written by {written})")
        if size != group.size:
            factors[roots[name]] = Fraction(int(size), group.size)
    return factors


def _fault(group: ChannelGroup, size: object) -> str | None:
    """What is wrong with a size."""
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        return f"the size of {group.name!r} must be an integer, not {size!r}"
    if size == group.size:
        return None
    if group.frozen is not None:
        return f"{group.name!r} must keep its {group.size} channels ({group.frozen}), not {size}"
    if size < group.minimum:
        return f"{group.name!r} needs at least {group.minimum} channels, not {size}"
    if size % group.quantum:
        low = max(group.minimum, int(size) - int(size) % group.quantum)
        return f"{group.name!r} must be a multiple of {group.quantum}, not {size}: take {low} or {low + group.quantum}"
    return None


def _lines(facts: Facts) -> dict[str, str]:
    """The "file:line" of the first call of each module, or of the first use of one of its parameters."""
    lines: dict[str, str] = {}
    for node in facts.by_name.values():
        path = str(node.target)
        if node.op == "get_attr":
            path = path.rpartition(".")[0] or path
        if node.op in ("call_module", "get_attr"):
            lines.setdefault(path, node.meta.get("source", ""))
    return lines


def find(groups: Sequence[ChannelGroup], name: str) -> ChannelGroup:
    """The group called ``name``. Raises :class:`ResizeError` for an unknown name, with what may have been meant."""
    for group in groups:
        if group.name == name:
            return group
    raise ResizeError(f"there is no channel group {name!r}; {_hint(groups, name)}")


def _hint(groups: Sequence[ChannelGroup], name: object) -> str:
    written = [group.name for group in groups if name in group.writers]
    if written:
        listed = " and ".join(repr(group) for group in written)
        return f"{name} writes channels of {listed}: a group goes by the name of its first writer"
    near = difflib.get_close_matches(str(name), [group.name for group in groups], n=1)
    return f"did you mean {near[0]!r}?" if near else "plan.sizes lists the groups"
