"""Operators along dims that an argument names (Fourier transforms, differences), and sampling at given places."""

from __future__ import annotations

import dataclasses
from typing import Any

from conet_fx.passes.call import Call, Int, NoRule, Tensor, Value, dims_in
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import MarkCall
from conet_fx.passes.rules.base import Rule, each
from conet_fx.passes.rules.keep import Spatial
from conet_fx.passes.rules.moves import Permute


def _listed(argument: Any, ndim: int) -> tuple[int, ...]:
    """Dims given as a number, a list, or None for all."""
    if argument is None:
        return tuple(range(ndim))
    return tuple(d % ndim for d in ((argument,) if isinstance(argument, int) else argument))


@dataclasses.dataclass(frozen=True)
class Along(Rule):
    """Keeps all dims but those in ``dim``, along which it works and which get the length of the result.

    ``dims`` names them where the operator has no such argument. They must not hold channels.
    """

    dims: tuple[int, ...] | None = None

    def _along(self, call: Call | MarkCall, ndim: int) -> tuple[int, ...]:
        return _listed(self.dims if self.dims is not None else call.number("dim"), ndim)

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        along = self._along(call, len(dims))
        call.freeze(*(dims[d] for d in along), because="works along a dim that holds channels")
        return each(call.out_shapes, lambda shape: self._one(dims, along, shape))

    @staticmethod
    def _one(dims: tuple[Dim, ...], along: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        if len(shape) != len(dims):
            raise NoRule("its result has other dims")
        return Tensor(tuple((n,) if d in along else dim for d, (dim, n) in enumerate(zip(dims, shape, strict=True))))

    def labels(self, call: MarkCall) -> Any:
        along = self._along(call, len(call.shape()))
        fields = {d: call.marker.collapse(f, along) for d, f in call.fields().items() if d not in along}
        return each(call.out, lambda _: fields)


@dataclasses.dataclass(frozen=True)
class Spectrum(Rule):
    """stft and istft: the last ``count`` dims, which must not hold channels, become others."""

    count: int

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        kept = len(dims) - self.count
        call.freeze(*dims[kept:], because="works along a dim that holds channels")
        return Tensor((*dims[:kept], *((n,) for n in call.shape[kept:])))

    def labels(self, call: MarkCall) -> Any:
        ndim = len(call.shape())
        last, new = tuple(range(ndim - self.count, ndim)), (1,) * (len(call.out) - ndim + self.count)
        fields = {d: call.marker.collapse(field, last) for d, field in call.fields().items() if d not in last}
        return {d: field.reshape(field.shape[: ndim - self.count] + new) for d, field in fields.items()}


class Rotate(Permute):
    """rot90 over space: a turn of two dims. Half a turn leaves them where they are, in reverse order."""

    def depth(self, call: Call) -> Value:
        dims, quarters = call.dims(), call.number("k") % 4
        turned = _listed(call.number("dims"), len(dims))
        if quarters % 2 == 0:
            return Tensor(tuple(dim[::-1] if quarters and axis in turned else dim for axis, dim in enumerate(dims)))
        call.freeze(*(dims[axis] for axis in turned), because="turns channels")
        return super().depth(call)


class Windows(Rule):
    """``x.unfold(dim, size, step)``: the windows along a dim, each laid out along a new last dim."""

    def depth(self, call: Call) -> Value:
        dims, axis = call.dims(), call.axis()
        call.freeze(dims[axis], because="takes windows of channels")
        shape = call.shape
        return Tensor((*dims[:axis], (shape[axis],), *dims[axis + 1 :], (shape[-1],)))


class Unpool(Spatial):
    """Max unpooling: the indices have the dims of the input."""

    def depth(self, call: Call) -> Value:
        for dim, same in zip(call.dims(), call.dims("indices"), strict=True):
            call.tie(dim, same)
        return super().depth(call)

    def labels(self, call: MarkCall) -> Any:
        fields, indices = call.fields(), call.fields("indices")
        for dim in fields.keys() & indices.keys():  # a channel is put where a channel of its number was
            call.marker.link(fields[dim], indices[dim])
        return super().labels(call)


class Sampled(Spatial):
    """grid_sample: values of the input at places that a second tensor gives, whose dims stay."""

    def depth(self, call: Call) -> Value:
        call.freeze(*call.dims("grid"), because="gives places to sample")
        return super().depth(call)


class Grid(Rule):
    """affine_grid: places for each pixel of an image size, in which the channel count is without effect."""

    def depth(self, call: Call) -> Value:
        sizes = call.integers("sizes")
        call.freeze(*call.dims("theta"), because="gives places to sample")
        if any(isinstance(n, Int) and not is_fixed(n.dim) for n in (*sizes[:1], *sizes[2:])):
            raise NoRule("an image size that is a channel count")
        return Tensor(tuple((n,) for n in call.shape))


class Regions(Rule):
    """roi_align and roi_pool: a patch of the maps for each box; channels stay."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        call.freeze(dims[0], *dims[2:], *dims_in(call.operand("boxes")), because="cuts out regions")
        boxes, _, height, width = call.shape
        return Tensor(((boxes,), dims[1], (height,), (width,)))

    def labels(self, call: MarkCall) -> Any:
        channels = call.fields().get(1)
        return {} if channels is None else {1: call.marker.collapse(channels, (0, 2, 3))}


class AsReal(Rule):
    """view_as_real: a complex number as a new last dim of two."""

    def depth(self, call: Call) -> Value:
        return Tensor((*call.dims(), (2,)))

    def labels(self, call: MarkCall) -> Any:
        return {d: f.unsqueeze(-1) for d, f in call.fields().items()}


class AsComplex(Rule):
    """view_as_complex: the last dim of two becomes one complex number."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        call.freeze(dims[-1], because="makes complex numbers of pairs of channels")
        return Tensor(dims[:-1])

    def labels(self, call: MarkCall) -> Any:
        last = len(call.shape()) - 1
        return {d: call.marker.collapse(f, (last,)).squeeze(-1) for d, f in call.fields().items() if d != last}


class Constant(Rule):
    """torch.tensor of numbers, which may be channel counts: the data follow a resize, the function does not."""

    def depth(self, call: Call) -> Value:
        for dim in dims_in(call.operand("data")):
            call.mixes(dim)
        return Tensor(tuple((n,) for n in call.shape))


class Range(Rule):
    """arange and linspace of as many numbers as there are channels, which are counted anew at another size."""

    def depth(self, call: Call) -> Value:
        if "steps" in call._arguments:
            count, others = call.operand("steps"), [call.operand("start"), call.operand("end")]
        elif call.raw("end") is None:
            count, others = call.operand("start"), []
        else:
            count, others = call.operand("end"), [call.operand("start"), call.operand("step")]
            if (call.number("start"), call.number("step")) != (0, 1):
                raise NoRule("numbers that do not count from 0")
        if any(not is_fixed(dim) for dim in dims_in(others)) or not isinstance(count, Int):
            raise NoRule("numbers that are computed from a channel count")
        call.mixes(count.dim)
        return Tensor((count.dim,))

    def labels(self, call: MarkCall) -> Any:
        return {0: call.marker.fresh(call.node.name, call.out[0])} if not is_fixed(call.result.dims[0]) else {}


class OneHot(Rule):
    """one_hot: a new last dim of as many classes as there are."""

    def depth(self, call: Call) -> Value:
        classes = call.operand("classes")
        if isinstance(classes, Int) and not is_fixed(classes.dim):
            return Tensor((*call.dims(), classes.dim))
        return Tensor((*call.dims(), (call.shape[-1],)))

    def labels(self, call: MarkCall) -> Any:
        fields = {d: f.unsqueeze(-1) for d, f in call.fields().items()}
        last = len(call.out) - 1
        if not is_fixed(call.result.dims[last]):
            fields[last] = call.spread(call.marker.fresh(call.node.name, call.out[last]), last, last + 1)
        return fields
