"""Operators that keep the channel axis, join it element by element, reduce it or sum over it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch

from conet_fx.passes.call import Call, NoRule, Tensor, Value, dims_in, fixed_like
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import NodeKind, Rule, each


class Elementwise(Rule):
    """One tensor in, the same shape out: activations, dropout, casts, comparisons with a number."""

    def depth(self, call: Call) -> Value:
        val = call.node.meta["val"]
        call.mixes_counts()
        if isinstance(val, (list, tuple, dict)):
            raise NoRule("it is given several values")
        return Tensor(call.dims()) if isinstance(val, torch.Tensor) else fixed_like(val)  # x.type() is a name

    def labels(self, call: MarkCall) -> Any:
        return call.fields() if isinstance(call.result, Tensor) else None


@dataclasses.dataclass(frozen=True)
class Spatial(Rule):
    """Keeps all dims but the last ``count``, which get a new fixed size: pools, interpolation, spatial padding.

    ``mixes``: the operator also works across channels (local response norm), which keeps sizes but not functions.
    """

    count: int

    def depth(self, call: Call) -> Value:
        return each(call.out_shapes, lambda shape: self._one(call, shape))

    def _one(self, call: Call, shape: tuple[int, ...]) -> Tensor:
        dims = call.dims()
        count = self.count or len(dims) - 2
        call.freeze(*dims[len(dims) - count :], because="works along a dim that holds channels")
        return Tensor((*dims[: len(dims) - count], *((n,) for n in shape[len(dims) - count :])))

    def labels(self, call: MarkCall) -> Any:
        ndim = len(call.shape())
        count = self.count or ndim - 2
        last = tuple(range(ndim - count, ndim))
        fields = {d: call.marker.collapse(f, last) for d, f in call.fields().items() if d not in last}
        return each(call.out, lambda _: fields)


@dataclasses.dataclass(frozen=True)
class Mixing(Rule):
    """Keeps all dims but mixes values along ``dim`` (softmax, cumsum, sort, local response norm, normalize).

    ``axis`` is the dim of an operator that has no argument for it. A softmax without a dim takes dim 0 of a value with
    0, 1 or 3 dims, else dim 1.
    """

    axis: int | None = None

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        axis = self.axis
        if axis is None:
            given = call.module.dim if call.node.op == "call_module" else call.number("dim")
            axis = given if given is not None else 0 if len(dims) in (0, 1, 3) else 1
        call.mixes(dims[axis] if dims else ())
        return each(call.out_shapes, lambda _: Tensor(dims))

    def labels(self, call: MarkCall) -> Any:
        return each(call.out, lambda _: call.fields())


class Renorm(Rule):
    """renorm: each slice along ``dim`` is scaled down to a largest norm over its other dims."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        for place, dim in enumerate(dims):
            if place != axis and not is_fixed(dim):
                call.mixes(dim)
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        return call.fields()


class Summation(Rule):
    """Element-wise on several tensors: their dims are tied; a dim of length 1 broadcasts and ties nothing."""

    kind: ClassVar[NodeKind] = "summation"

    def depth(self, call: Call) -> Value:
        operands = [v for v in map(call.value, call.node.all_input_nodes) if isinstance(v, Tensor)]
        if not operands:
            return self._on_numbers(call)
        call.mixes_counts()
        ndim = len(call.shape)
        out: list[Dim] = []
        for axis in range(-ndim, 0):
            out.append(call.meet([v.dims[axis] for v in operands if len(v.dims) >= -axis]))
        return Tensor(tuple(out))

    def _on_numbers(self, call: Call) -> Value:
        numbers = [call.value(a) for a in call.node.args]
        call.freeze(*dims_in(numbers), because="computes with a channel count in a way that is not followed")
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        if not isinstance(call.result, Tensor):
            return None
        ndim = len(call.result.dims)
        out: Fields = {}
        for node in call.node.all_input_nodes:
            shape = call.traced_shape(node)
            for dim, field in call.fields_of(node).items():
                axis = dim + ndim - len(shape)
                if shape[dim] == 1 and call.traced_out[axis] != 1:
                    continue
                field = field.reshape((1,) * (ndim - len(shape)) + field.shape)
                call.marker.join(out, axis, field)
        return out


class ByMode(Summation):
    """The value of one mode or of the other (:func:`conet_fx.passes.paths.by_mode`): the channels of both are the same
    ones, as those of summands. What a network returns is no such place: :class:`Output` freezes both.
    """

    def depth(self, call: Call) -> Value:
        if _is_returned(call.node):
            return call.value(call.node.args[1 if call.root.training else 2])
        return super().depth(call)

    def labels(self, call: MarkCall) -> Any:
        return None if _is_returned(call.node) else super().labels(call)


def _is_returned(node: torch.fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


@dataclasses.dataclass(frozen=True)
class Reduce(Rule):
    """Reduces over dims (mean, sum, max ...); without a dim, over all of them."""

    def _axes(self, call: Call | MarkCall, ndim: int) -> tuple[int, ...]:
        dim = call.number("dim")
        if dim is None or dim == []:
            return tuple(range(ndim))
        if isinstance(dim, int):
            dim = (dim,)
        if not all(isinstance(d, int) for d in dim):
            raise NoRule("reduces between two tensors")
        return tuple(d % ndim for d in dim)

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        if isinstance(call.raw("dim"), torch.fx.Node) and isinstance(call.operand("dim"), Tensor):
            return Summation().depth(call)  # torch.max(a, b)
        axes = self._axes(call, len(dims))
        keep = bool(call.number("keepdim"))
        for axis in axes:
            if not is_fixed(dims[axis]):
                call.mixes(dims[axis])
        out = tuple(((1,) if axis in axes else dim) for axis, dim in enumerate(dims) if keep or axis not in axes)
        return each(call.out_shapes, lambda _: Tensor(out))

    def labels(self, call: MarkCall) -> Any:
        if isinstance(call.raw("dim"), torch.fx.Node):
            return Summation().labels(call)
        ndim = len(call.shape())
        axes = self._axes(call, ndim)
        keep = bool(call.number("keepdim"))
        out: Fields = {}
        for dim, field in call.fields().items():
            if dim in axes:  # the result has none of these channels, which stay different ones all the same
                continue
            field = call.marker.collapse(field, axes)
            if keep:
                out[dim] = field
            else:
                shape = [n for axis, n in enumerate(field.shape) if axis not in axes]
                out[dim - sum(axis < dim for axis in axes)] = field.reshape(shape)
        return each(call.out, lambda _: out)
