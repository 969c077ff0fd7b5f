"""Two tensors compared: similarities, distances, losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from conet_fx.passes.call import Call, NoRule, Tensor, Value
from conet_fx.passes.depth import is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import Rule
from conet_fx.passes.rules.keep import Summation


class Similarity(Summation):
    """Two tensors compared along ``dim``, which the result loses: cosine similarity, pairwise distance."""

    pairs: ClassVar[bool] = True

    def _axis(self, call: Call | MarkCall, ndim: int) -> int:
        owner = call.module if call.node.op == "call_module" else None
        return int(getattr(owner, "dim", call.number("dim"))) % ndim

    def _keeps(self, call: Call | MarkCall) -> bool:
        owner = call.module if call.node.op == "call_module" else None
        return bool(getattr(owner, "keepdim", call.number("keepdim")))

    def depth(self, call: Call) -> Value:
        a, b = call.dims(), call.dims("other")
        if len(a) != len(b):
            raise NoRule("tensors with different numbers of dims")
        axis = self._axis(call, len(a))
        dims = [call.meet(pair) for pair in zip(a, b, strict=True)]
        call.mixes(dims[axis])
        return Tensor((*dims[:axis], *(((1,),) if self._keeps(call) else ()), *dims[axis + 1 :]))

    def labels(self, call: MarkCall) -> Any:
        ndim = len(call.shape())
        axis, keeps = self._axis(call, ndim), self._keeps(call)
        out: Fields = {}
        _pair(call, (axis,))
        for name in ("input", "other"):
            shape = call.traced_shape(call.raw(name))
            for dim, field in call.fields(name).items():
                to = dim - (dim > axis and not keeps)
                if dim == axis or (shape[dim] == 1 and call.traced_out[to] != 1):
                    continue
                field = call.marker.collapse(field, (axis,))
                field = field if keeps else field.squeeze(axis)
                call.marker.join(out, to, field)
        return out


class Loss(Rule):
    """Two tensors compared element by element, and summed up or averaged unless told otherwise (``F.mse_loss``)."""

    pairs: ClassVar[bool] = True

    def depth(self, call: Call) -> Value:
        a, b = call.dims(), call.dims("other")
        if len(a) != len(b):
            raise NoRule("tensors with different numbers of dims")
        dims = tuple(call.meet(pair) for pair in zip(a, b, strict=True))
        if call.shape or not dims:
            return Tensor(dims)
        for dim in dims:
            if not is_fixed(dim):
                call.mixes(dim)
        return Tensor(())

    def labels(self, call: MarkCall) -> Any:
        dims = range(len(call.shape()))
        _pair(call, dims)
        fields = call.fields("other") | call.fields()
        return {dim: fields[dim] for dim in dims if dim in fields} if call.traced_out else {}


class ClassLoss(Rule):
    """cross_entropy and nll_loss: scores of classes, which the target numbers."""

    def depth(self, call: Call) -> Value:
        call.freeze(*call.dims(), *call.dims("other"), because="compares channels with numbers of classes")
        return Tensor(tuple((n,) for n in call.shape))


class Distances(Rule):
    """cdist: how far each row of one tensor is from each row of another."""

    pairs: ClassVar[bool] = True

    def depth(self, call: Call) -> Value:
        a, b = call.dims(), call.dims("other")
        if len(a) != len(b):
            raise NoRule("tensors with different numbers of dims")
        call.mixes(call.meet((a[-1], b[-1])))
        return Tensor((*(call.meet(pair) for pair in zip(a[:-2], b[:-2], strict=True)), a[-2], b[-2]))

    def labels(self, call: MarkCall) -> Any:
        last = len(call.shape()) - 1
        _pair(call, (last,))
        out: Fields = {}
        for name, row in (("input", last - 1), ("other", last)):
            for dim, field in call.fields(name).items():
                if dim == last:
                    continue
                field = call.marker.collapse(field, (last,))
                to = row if dim == last - 1 else dim
                field = field if row != last else field.movedim(last - 1, last)
                call.marker.join(out, to, field)
        return out


def _pair(call: MarkCall, dims: Iterable[int]) -> None:
    """What stands at one place of both operands is one channel."""
    a, b = call.fields(), call.fields("other")
    shapes = [call.traced_shape(call.raw(name)) for name in ("input", "other")]
    for dim in dims:
        if dim in a and dim in b and shapes[0][dim] == shapes[1][dim]:
            call.marker.link(a[dim], b[dim])
