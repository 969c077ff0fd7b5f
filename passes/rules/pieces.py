"""Operators that cut a dim in pieces: chunks, splits, slices, single positions."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import torch

from conet_fx.passes.call import Call, Int, NoRule, Tensor, Value, fixed_like
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import Rule


class Chunk(Rule):
    """chunk into equal pieces."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        results = call.node.meta["val"]
        if is_fixed(dims[axis]):
            return [with_dim(dims, axis, (r.shape[axis],)) for r in results]
        count = call.number("chunks")
        if not isinstance(count, int):
            raise NoRule("a number of pieces that is no integer")
        return [with_dim(dims, axis, piece) for piece in call.depths.pieces(dims[axis], count, call.why)]


@dataclasses.dataclass(frozen=True)
class TensorSplit(Rule):
    """tensor_split, hsplit, vsplit, dsplit: into a number of equal pieces, or at a list of offsets.

    ``fixed_axis`` is the dim where the operator has no such argument.
    """

    fixed_axis: int | None = None

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        axis = call.axis() if self.fixed_axis is None else self.fixed_axis
        lengths = [r.shape[axis] for r in call.node.meta["val"]]
        if is_fixed(dims[axis]):
            return [with_dim(dims, axis, (n,)) for n in lengths]
        sections = call.raw("sections")
        if isinstance(call.concrete(sections), int):
            pieces = call.depths.pieces(dims[axis], call.concrete(sections), call.why)
            return [with_dim(dims, axis, piece) for piece in pieces]
        if not isinstance(sections, (tuple, list)):
            raise NoRule("offsets that are not in a list")
        if any(not 0 <= offset <= call.size(dims[axis]) for offset in call.concrete(sections)):
            raise NoRule("offsets from the end")
        pieces = _cut(call, dims[axis], lengths, [(call.value(s), 0, i) for i, s in enumerate(sections, 1)])
        before: Dim = ()
        for index, piece in enumerate(pieces[:-1]):
            before = (*before, *piece)
            call.rewrite("sections", before, index)
        return [with_dim(dims, axis, piece) for piece in pieces]


class Split(Rule):
    """split by a size or a list of sizes."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        lengths = [r.shape[axis] for r in call.node.meta["val"]]
        if is_fixed(dims[axis]):
            return [with_dim(dims, axis, (n,)) for n in lengths]
        given = call.raw("sizes")
        if isinstance(given, (tuple, list)):
            pieces = _cut(call, dims[axis], lengths, [(call.value(g), i, i + 1) for i, g in enumerate(given)])
            for index, piece in enumerate(pieces):
                call.rewrite("sizes", piece, index)
        elif len(set(lengths)) == 1:
            pieces = call.depths.pieces(dims[axis], len(lengths), call.why)
            call.rewrite("sizes", pieces[0])
        else:
            call.freeze(dims[axis], because="splits into unequal pieces by one size")
            pieces = [(n,) for n in lengths]
        return [with_dim(dims, axis, piece) for piece in pieces]


class Select(Rule):
    """select(dim, index): one position of a dim, which must not hold channels."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        call.freeze(dims[axis], because="takes one channel by its number")
        return Tensor(dims[:axis] + dims[axis + 1 :])


class Narrow(Rule):
    """narrow(dim, start, length): a slice, whose numbers follow where they are literals or computed from sizes."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        dim, size = dims[axis], call.size(dims[axis])
        start, length = call.number("start"), call.number("length")
        if is_fixed(dim):
            return with_dim(dims, axis, (length,))
        if not isinstance(start, int):
            raise NoRule("a start that is a tensor")
        start %= size + 1 if start >= 0 else size
        given = [(call.operand("start"), 0, 1), (call.operand("length"), 1, 2)]
        before, piece, _ = _cut(call, dim, [start, length, size - start - length], given)
        call.rewrite("start", before)
        call.rewrite("length", piece)
        return with_dim(dims, axis, piece)


class Unbind(Rule):
    """unbind along a dim without channels."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        call.freeze(dims[axis], because="takes the channels apart one by one")
        return [Tensor(dims[:axis] + dims[axis + 1 :]) for _ in call.node.meta["val"]]


