"""Follows the ``forward`` of a model along a graph that is known already, and tells in which numbers they differ.

The model is recorded as ever, but no operator runs on the sizes of the model: each node gets the value that its
counterpart in the graph has. So the recording gets through a ``forward`` that would not run at these sizes, and finds
every width that is spelt out in it at once.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from conet_fx.errors import TraceError
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.nodes import attribute, tensors, without_classes
from conet_fx.passes.paths import has_two_paths, mode_of
from conet_fx.passes.record import Recorder
from conet_fx.passes.shapes import Shapes
from conet_fx.passes.two_paths import one_path

Number = int | float


class Owner(NamedTuple):
    """An attribute of a module, or the item of one that is a tuple or a list."""

    path: str
    name: str
    item: int | None = None

    def __str__(self) -> str:
        return ".".join(filter(None, (self.path, self.name))) + ("" if self.item is None else f"[{self.item}]")


class Named(int):
    """An integer that knows which attribute of which module it is (``owner``), or which ones it was computed from:
    ``bases`` holds their values.
    """

    owner: Owner | None
    bases: Mapping[Owner, int]

    @classmethod
    def of(cls, value: int, owner: Owner) -> Named:
        """``value`` as what ``owner`` holds."""
        named = cls(value)
        named.owner, named.bases = owner, {owner: value}
        return named


def _computed(name: str) -> Callable[[Named, Any], Any]:
    """An operator of integers, whose result knows what it was computed from."""

    def compute(self: Named, other: Any) -> Any:
        result = getattr(int, name)(self, other)
        if type(result) is int:
            result = Named(result)
            result.owner, result.bases = None, {**self.bases, **getattr(other, "bases", {})}
        return result

    return compute


for _name in ("add", "sub", "mul", "floordiv"):
    for _operator in (f"__{_name}__", f"__r{_name}__"):
        setattr(Named, _operator, _computed(_operator))


@dataclasses.dataclass(frozen=True)
class Use:
    """A number of the model's where the graph has one: both, the attribute that it was read from, those that it was
    computed from with their values, which node of the graph, which number of that, and where in the user's code:
    operator, "file:line", path of the module.
    """

    found: Number
    wanted: Number
    owner: Owner | None
    bases: Mapping[Owner, int]
    node: str
    place: int
    operator: str
    line: str
    scope: str

    @property
    def differs(self) -> bool:
        """Whether the model has another number than the graph."""
        return self.found != self.wanted and not (math.isnan(self.found) and math.isnan(self.wanted))


@dataclasses.dataclass(frozen=True)
class Followed:
    """The numbers of a model that took the path of a graph; ``reads_mode``: in the other mode, it may take another;
    ``compared``: the attributes in conditions that Python alone has looked at.
    """

    uses: tuple[Use, ...]
    reads_mode: bool
    compared: frozenset[Owner]


def follow(
    model: nn.Module,
    call: Arguments,
    along: fx.GraphModule,
    is_leaf: Callable[[Any], bool],
    flip_mode: bool = False,
) -> Followed | None:
    """The numbers in the ``forward`` of ``model``, in its present mode or the other, held against those of ``along``.

    None where the two differ in more than numbers, or the graph does not run on the tensors of ``call``.
    """
    if has_two_paths(along.graph):
        along = one_path(along, mode_of(model.training != flip_mode))
    for look_into_wrapped in (True, False):
        recorder = Recorder(model, call, is_leaf, flip_mode, look_into_wrapped)
        recorder.shapes = counterparts = _Counterparts(along, call)
        try:
            recorder.record()
        except (TraceError, _Differs):
            if recorder.wrapped:
                continue
            return None
        return Followed(counterparts.uses(), recorder.reads_mode, frozenset(counterparts.compared))
    return None


class _Differs(Exception):
    """The model and the graph differ in more than numbers."""


class _Counterparts(Shapes):
    """The values of recorded nodes: those of the nodes at the same places of a graph, which runs one node at a time,
    as far as the recording has come.
    """

    def __init__(self, along: fx.GraphModule, call: Arguments) -> None:
        super().__init__(torch.device("cpu"))
        self._along = along
        self._call = call
        # a flag of both modes is in no recording
        self._nodes = [node for node in along.graph.nodes if not _is_flag(node)]
        self._twins: dict[fx.Node, fx.Node] = {}
        self._values: dict[fx.Node, Any] = {}
        self._uses: dict[fx.Node, list[Use]] = {}
        self.compared: set[Owner] = set()

    def of(self, node: fx.Node, root: nn.Module, value: Callable[[fx.Node], Any]) -> Any:
        for operand in node.all_input_nodes:
            value(operand)  # a tensor that fx found in a plain attribute gets its value now
        new, last = [], next(iter(reversed(node.graph.nodes)))
        while last.op != "root" and last not in self._twins:
            new.append(last)
            last = last.prev
        first = len(node.graph.nodes) - len(new)
        if first + len(new) > len(self._nodes):
            raise _Differs
        for index, ours in enumerate(reversed(new), start=first):
            self._pair(ours, self._nodes[index], root)
        if node.op == "output" and len(node.graph.nodes) != len(self._nodes):
            raise _Differs
        twin = self._twins[node]
        if _is_condition(twin):
            return super().of(node, root, value)
        return self._value(twin)

    def uses(self) -> tuple[Use, ...]:
        """The numbers that were compared."""
        return tuple(use for node, uses in self._uses.items() if not node._erased for use in uses)

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            self._values[node] = super().of(node, self._along, self._value)
        return self._values[node]

    def _pair(self, ours: fx.Node, theirs: fx.Node, root: nn.Module) -> None:
        target, arguments, keywords = ours.target, [*ours.args], dict(ours.kwargs)
        if theirs.target in (tuple, dict):  # as a recipe holds it
            target, arguments, keywords = without_classes(target, arguments, keywords)
        if ours.op != theirs.op or target != theirs.target:
            raise _Differs
        if ours.op == "placeholder":
            self._values[theirs] = self._call[str(target)]
        other = [*theirs.args]
        if target is torch._assert:  # what follows is a text, in which numbers may stand
            arguments, other = arguments[:1], other[:1]
        found = list(self._numbers((arguments, keywords), (other, dict(theirs.kwargs))))
        name = getattr(target, "__name__", str(target))
        if ours.op == "get_attr" and isinstance(tensor := attribute(root, str(target)), torch.Tensor):
            name = "a tensor that forward makes"  # parameters and buffers are those of the graph
            found += self._numbers(tuple(tensor.shape), tuple(attribute(self._along, str(target)).shape))
        self._twins[ours] = theirs
        uses = []
        for place, (our, their) in enumerate(found):
            known = next((node.meta for node in (ours, *ours.users) if node.meta.get("source")), {})
            line, scope = known.get("source", ""), known.get("scope", "")
            owner, bases = getattr(our, "owner", None), getattr(our, "bases", {})
            uses.append(Use(our, their, owner, bases, theirs.name, place, name, line, scope))
        if _is_condition(theirs):
            self.compared.update(base for use in uses for base in use.bases)
            uses = []
        elif any(use.differs for use in uses) and self._are_the_same(ours, theirs):
            uses = []
        self._uses[ours] = uses

    def _numbers(self, ours: Any, theirs: Any) -> Iterator[tuple[Number, Number]]:
        """The pairs of numbers at the same places of two nests. Raises where they differ in more."""
        if isinstance(ours, fx.Node):
            if self._twins.get(ours) is not theirs:
                raise _Differs
        elif isinstance(ours, (tuple, list)):
            if not isinstance(theirs, (tuple, list)) or len(ours) != len(theirs):
                raise _Differs
            for a, b in zip(ours, theirs, strict=True):
                yield from self._numbers(a, b)
        elif isinstance(ours, Mapping):
            if not isinstance(theirs, Mapping) or ours.keys() != theirs.keys():
                raise _Differs
            for key, a in ours.items():
                yield from self._numbers(a, theirs[key])
        elif isinstance(ours, slice):
            if not isinstance(theirs, slice):
                raise _Differs
            bounds = ((each.start, each.stop, each.step) for each in (ours, theirs))
            yield from self._numbers(*bounds)
        elif isinstance(ours, bool):
            if not (isinstance(theirs, bool) or (isinstance(theirs, fx.Node) and _is_flag(theirs))):
                raise _Differs
        elif isinstance(ours, (int, float)):
            if isinstance(theirs, bool) or not isinstance(theirs, (int, float)):
                raise _Differs
            yield ours, theirs
        elif not (type(ours) is type(theirs) and (ours == theirs or isinstance(ours, (torch.dtype, torch.device)))):
            raise _Differs

    def _are_the_same(self, ours: fx.Node, theirs: fx.Node) -> bool:
        """Whether the numbers of two nodes mean the same: ``x[:, :64]`` of 48 channels, -7 where the graph has 49."""
        values = {node: self._value(self._twins[node]) for node in ours.all_input_nodes}
        if ours.target is operator.setitem:
            owner, index, _ = cast(tuple[Any, ...], map_arg(ours.args, values.__getitem__))
            other, their_index, _ = cast(tuple[Any, ...], map_arg(theirs.args, self._value))
            return _part(owner, index) == _part(other, their_index) is not None
        try:
            found = tensors(super().of(ours, self._along, values.__getitem__))
        except Exception:  # whatever an operator has against such numbers
            return False
        wanted = tensors(self._value(theirs))
        if ours.target in _BY_SHAPE:
            return [t.shape for t in found] == [t.shape for t in wanted]
        storages = {tensor.untyped_storage()._cdata for tensor in tensors(list(values.values()))}
        return all(t.untyped_storage()._cdata in storages for t in (*found, *wanted)) and (
            [*map(_layout, found)] == [*map(_layout, wanted)] != []
        )


def _part(tensor: torch.Tensor, index: Any) -> tuple[Any, ...] | None:
    """Which part of a tensor an index means, or None where that is no view of it."""
    part = tensor[index]
    return _layout(part) if part.untyped_storage()._cdata == tensor.untyped_storage()._cdata else None


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


# what they give is told by its shape
_BY_SHAPE = {"reshape", "view", "expand", "repeat", torch.reshape}


def _is_condition(node: fx.Node) -> bool:
    """Whether a node compares numbers for Python alone: the graph has those of the network that it was made of."""
    return node.target in _COMPARISONS and not node.users


_COMPARISONS = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}


def _is_flag(node: fx.Node) -> bool:
    """Whether a node reads the mode of the graph."""
    module = node.graph.owning_module
    return node.op == "get_attr" and module is not None and isinstance(attribute(module, str(node.target)), bool)
