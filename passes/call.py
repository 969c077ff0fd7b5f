"""One operator being followed: its operands by name, and what a rule may say about it.

A rule (:mod:`conet_fx.passes.rules`) sees nothing but its :class:`Call`. It reads the channel axes of its operands,
ties, cuts and freezes depths, and notes down what the rewriter needs later: which integers in the graph are channel
counts, how the parameters of a layer are laid out, how many multiply-adds the operator costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx, nn

from conet_fx.errors import ConstraintError
from conet_fx.passes.depth import Depths, Dim, is_fixed
from conet_fx.passes.nodes import leaves, source, submodule
from conet_fx.passes.paths import ONLY_IN, Mode


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """The dims of a tensor value, outermost first."""

    dims: tuple[Dim, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Written(Tensor):
    """The dims of the part of a tensor that ``y[index] = value`` writes; the operator itself has no result."""


@dataclasses.dataclass(frozen=True, slots=True)
class Int:
    """A Python integer in the graph, as the dim whose size it is."""

    dim: Dim


Value = Any  # Tensor, Int, a tuple or list of values, or a plain Python value
Path = tuple[str | int, ...]
Kind = Literal["conv", "linear", "depthwise", "norm", "attention", "parameter"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a parameter or buffer is laid out: the dim along each axis, and the role of that axis ("" for none).

    ``blocks`` is the number of groups of a grouped convolution: the axes "in" and "out" of its weight are cut into as
    many blocks, and the second of them holds one block only. ``zeros``: inherited with zeros for new channels.
    """

    name: str
    dims: tuple[Dim, ...]
    roles: tuple[str, ...]
    blocks: int = 1
    zeros: bool = False