class GetItem(Rule):
    """``x[...]``: an item of a tuple, or slices, numbers, None and index tensors on a tensor."""

    def depth(self, call: Call) -> Value:
        value = call.operand("input")
        index = call.raw("index")
        if not isinstance(value, Tensor):
            if isinstance(value, (tuple, list)) and not isinstance(index, torch.fx.Node):
                return value[index]
            return (
                value[call.number("index")] if isinstance(value, (tuple, list)) else fixed_like(call.node.meta["val"])
            )
        return Tensor(self.place(call, call.shape))

    def place(self, call: Call, shape: tuple[int, ...]) -> tuple[Dim, ...]:
        """The dims of ``input[index]``, which has the present ``shape``; cuts and freezes what the index says."""
        index = call.raw("index")
        items, paths = (list(index), True) if isinstance(index, tuple) else ([index], False)
        used = sum(item is not None and item is not Ellipsis for item in items)
        dims = list(call.dims())
        out: list[Dim] = []
        axis = 0
        picked: list[torch.Size] = []  # shapes of index tensors, which broadcast
        at: list[int] = []  # where each of them stands among the dims that are left
        for position, item in enumerate(items):
            where: tuple[int, ...] = (position,) if paths else ()
            if item is None:
                out.append((1,))
            elif item is Ellipsis:
                width = len(dims) - used
                out += dims[axis : axis + width]
                axis += width
            elif isinstance(item, slice):
                out.append(self._slice(call, dims[axis], item, where))
                axis += 1
            elif isinstance(call.concrete(item), torch.Tensor) or isinstance(item, (list, tuple, bool)):
                call.freeze(dims[axis], because="picks channels by an index tensor")
                picked.append(torch.as_tensor(call.concrete(item)).shape)
                at.append(len(out))
                axis += 1
            else:
                call.freeze(dims[axis], because="takes one channel by its number")
                axis += 1
        out += dims[axis:]
        if at:  # with slices between them the dims of index tensors come first
            first = at[0] if at[0] == at[-1] else 0
            out[first:first] = [(n,) for n in torch.broadcast_shapes(*picked)]  # type: ignore[no-untyped-call]
        if len(out) != len(shape) or any(call.size(d) != n for d, n in zip(out, shape, strict=True)):
            raise NoRule("this way of indexing")
        return tuple(out)

    def labels(self, call: MarkCall) -> Any:
        if isinstance(call.raw("input").meta["val"], torch.Tensor):
            return call.moved()
        return call.item("input", call.number("index"))

    def _slice(self, call: Call, dim: Dim, item: slice, where: tuple[int, ...]) -> Dim:
        size = call.size(dim)
        bounds = slice(*(call.concrete(a) for a in (item.start, item.stop, item.step)))
        start, stop, step = bounds.indices(size)
        if step < 1:
            raise NoRule("a slice with a step that is not positive")
        stop = max(start, stop)
        length = len(range(start, stop, step))
        if is_fixed(dim) or (start, stop, step) == (0, size, 1):
            if not is_fixed(dim) and item.start is not None:
                call.rewrite("index", (), *where, "start")
            if not is_fixed(dim) and item.stop is not None:
                call.rewrite("index", dim, *where, "stop")
            return dim if length == size else (length,)
        if step > 1:
            if (start, stop) != (0, size) and not (start < step and stop == size):
                call.freeze(dim, because="takes every n-th channel of a range")
                return (length,)
            if item.stop is not None:
                call.rewrite("index", dim, *where, "stop")
            return call.depths.pieces(dim, step, call.why)[0] if size % step == 0 else _frozen(call, dim, length)
        lengths = [start, stop - start, size - stop]
        before, piece, _ = _cut(call, dim, lengths, [(call.value(item.start), 0, 1), (call.value(item.stop), 0, 2)])
        if item.start is not None:
            call.rewrite("index", before, *where, "start")
        if item.stop is not None:
            call.rewrite("index", (*before, *piece), *where, "stop")
        return piece


def _frozen(call: Call, dim: Dim, length: int) -> Dim:
    call.freeze(dim, because="takes channels in a way that cannot follow another size")
    return (length,)


class Glu(Rule):
    """glu: the first half of a dim times the sigmoid of the second."""

    def _axis(self, call: Call | MarkCall, ndim: int) -> int:
        return int(call.module.dim if call.node.op == "call_module" else call.number("dim")) % ndim

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        axis = self._axis(call, len(dims))
        return with_dim(dims, axis, call.depths.pieces(dims[axis], 2, call.why)[0])

    def labels(self, call: MarkCall) -> Any:
        axis, shape = self._axis(call, len(call.shape())), call.shape()
        out: Fields = {}
        for dim, field in call.fields().items():
            if dim == axis or field.shape[axis] > 1:
                wide = field.expand([shape[d] if d == axis else n for d, n in enumerate(field.shape)])
                value, gate = wide.chunk(2, axis)
                call.marker.link(value, gate)
                field = value
            out[dim] = field
        return out


def with_dim(dims: tuple[Dim, ...], axis: int, dim: Dim) -> Tensor:
    return Tensor((*dims[:axis], dim, *dims[axis + 1 :]))


def _cut(call: Call, dim: Dim, lengths: list[int], given: list[tuple[Value, int, int]]) -> list[Dim]:
    """Pieces of the given present lengths: independent where their sizes are literals, as long as other channels where
    they are computed from these, and in proportion where they are computed from ``dim`` itself.

    ``given``: a value, and the first piece and the one behind the last whose length it says.
    """
    computed = [(v.dim, first, end) for v, first, end in given if isinstance(v, Int) and not is_fixed(v.dim)]
    total = call.size(dim)
    dim, own = call.depths.resolve(dim), set(call.depths.roots(dim))
    elsewhere = all(
        own.isdisjoint(call.depths.roots(size)) and call.size(size) == sum(lengths[first:end])
        for size, first, end in computed
    )
    offsets = [sum(lengths[: i + 1]) for i in range(len(lengths) - 1)]
    if not elsewhere and not set(offsets) <= {call.size(dim[:i]) for i in range(len(dim) + 1)}:
        call.depths.proportion([dim], f"is cut in proportion together with channels of a fixed number: {call.why}")
        return [call.depths.scale(dim, Fraction(n, total), call.why) if n else () for n in lengths]
    inner = [o for o in dict.fromkeys(offsets) if 0 < o < total]
    cuts = iter(call.depths.cut(dim, inner, call.why))
    pieces = [next(cuts) if length else () for length in lengths]
    if elsewhere:
        for size, first, end in computed:
            call.tie(tuple(part for piece in pieces[first:end] for part in piece), size)
    return pieces
