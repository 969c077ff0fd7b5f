"""Operators that pick positions by an index, or put values at some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import fx

from conet_fx.passes.call import Call, Int, NoRule, Tensor, Value, Written
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import NodeKind, Rule
from conet_fx.passes.rules.pieces import GetItem

_BY_INDEX = "picks channels by an index tensor"


class IndexSelect(Rule):
    """index_select(dim, index): that dim must not hold channels, since an index names them one by one."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        call.freeze(dims[axis], because=_BY_INDEX)
        return Tensor((*dims[:axis], (call.shape[axis],), *dims[axis + 1 :]))

    def labels(self, call: MarkCall) -> Any:
        axis = call.axis()
        return {d: call.marker.collapse(f, (axis,)) for d, f in call.fields().items() if d != axis}


class Gather(Rule):
    """gather and take_along_dim: the other dims of the index are those of the input."""

    def depth(self, call: Call) -> Value:
        dims, index = call.dims(), call.dims("index")
        if len(dims) != len(index):
            raise NoRule("an index with another number of dims")
        axis = call.axis()
        call.freeze(dims[axis], because=_BY_INDEX)
        out: list[Dim] = []
        for d, (own, other) in enumerate(zip(dims, index, strict=True)):
            if d != axis:
                if call.size(own) != call.size(other):
                    raise NoRule("an index of another shape")
                call.tie(own, other)
            out.append(own if d != axis and not is_fixed(own) else other)
        return Tensor(tuple(out))

    def labels(self, call: MarkCall) -> Any:
        axis, fields = call.axis(), {}
        for d, field in call.fields("index").items():
            fields[d] = call.marker.collapse(field, (axis,)) if d != axis else field
        for d, field in call.fields().items():
            if d != axis:
                field = call.marker.collapse(field, (axis,))
                if d in fields:
                    call.marker.link(fields[d], field)
                fields[d] = field
        return fields


class Scatter(Rule):
    """scatter, index_add and the like: values at places along one dim, which must not hold channels. The other dims of
    the values, and of an index that has them, are those of the input.
    """

    kind: ClassVar[NodeKind] = "summation"

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        call.freeze(dims[axis], because=_BY_INDEX)
        for name in ("index", "src"):
            given = call.operand(name)
            if not isinstance(given, Tensor) or not given.dims:
                continue  # one number for all places
            if name == "index" and len(given.dims) == 1 < len(dims):
                call.freeze(given.dims[0], because=_BY_INDEX)
                continue
            if len(given.dims) != len(dims):
                raise NoRule("values with another number of dims")
            for d, (own, other) in enumerate(zip(dims, given.dims, strict=True)):
                if d == axis:
                    call.freeze(other, because=_BY_INDEX)
                elif call.size(own) != call.size(other):
                    raise NoRule("values for some of the channels")
                else:
                    call.tie(own, other)
        return Tensor((*dims[:axis], (call.size(dims[axis]),), *dims[axis + 1 :]))

    def labels(self, call: MarkCall) -> Any:
        axis, ndim, out = call.axis(), len(call.shape()), Fields()
        for name in ("input", "index", "src"):
            if isinstance(call.raw(name), fx.Node) and len(call.shape(name)) == ndim:
                for d, field in call.fields(name).items():
                    if d != axis:
                        call.marker.join(out, d, call.marker.collapse(field, (axis,)))
        return out


class TopK(Rule):
    """topk: the largest values along a dim, of which there must remain as many as are asked for."""

    def depth(self, call: Call) -> Value:
        dims, axis, count = call.dims(), call.axis(), call.operand("k")
        call.mixes(dims[axis])
        if not isinstance(count, Int):
            raise NoRule("a number that is not known")
        if is_fixed(count.dim):
            call.depths.at_least(dims[axis], call.number("k"))
        out = Tensor((*dims[:axis], count.dim, *dims[axis + 1 :]))
        return [out, out]

    def labels(self, call: MarkCall) -> Any:
        axis = call.axis()
        out: Fields = {d: call.marker.collapse(f, (axis,)) for d, f in call.fields().items() if d != axis}
        if not is_fixed(call.result[0].dims[axis]):
            shape = call.out[0]
            out[axis] = call.spread(call.marker.fresh(call.node.name, shape[axis]), axis, len(shape))
        return [out, out]


class SetItem(Rule):
    """``y[index] = value``: the value has the dims of ``y[index]``, and slices cut channels as they do when read.

    A mask is taken where it has the dims of ``y`` and the value is a number.
    """

    kind: ClassVar[NodeKind] = "summation"

    def depth(self, call: Call) -> Value:
        value = call.operand("value")
        if _is_mask(call.concrete(call.raw("index"))):
            if isinstance(value, Tensor) and value.dims:
                raise NoRule("a mask and a tensor of values")
            for own, same in zip(call.dims(), call.dims("index"), strict=False):
                call.tie(own, same)
            return Written(())
        shape = torch.empty([call.size(d) for d in call.dims()], device="meta")[
            _plain(call.concrete, call.raw("index"))
        ]
        place = GetItem().place(call, tuple(shape.shape))
        if isinstance(value, Tensor):
            offset = len(place) - len(value.dims)
            if offset < 0:
                raise NoRule("a value with more dims than its place")
            for own, given in zip(place[offset:], value.dims, strict=True):
                if call.size(given) == call.size(own):
                    call.tie(own, given)
                else:
                    call.freeze(given, because="broadcasts one channel")
        return Written(place)

    def labels(self, call: MarkCall) -> Any:
        value = call.raw("value")
        if _is_mask(call.number("index")):
            here = call.fields()
            for dim, labels in call.fields_of(call.raw("index")).items():
                shape = (*labels.shape, *[1] * (len(call.shape()) - labels.ndim))
                call.marker.link(here[dim], labels.reshape(shape))
            return {}
        here = call.moved(run=lambda node, labels: labels[_plain(call.concrete, node.args[1])])
        offset = len(call.result.dims) - len(call.shape_of(value))
        for dim, labels in call.fields_of(value).items():
            if dim + offset in here and call.traced_shape(value)[dim] == call.facts.depths.size(
                call.result.dims[dim + offset]
            ):
                call.marker.link(here[dim + offset], labels.reshape((1,) * offset + labels.shape))
        return here  # what is written is told from the rest


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _plain(concrete: Callable[[Any], Any], index: Any) -> Any:
    """An index with the present numbers in place of nodes; tensors as zeros, since only shapes matter."""
    if isinstance(index, tuple):
        return tuple(_plain(concrete, item) for item in index)
    if isinstance(index, slice):
        return slice(*(concrete(a) for a in (index.start, index.stop, index.step)))
    value = concrete(index)
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) else value