@dataclasses.dataclass
class Layer:
    """A module (or a bare parameter) with its dims by role: "in" and "out", or an axis number.

    ``tensors`` and ``attributes`` are named from the module; a dotted name is that of a part of it.
    """

    path: str
    kind: Kind
    dims: dict[str, Dim]
    tensors: tuple[Layout, ...] = ()
    attributes: tuple[tuple[str, Dim | tuple[Dim, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class ChannelCount:
    """An integer argument of a node, which must hold the size of ``dim`` after a resize."""

    node: str
    path: Path
    dim: Dim


@dataclasses.dataclass(frozen=True)
class Macs:
    """``factor`` times the product of ``dims`` multiply-adds.

    None where all of ``summed``, if it is given, are 1: einsum then multiplies element by element. ``only_in``: the
    mode that costs this, where the other does not.
    """

    factor: int
    dims: tuple[Dim, ...]
    summed: tuple[Dim, ...] = ()
    only_in: Mode | None = None


@dataclasses.dataclass(frozen=True)
class Weight:
    """The weight of an operator that is no layer: the node that computes it (or is the parameter), whether it is
    [in, out, *kernel] in place of [out, in, *kernel], and whether the operator is linear and no convolution.
    """

    node: str
    transposed: bool
    linear: bool


@dataclasses.dataclass
class Facts:
    """What the propagation finds out, beside the depths themselves.

    ``literals`` are integers in the graph that are channel counts; ``macs`` are terms that add up to the multiply-adds;
    ``writers`` and ``readers`` hold output and input dims of dense layers by module path, ``weights`` the weights of
    those that are functions in the graph; ``linear`` are the writers that are linear layers; ``reading`` are the sites
    (layer, role) along which a weight is summed with its input; ``unknown`` lists operators that were not followed;
    ``entries`` are the entries of the operator table that were used, by node name (the table may change after).
    """

    depths: Depths = dataclasses.field(default_factory=Depths)
    values: dict[fx.Node, Value] = dataclasses.field(default_factory=dict)
    layers: dict[str, Layer] = dataclasses.field(default_factory=dict)
    literals: list[ChannelCount] = dataclasses.field(default_factory=list)
    macs: list[Macs] = dataclasses.field(default_factory=list)
    writers: dict[str, Dim] = dataclasses.field(default_factory=dict)
    readers: dict[str, Dim] = dataclasses.field(default_factory=dict)
    weights: dict[str, Weight] = dataclasses.field(default_factory=dict)
    linear: set[str] = dataclasses.field(default_factory=set)
    reading: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    unknown: list[str] = dataclasses.field(default_factory=list)
    by_name: dict[str, fx.Node] = dataclasses.field(default_factory=dict)
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)

    @staticmethod
    def moves(value: Value) -> bool:
        """True where some dim of a value holds a depth."""
        return any(not is_fixed(dim) for dim in dims_in(value))


@dataclasses.dataclass(frozen=True)
class Options:
    """``tie_concat``: parts of a concatenation that meets one depth keep their proportion. ``strict``: unknown
    operators raise. ``resize_linear``: what only linear layers write may change too.
    """

    tie_concat: bool = False
    strict: bool = False
    resize_linear: bool = False


class Call:
    """The node that a rule looks at."""

    def __init__(
        self, node: fx.Node, root: nn.Module, names: Mapping[str, Any], facts: Facts, options: Options
    ) -> None:
        self.node = node
        self.root = root
        self.facts = facts
        self.options = options
        self.depths = facts.depths
        self._arguments, self._paths = bind(node, names)

    # --- operands -------------------------------------------------------------------------------------------

    def raw(self, name: str) -> Any:
        """The argument as it stands in the graph."""
        return self._arguments[name]

    def value(self, argument: Any) -> Value:
        """What is known of an argument: nodes are looked up, integers become fixed :class:`Int`."""
        if isinstance(argument, fx.Node):
            return self.facts.values[argument]
        if isinstance(argument, bool) or argument is None:
            return argument
        if isinstance(argument, int):
            return Int((argument,))
        if isinstance(argument, (tuple, list)):
            return [self.value(a) for a in argument]
        return argument

    def operand(self, name: str) -> Value:
        return self.value(self._arguments[name])

    def dims(self, name: str = "input") -> tuple[Dim, ...]:
        """Dims of a tensor operand. Raises ``NoRule`` where the operand is no tensor."""
        value = self.operand(name)
        if not isinstance(value, Tensor):
            raise NoRule(f"its argument {name!r} is not a tensor")
        return value.dims

    def concrete(self, argument: Any) -> Any:
        """The present value of a literal or of a node that holds a plain value."""
        if isinstance(argument, fx.Node):
            return argument.meta["val"]
        if isinstance(argument, (tuple, list)):
            return [self.concrete(a) for a in argument]
        if isinstance(argument, slice):
            return slice(*(self.concrete(a) for a in (argument.start, argument.stop, argument.step)))
        return argument

    def number(self, name: str) -> Any:
        return self.concrete(self._arguments[name])

    def axis(self, name: str = "dim", of: str = "input", extra: int = 0) -> int:
        """A dim argument as a non-negative index."""
        index = self.number(name)
        if not isinstance(index, int):
            raise NoRule(f"its argument {name!r} is not an integer")
        return index % (len(self.dims(of)) + extra)

    @property
    def module(self) -> Any:
        return submodule(self.root, str(self.node.target))

    @property
    def path(self) -> str:
        """Module path of a called module."""
        return str(self.node.target)

    @property
    def out_shapes(self) -> Any:
        """Present shapes of the result: a tuple of sizes, or a nest of them."""
        return shapes(self.node.meta["val"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Present shape of the one tensor that results."""
        val = self.node.meta["val"]
        if not isinstance(val, torch.Tensor):
            raise NoRule("its result is not one tensor")
        return tuple(val.shape)

    @property
    def why(self) -> str:
        return source(self.node)

    # --- statements -----------------------------------------------------------------------------------------

    def tie(self, a: Dim, b: Dim) -> None:
        """Keep two dims equal. Raises ``NoRule`` where they are not equal now."""
        if a == b:
            return
        if self.size(a) != self.size(b):
            raise NoRule(f"{self.size(a)} and {self.size(b)} channels meet")
        self.depths.tie(a, b, f"meets channels of a fixed number in {self.why}")

    def meet(self, dims: Sequence[Dim]) -> Dim:
        """One dim of a result, in which these dims of its operands meet: tied, but for those of length 1, which
        broadcast.
        """
        wide = [dim for dim in dims if self.size(dim) != 1]
        if wide:
            self.freeze(*(dim for dim in dims if self.size(dim) == 1), because="broadcasts one channel")
        meet = wide or dims
        for dim in meet[1:]:
            self.tie(meet[0], dim)
        return next((dim for dim in meet if not is_fixed(dim)), meet[0])

    def freeze(self, *dims: Dim, because: str) -> None:
        for dim in dims:
            self.depths.freeze(dim, f"{because}: {self.why}")

    def mixes(self, dim: Dim) -> None:
        """The operator normalises or reduces over ``dim``."""
        self.depths.note(dim, self.why)

    def mixes_counts(self) -> None:
        """The operator computes with the channel counts among its operands: their values depend on them."""
        for node in self.node.all_input_nodes:
            if isinstance(count := self.facts.values[node], Int):
                self.mixes(count.dim)

    def size(self, dim: Dim) -> int:
        return self.depths.size(dim)

    def rewrite(self, name: str, dim: Dim, *index: str | int) -> None:
        """The argument (or its item at ``index``) is the channel count ``dim``.

        A literal is updated on a resize; a number that the graph computes from sizes follows by itself and is tied.
        """
        given, computed = self._given(name, *index)
        if isinstance(given, Int) and (computed or not is_fixed(given.dim)):
            self.tie(dim, given.dim)
        elif not is_fixed(dim) or (isinstance(given, Int) and self.size(given.dim) != self.size(dim)):
            self.facts.literals.append(ChannelCount(self.node.name, (*self._paths[name], *index), dim))

    def length(self, name: str, *index: str | int) -> Dim:
        """A dim of the length that the argument (or its item at ``index``) asks for: what the graph computed it from,
        a depth of its own where it is a literal, which may follow whatever it meets.
        """
        given, computed = self._given(name, *index)
        if not isinstance(given, Int):
            raise NoRule("its length is not an integer")
        if computed or not is_fixed(given.dim) or (size := self.size(given.dim)) <= 1:
            return given.dim
        return self.depths.new(size)

    def _given(self, name: str, *index: str | int) -> tuple[Any, bool]:
        """The value of an argument (or of its item at ``index``), and whether the graph computes it."""
        given = self._arguments[name]
        computed = isinstance(given, fx.Node)  # y.shape[0], or a whole list of such
        for step in index:
            given = self.value(given) if isinstance(given, fx.Node) else given
            given = getattr(given, step) if isinstance(step, str) else given[step]
            computed |= isinstance(given, fx.Node)
        return self.value(given), computed

    def integers(self, name: str) -> list[Value]:
        """What is known of each integer in a list argument, also where the graph holds the whole list (``y.shape``)."""
        value = self.operand(name)
        return list(value) if isinstance(value, (tuple, list)) else []

    def layer(self, kind: Kind, **dims: Dim) -> Layer:
        """The layer of this node; a layer that is called again ties the dims of both calls."""
        known = self.facts.layers.get(self.path)
        if known is None:
            known = self.facts.layers[self.path] = Layer(self.path, kind, dict(dims))
        for role, dim in dims.items():
            self.tie(known.dims[role], dim)
        return known

    def count(self, factor: int, *dims: Dim, summed: tuple[Dim, ...] = ()) -> None:
        """The operator costs ``factor`` times the product of the dims in multiply-adds (:class:`Macs`)."""
        self.facts.macs.append(Macs(factor, dims, summed, self.node.meta.get(ONLY_IN)))


class NoRule(Exception):
    """A rule does not cover this use of its operator; what touches it is frozen."""


_OTHER_NAMES = {  # of keyword arguments that torch spells in several ways
    "dim": ("axis",),
    "keepdim": ("keepdims",),
    "sizes": ("split_size_or_sections", "split_size", "split_sizes", "size", "repeats"),
    "factor": ("upscale_factor", "downscale_factor"),
    "dims": ("dim",),
    "input": ("self", "x", "a", "x1"),
    "other": ("mat2", "vec", "tensor", "b", "x2"),
    "sections": ("indices_or_sections", "indices", "tensor_indices_or_sections"),
    "src": ("source", "value"),
    "tensors": ("input",),
    "first": ("batch1", "mat1", "mat"),
    "second": ("batch2", "mat2", "vec"),
}


class _Arguments(dict[str, Any]):
    """Arguments by name."""

    def __missing__(self, name: str) -> Any:
        known = ", ".join(self) or "none"
        raise ConstraintError(f"the rule reads an argument {name!r} that its entry does not name (it names {known})")


def bind(node: fx.Node, names: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Arguments of a node by the names in its table entry, and where each stands in the node."""
    arguments: dict[str, Any] = _Arguments()
    paths: dict[str, Path] = {}
    positional = list(node.args)
    for index, (name, default) in enumerate(names.items()):
        starred, name = name.startswith("*"), name.removeprefix("*")
        given = next((k for k in (name, *_OTHER_NAMES.get(name, ())) if k in node.kwargs), name)
        if starred:
            rest = positional[index:]
            if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
                arguments[name], paths[name] = rest[0], ("args", index)
            elif given in node.kwargs:
                arguments[name], paths[name] = node.kwargs[given], ("kwargs", given)
            elif len(rest) == 1 and isinstance(rest[0], fx.Node) and not isinstance(rest[0].meta["val"], int):
                arguments[name], paths[name] = rest[0], ("args", index)
            else:
                arguments[name], paths[name] = tuple(rest), ("args+", index)
        elif index < len(positional):
            arguments[name], paths[name] = positional[index], ("args", index)
        else:
            arguments[name] = node.kwargs.get(given, default)
            paths[name] = ("kwargs", given)
    return arguments, paths


def shapes(val: Any) -> Any:
    if isinstance(val, torch.Tensor):
        return tuple(val.shape)
    if isinstance(val, (tuple, list)):
        return [shapes(v) for v in val]
    return None


def fixed_like(val: Any) -> Value:
    """The value of a result that nothing resizes: every dim fixed at its present size."""
    if isinstance(val, torch.Tensor):
        return Tensor(tuple((n,) for n in val.shape))
    if isinstance(val, bool):
        return val
    if isinstance(val, int):
        return Int((val,))
    if isinstance(val, (tuple, list)):
        return [fixed_like(v) for v in val]
    return val


def dims_in(value: Value) -> list[Dim]:
    """All dims in a nest of values."""
    found: list[Dim] = []
    for leaf in leaves(value):
        if isinstance(leaf, Tensor):
            found += leaf.dims
        elif isinstance(leaf, Int):
            found.append(leaf.dim)
    return found


def product(numbers: Sequence[int]) -> int:
    out = 1
    for number in numbers:
        out *= number
    return out
