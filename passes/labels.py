"""Which channel stands where: needed when weights are inherited, since order matters after shuffles, flattens and cats.

Every channel that a layer writes gets a number, a *label*, and the labels flow through the graph: operators that only
move data (views, permutations, cats, splits ...) are executed on tensors of labels, so they are right by construction;
the others keep, join or end them. Two labels that meet in an element-wise operator are one channel from then on. What
comes out is, for every axis of every parameter, which channel each position belongs to.

A label tensor of a value has one label for each position along a channel axis, and length 1 along every dim where
labels do not vary, so that it costs almost nothing.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx, nn

from conet_fx.passes.call import Facts, Tensor, bind, shapes
from conet_fx.passes.depth import is_fixed
from conet_fx.passes.nodes import submodule

Fields = dict[int, torch.Tensor]  # dim of the value -> labels, broadcastable to its shape
Site = tuple[str, str]  # (layer path, role)


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channel at each position of each site, and the kind of each channel.

    Two channels are of one kind when they stand in the same values, as often, and in the same rows (heads, blocks of
    grouped layers): nothing but their weights tells them apart.
    """

    sites: Mapping[Site, np.ndarray[Any, Any]]
    kinds: np.ndarray[Any, Any]


class Marker:
    """Hands out labels, joins them, and remembers which value and which layer holds which."""

    def __init__(self) -> None:
        self._count = 1  # label 0 is padding, which belongs to no channel
        self._fresh: dict[str, torch.Tensor] = {}
        self._links: list[torch.Tensor] = []
        self._held: list[tuple[torch.Tensor, tuple[int, ...]]] = []
        self.sites: dict[Site, torch.Tensor] = {}

    def fresh(self, key: str, length: int) -> torch.Tensor:
        """``length`` new labels; the same ones whenever ``key`` asks again."""
        if key not in self._fresh:
            self._fresh[key] = torch.arange(self._count, self._count + length, dtype=torch.float64)
            self._count += length
        return self._fresh[key]

    def link(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Labels at equal positions are one channel."""
        if a is not b:
            shape = [max(n, m) for n, m in zip(a.shape, b.shape, strict=True)]
            pairs = torch.stack([a.expand(shape).flatten(), b.expand(shape).flatten()])
            self._links.append(torch.unique(pairs, dim=1) if pairs.shape[1] > 4096 else pairs)

    def join(self, fields: Fields, dim: int, field: torch.Tensor) -> None:
        """Put a field at a dim of a result, or say that it is one with what another operand has put there."""
        if dim in fields:
            self.link(fields[dim], field)
        else:
            fields[dim] = field

    def collapse(self, field: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """The field with length 1 along ``dims``: all labels that differ only there are one channel."""
        for dim in dims:
            if field.shape[dim] > 1:
                first = field.amax(dim, keepdim=True)  # 0 only where all is padding
                self.link(first, field)
                field = first
        return field

    def line(self, field: torch.Tensor, dim: int) -> torch.Tensor:
        """The labels along ``dim`` alone, one-dimensional."""
        others = tuple(d for d in range(field.ndim) if d != dim)
        return self.collapse(field, others).flatten()

    def uses(self, path: str, role: str, labels: torch.Tensor, blocks: int = 1) -> None:
        """The axis ``role`` of the layer at ``path`` holds these channels."""
        self.holds(labels.reshape(blocks, -1), (0,))
        if (path, role) in self.sites:
            self.link(self.sites[path, role], labels)
        else:
            self.sites[path, role] = labels

    def holds(self, field: torch.Tensor, rows: tuple[int, ...]) -> None:
        """Some value holds these channels; along the dims ``rows`` the place of a channel matters (heads, groups)."""
        self._held.append((field, rows))

    def channels(self) -> Channels:
        """Where each channel stands, after all joins."""
        count = self._count
        if self._links:
            pairs = torch.cat(self._links, 1).numpy().astype(np.int64)
            pairs = pairs[:, (pairs != 0).all(0)]
            graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
            component: np.ndarray[Any, Any] = connected_components(graph, directed=False)[1]
        else:
            component = np.arange(count)

        def channels(labels: torch.Tensor) -> np.ndarray[Any, Any]:
            found: np.ndarray[Any, Any] = component[labels.flatten().numpy().astype(np.int64)]
            return found

        kinds = np.zeros(count, dtype=np.uint64)
        numbers = np.random.default_rng(0)  # one number a row; a kind is the sum of the numbers of all places
        for field, rows in self._held:
            shape = [length if dim in rows else 1 for dim, length in enumerate(field.shape)]
            weights = np.broadcast_to(numbers.integers(2**63, size=shape, dtype=np.uint64), field.shape)
            np.add.at(kinds, channels(field), weights.reshape(-1))
        kinds[component[0]] = 0  # padding
        return Channels({site: channels(labels) for site, labels in self.sites.items()}, kinds)


class MarkCall:
    """The node whose labels a rule follows."""

    def __init__(
        self,
        node: fx.Node,
        root: nn.Module,
        names: Mapping[str, Any],
        facts: Facts,
        value: Any,
        env: Mapping[fx.Node, Any],
        marker: Marker,
    ) -> None:
        self.node = node
        self.root = root
        self.facts = facts
        self.result = value
        self.marker = marker
        self._env = env
        self._names = names
        self._arguments, _ = bind(node, names)

    def raw(self, name: str) -> Any:
        return self._arguments[name]

    def number(self, name: str) -> Any:
        return self.concrete(self._arguments[name])

    def concrete(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return argument.meta["val"]
        if isinstance(argument, (tuple, list)):
            return type(argument)(self.concrete(a) for a in argument)
        if isinstance(argument, slice):
            return slice(*(self.concrete(a) for a in (argument.start, argument.stop, argument.step)))
        return argument

    def fields(self, name: str = "input") -> Fields:
        """Labels of a tensor operand by dim."""
        return self.fields_of(self._arguments[name])

    def fields_of(self, argument: Any) -> Fields:
        """Labels of an argument: one field for each of its dims that holds a depth, none for anything else."""
        if not isinstance(argument, fx.Node):
            return {}
        fields = self._env[argument] or {}
        value = self.facts.values[self._twin(argument)]
        dims = value.dims if isinstance(value, Tensor) else ()
        expected = {dim for dim, parts in enumerate(dims) if not is_fixed(parts)}
        if not isinstance(fields, dict) or set(fields) != expected:
            raise AssertionError(f"{argument.name} has labels along {list(fields)}, expected {sorted(expected)}")
        return fields

    def labels_of(self, node: fx.Node) -> Any:
        """What is known of a node, whatever it gives."""
        return self._env[node]

    def items(self, name: str) -> list[tuple[Fields, tuple[int, ...]]]:
        """Labels and shape of each tensor in a list operand, also where the graph holds the list (``x.chunk(2)``)."""
        operands = self._arguments[name]
        if isinstance(operands, fx.Node):
            fields = self._env[operands] or [{} for _ in operands.meta["val"]]
            return list(zip(fields, shapes(operands.meta["val"]), strict=True))
        return [(self.fields_of(node), self.shape_of(node)) for node in operands]

    def item(self, name: str, index: Any) -> Any:
        """Labels of one item of an operand that is a tuple of tensors; None for an item of a shape."""
        fields = self._env[self._arguments[name]]
        return fields[index] if isinstance(fields, list) else None

    def shape(self, name: str = "input") -> tuple[int, ...]:
        return self.shape_of(self._arguments[name])

    @staticmethod
    def shape_of(argument: Any) -> tuple[int, ...]:
        val = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        return tuple(val.shape) if isinstance(val, torch.Tensor) else ()

    def traced_shape(self, argument: Any) -> tuple[int, ...]:
        """Shape of an argument in the traced module.

        A rule tells by it what broadcasts: at the new sizes a channel axis may have length 1 by chance.
        """
        return self.shape_of(self._twin(argument) if isinstance(argument, fx.Node) else argument)

    def traced_number(self, name: str) -> Any:
        """Present value of an argument in the traced module (the groups of a depthwise convolution may become 1)."""
        return self.concrete(bind(self._twin(self.node), self._names)[0][name])

    @property
    def traced_out(self) -> Any:
        """Shape of the result in the traced module, or a nest of shapes."""
        return shapes(self._twin(self.node).meta["val"])

    def axis(self, name: str = "dim", of: str = "input", extra: int = 0) -> int:
        return int(self.number(name)) % (len(self.shape(of)) + extra)

    @property
    def module(self) -> Any:
        return submodule(self.root, str(self.node.target))

    @property
    def path(self) -> str:
        return str(self.node.target)

    @property
    def out(self) -> Any:
        """Shape of the result, or a nest of shapes."""
        return shapes(self.node.meta["val"])

    def line(self, name: str, dim: int, length: int) -> torch.Tensor:
        """Labels of an operand along ``dim``; channels without a label (a fixed run) get labels of their own."""
        field = self.fields(name).get(dim)
        if field is None:
            return self.marker.fresh(f"{self.node.name}/{name}/{dim}", length)
        return self.marker.line(field, dim)

    def spread(self, labels: torch.Tensor, dim: int, ndim: int) -> torch.Tensor:
        """One-dimensional labels as a field along ``dim``."""
        shape = [1] * ndim
        shape[dim] = -1
        return labels.reshape(shape)

    def moved(self, name: str = "input", run: Callable[[fx.Node, torch.Tensor], Any] | None = None) -> Any:
        """Labels after an operator that only moves data: it is executed on the labels of each channel axis.

        ``run`` does to them what the node does, where that is not its operator with labels in place of the operand.
        """
        operand = self._arguments[name]
        shape = self.shape(name)
        given = self.facts.values[self._twin(operand)]
        results: list[_Moved] = []
        for dim, field in self.fields(name).items():
            labels = (field + _places(shape, dim)).expand(shape)
            labels = run(self.node, labels) if run else self._execute(self.node, operand, labels)
            results.append(_Moved(self.facts.depths.roots(given.dims[dim]), labels, self._probe(operand, dim, run)))
        return self._assign(self.result, results)

    def _twin(self, node: fx.Node) -> fx.Node:
        return self.facts.by_name[node.name]

    def _probe(
        self, operand: fx.Node, dim: int, run: Callable[[fx.Node, torch.Tensor], Any] | None
    ) -> Callable[[], Any]:
        """Where the places along ``dim`` of the operand go in the traced module."""

        def probe() -> Any:
            node, twin = self._twin(self.node), self._twin(operand)
            shape = self.shape_of(twin)
            places = _places(shape, dim).expand(shape)
            return run(node, places) if run else self._execute(node, twin, places)

        return probe

    def _assign(self, value: Any, results: list[_Moved]) -> Any:
        """Give each executed label tensor to the result's dim that holds the same depths."""
        if isinstance(value, (tuple, list)):
            return [self._assign(v, [moved.item(i) for moved in results]) for i, v in enumerate(value)]
        if not isinstance(value, Tensor):
            return None
        fields: Fields = {}
        for moved in results:
            same = [
                dim
                for dim, parts in enumerate(value.dims)
                if dim not in fields and not is_fixed(parts) and set(self.facts.depths.roots(parts)) & set(moved.depths)
            ]
            if len(same) > 1:  # of dims that change together, the one along which the places vary
                placed = _compressed(moved.probe())
                same.sort(key=lambda dim: -placed.shape[dim])
            if same:
                fields[same[0]] = _compressed(_compressed(moved.labels, same[0]) % _PLACE, same[0])
        return fields

    def _execute(self, node: fx.Node, operand: fx.Node, labels: torch.Tensor) -> Any:
        """The operator of ``node`` on labels in place of ``operand``."""

        def real(argument: Any) -> Any:
            if argument is operand:
                return labels
            if isinstance(argument, fx.Node):
                val = argument.meta["val"]
                return torch.zeros(val.shape, dtype=val.dtype) if isinstance(val, torch.Tensor) else val
            return argument

        args, kwargs = fx.node.map_aggregate((node.args, dict(node.kwargs)), real)
        if node.op == "call_module":
            return (node.graph.owning_module or self.root).get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            name = "reshape" if node.target == "view" else str(node.target)  # labels are expanded
            return getattr(args[0], name)(*args[1:], **kwargs)
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        return target(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _Moved:
    """Labels of one dim after an operator, the classes of that dim, and (computed when asked for) where it went."""

    depths: list[int]
    labels: Any
    probe: Callable[[], Any]

    def item(self, index: int) -> _Moved:
        return _Moved(self.depths, self.labels[index], lambda: self.probe()[index])


_PLACE = 2.0**31  # label + place * _PLACE is exact in float64


def _places(shape: tuple[int, ...], dim: int) -> torch.Tensor:
    """The position along ``dim``, out of the way of labels."""
    view = [1] * len(shape)
    view[dim] = -1
    return torch.arange(shape[dim], dtype=torch.float64).reshape(view) * _PLACE


def _compressed(field: torch.Tensor, keep: int | None = None) -> torch.Tensor:
    """The field with length 1 along every dim (but ``keep``) where it does not vary."""
    for dim in range(field.ndim):
        if dim != keep and field.shape[dim] > 1:
            first = field.narrow(dim, 0, 1)
            if field.stride(dim) == 0 or bool((field == first).all()):
                field = first
    return field


def match(old: Channels, new: Channels, norms: Mapping[Site, np.ndarray[Any, Any]]) -> dict[Site, np.ndarray[Any, Any]]:
    """For each site the old position of each new position, -1 where the channel is new.

    Channels of one kind are interchangeable. Of each kind the channels of largest group norm (root of the summed
    squares of ``norms`` over all sites that write them) are kept, in their order.
    """
    strength = np.zeros(len(old.kinds))
    for site, values in norms.items():
        np.add.at(strength, old.sites[site], values**2)
    old_kinds, new_kinds = _by_kind(old), _by_kind(new)
    origin: dict[int, int] = {}
    for kind, channels in new_kinds.items():
        candidates = old_kinds.get(kind, [])
        if len(candidates) > len(channels):
            candidates = sorted(sorted(candidates, key=lambda c: -strength[c])[: len(channels)])
        origin.update(zip(channels, candidates, strict=False))
    positions = {}
    for site, here in new.sites.items():
        places: dict[int, list[int]] = defaultdict(list)
        for position, channel in enumerate(old.sites[site].tolist()):
            places[channel].append(position)
        seen: dict[int, int] = defaultdict(int)
        out = np.full(len(here), -1, dtype=np.int64)
        for position, channel in enumerate(here.tolist()):
            if channel in origin:
                out[position] = places[origin[channel]][seen[channel]]
                seen[channel] += 1
        positions[site] = out
    return positions


def _by_kind(channels: Channels) -> dict[int, list[int]]:
    """The channels at the sites, each once, in the order of the graph."""
    found: dict[int, list[int]] = defaultdict(list)
    for channel in np.unique(np.concatenate([np.zeros(1, dtype=np.int64), *channels.sites.values()])).tolist():
        found[int(channels.kinds[channel])].append(channel)
    return found
