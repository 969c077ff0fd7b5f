"""What other passes read of the analysis: ``node.meta["conet_fx"]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from conet_fx.passes.call import Facts, Int, Options, Tensor, Value
from conet_fx.passes.constraints import kinds
from conet_fx.passes.depth import Dim, Slot
from conet_fx.passes.groups import channel_groups
from conet_fx.passes.rules.base import EdgeKind, NodeKind

KEY = "conet_fx"

Parts = tuple[tuple[str | None, int], ...]


@dataclasses.dataclass(frozen=True)
class ChannelInfo:
    """The channels of the value of one node. It stands in ``node.meta["conet_fx"]`` of an analysed or resized graph.

    ``kind``: "input", "single", "summation", "concatenation" or "output"; ``edge``: how its operands reach it, "conv"
    (the operator may change the depth freely) or "non_conv". ``dims``: for each dim of a tensor the runs of channels in
    order, each the name of its group (None: a fixed number) and how many channels it has here. ``axis``: the first dim
    that carries a group, or None; ``parts``: the runs along it, or those of an integer that is a channel count.
    ``frozen``: why one of these groups cannot change, or None. ``items``: the same of each item of a tuple or list.
    """

    kind: NodeKind
    edge: EdgeKind
    axis: int | None = None
    parts: Parts = ()
    dims: tuple[Parts, ...] = ()
    frozen: str | None = None
    items: tuple[ChannelInfo, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups along ``axis`` (of an integer: that it counts), each once, in order."""
        return tuple(dict.fromkeys(name for name, _ in self.parts if name is not None))


def record(module: fx.GraphModule, facts: Facts, options: Options) -> None:
    """Write what was found into ``module.meta["conet_fx"]``: its ``groups`` and the ``options`` of the analysis."""
    found = {"groups": tuple(channel_groups(facts).values()), "options": options, "weights": facts.weights}
    module.meta[KEY] = {**module.meta.get(KEY, {}), **found}


def annotate(module: fx.GraphModule, facts: Facts, size: Callable[[Dim], int]) -> None:
    """Write the :class:`ChannelInfo` of every node, at the sizes that ``size`` gives.

    The nodes of ``module`` have the names of those that ``facts`` are about.
    """
    groups = channel_groups(facts)
    names = {index: group.name for index, group in groups.items()}
    reasons = {group.name: group.frozen for group in groups.values()}
    for node in module.graph.nodes:
        kind, edge = kinds(node, facts.entries[node.name], module)
        value = facts.values[facts.by_name[node.name]]
        node.meta[KEY] = _Describer(kind, edge, facts, names, reasons, size).value(value)


@dataclasses.dataclass(frozen=True)
class _Describer:
    kind: NodeKind
    edge: EdgeKind
    facts: Facts
    names: Mapping[int, str]
    reasons: Mapping[str, str | None]
    size: Callable[[Dim], int]

    def value(self, value: Value) -> ChannelInfo:
        if isinstance(value, Tensor):
            dims = tuple(self._parts(dim) for dim in value.dims)
            axis = next((axis for axis, parts in enumerate(dims) if any(name is not None for name, _ in parts)), None)
            return self._info(axis=axis, dims=dims, parts=() if axis is None else dims[axis])
        if isinstance(value, Int):
            return self._info(parts=self._parts(value.dim))
        if isinstance(value, (tuple, list)):
            return self._info(items=tuple(self.value(item) for item in value))
        if isinstance(value, Mapping):
            return self._info(items=tuple(self.value(item) for item in value.values()))
        return self._info()

    def _info(self, parts: Parts = (), **fields: Any) -> ChannelInfo:
        reasons = (self.reasons[name] for name, _ in parts if name is not None)
        return ChannelInfo(self.kind, self.edge, parts=parts, frozen=next(filter(None, reasons), None), **fields)

    def _parts(self, dim: Dim) -> Parts:
        parts: list[tuple[str | None, int]] = []
        for part in self.facts.depths.resolve(dim):
            name = self.names.get(self.facts.depths.root(part.depth)) if isinstance(part, Slot) else None
            count = self.size((part,))
            if name is None and parts and parts[-1][0] is None:
                count += parts.pop()[1]
            parts.append((name, count))
        return tuple(parts)
