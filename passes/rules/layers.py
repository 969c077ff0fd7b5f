"""Operators with weights: convolutions, linear layers and norms, as modules and as functions, and bare parameters."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from conet_fx.passes.call import Call, Layout, NoRule, Tensor, Value, fixed_like, product
from conet_fx.passes.depth import Dim, Slot, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import EdgeKind, Rule
from conet_fx.passes.trace import attribute


@dataclasses.dataclass(frozen=True)
class Convolution(Rule):
    """nn.Conv*d and nn.ConvTranspose*d: dense, grouped, depthwise (groups == in_channels > 1)."""

    spatial: int
    transposed: bool = False

    @staticmethod
    def depthwise(module: Any) -> bool:
        return bool(module.groups == module.in_channels > 1)

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "non_conv" if self.depthwise(module) else "conv"

    def depth(self, call: Call) -> Value:
        module = call.module
        dims = call.dims()
        axis = len(dims) - self.spatial - 1
        x = dims[axis]
        call.freeze(*dims[axis + 1 :], because="convolves along a dim that holds channels")
        groups = module.groups
        kernel = tuple(module.kernel_size)
        taps = product(dims_sizes(call, dims[axis + 1 :]) if self.transposed else call.shape[axis + 1 :])
        taps *= product(kernel) * product(dims_sizes(call, dims[:axis]))
        multiplier = module.out_channels // module.in_channels
        if self.depthwise(module) and not (is_fixed(x) and multiplier > 1):
            layer = call.layer("depthwise", **{"in": x})
            if "out" not in layer.dims:
                layer.dims["out"] = call.depths.scale(x, multiplier, call.why)
            out = layer.dims["out"]
            first: tuple[Dim, str] = (x, "in") if self.transposed else (out, "out")
            second: tuple[Dim, str] = ((multiplier if self.transposed else 1,), "")
            call.count(taps, out)
            attributes: list[tuple[str, Any]] = [("groups", x)]
            blocks = 1
        else:
            layer = call.layer("conv", **{"in": x})
            if "out" not in layer.dims:
                layer.dims["out"] = call.depths.new(module.out_channels)
                if groups > 1:
                    call.depths.multiple(x, groups, call.why)
                    call.depths.multiple(layer.dims["out"], groups, call.why)
                    call.depths.set_blocks(x, groups)
                    call.depths.set_blocks(layer.dims["out"], groups)
                    if any(isinstance(part, Slot) and part.repeat > 1 for part in call.depths.resolve(x)):
                        call.mixes(x)  # the copies of one channel may come to stand in two groups
            out = layer.dims["out"]
            near, far = ((x, "in"), (out, "out")) if self.transposed else ((out, "out"), (x, "in"))
            first = near
            second = (call.depths.scale(far[0], Fraction(1, groups), call.why), far[1])
            call.count(taps, out, call.depths.scale(x, Fraction(1, groups), call.why))
            call.facts.writers[call.path] = out
            call.facts.readers[call.path] = x
            call.facts.reading.add((call.path, "in"))
            attributes = []
            blocks = groups
        kernel_dims = tuple((n,) for n in kernel)
        layer.tensors = (
            Layout(
                "weight",
                (first[0], second[0], *kernel_dims),
                (first[1], second[1], *[""] * len(kernel)),
                blocks,
            ),
            Layout("bias", (out,), ("out",)),
        )
        layer.attributes = (("in_channels", x), ("out_channels", out), *attributes)
        return Tensor((*dims[:axis], out, *((n,) for n in call.shape[axis + 1 :])))

    def labels(self, call: MarkCall) -> Any:
        module = call.module
        ndim = len(call.shape())
        axis = ndim - self.spatial - 1
        x = call.line("input", axis, module.in_channels)
        if call.facts.layers[call.path].kind == "depthwise":
            out = x.repeat_interleave(module.out_channels // module.in_channels)
            call.marker.uses(call.path, "in", x)
            call.marker.uses(call.path, "out", out)
        else:
            out = call.marker.fresh(call.path, module.out_channels)
            call.marker.uses(call.path, "in", x, module.groups)
            call.marker.uses(call.path, "out", out, module.groups)
        before = {d: call.marker.collapse(f, tuple(range(axis, ndim))) for d, f in call.fields().items() if d < axis}
        return {**before, axis: call.spread(out, axis, ndim)}


class Linear(Rule):
    """nn.Linear: a convolution without space; what linear layers alone write is fixed unless ``resize_linear``."""

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        module = call.module
        dims = call.dims()
        layer = call.layer("linear", **{"in": dims[-1]})
        if "out" not in layer.dims:
            layer.dims["out"] = call.depths.new(module.out_features)
        out = layer.dims["out"]
        layer.tensors = (Layout("weight", (out, dims[-1]), ("out", "in")), Layout("bias", (out,), ("out",)))
        layer.attributes = (("in_features", dims[-1]), ("out_features", out))
        call.facts.writers[call.path] = out
        call.facts.readers[call.path] = dims[-1]
        call.facts.reading.add((call.path, "in"))
        call.facts.linear.add(call.path)
        call.count(1, *dims[:-1], dims[-1], out)
        return Tensor((*dims[:-1], out))

    def labels(self, call: MarkCall) -> Any:
        ndim = len(call.shape())
        call.marker.uses(call.path, "in", call.line("input", ndim - 1, call.module.in_features))
        out = call.marker.fresh(call.path, call.module.out_features)
        call.marker.uses(call.path, "out", out)
        fields = {d: call.marker.collapse(f, (ndim - 1,)) for d, f in call.fields().items() if d != ndim - 1}
        return {**fields, ndim - 1: call.spread(out, ndim - 1, ndim)}


@dataclasses.dataclass(frozen=True)
class ChannelNorm(Rule):
    """A module with one parameter (or statistic) for each channel: batch, instance and group norm, PReLU.

    ``size`` names the attribute that holds the number of channels. The channel axis is dim 1, or dim 0 of an
    unbatched input with ``spatial`` dims.
    """

    size: str
    spatial: int | None = None
    mixes: bool = False

    def _axis(self, ndim: int) -> int:
        return 0 if self.spatial is not None and ndim == self.spatial + 1 else 1

    def depth(self, call: Call) -> Value:
        module = call.module
        dims = call.dims()
        if len(dims) < 2:
            raise NoRule("its input has no channel dim")
        axis = self._axis(len(dims))
        instancewise = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels > 1
        if getattr(module, self.size) == call.size(dims[axis]):
            layer = call.layer("norm", **{"in": dims[axis]})
            names = ("weight", "bias", "running_mean", "running_var")
            layer.tensors = tuple(Layout(name, (dims[axis],), ("in",)) for name in names)
            layer.attributes = ((self.size, dims[axis]),)
            if instancewise:
                layer.attributes += (("num_groups", dims[axis]),)
        elif not isinstance(module, nn.PReLU):
            raise NoRule(f"it is built for {getattr(module, self.size)} channels")
        if isinstance(module, nn.GroupNorm) and not instancewise:
            call.depths.multiple(dims[axis], module.num_groups, call.why)
        if self.mixes and not instancewise:
            call.mixes(dims[axis])
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        fields = call.fields()
        axis = self._axis(len(call.shape()))
        if axis in fields and call.path in call.facts.layers:
            call.marker.uses(call.path, "in", call.marker.line(fields[axis], axis))
        return fields


class LayerNorm(Rule):
    """nn.LayerNorm and nn.RMSNorm over the last dims."""

    def depth(self, call: Call) -> Value:
        module = call.module
        dims = call.dims()
        last = dims[len(dims) - len(module.normalized_shape) :]
        layer = call.layer("norm", **{str(i): dim for i, dim in enumerate(last)})
        roles = tuple(layer.dims)
        layer.tensors = tuple(Layout(name, last, roles) for name in ("weight", "bias"))
        layer.attributes = (("normalized_shape", last),)
        for dim in last:
            call.mixes(dim)
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        fields = call.fields()
        ndim = len(call.shape())
        first = ndim - len(call.module.normalized_shape)
        for dim, field in fields.items():
            if dim >= first:
                call.marker.uses(call.path, str(dim - first), call.marker.line(field, dim))
        return fields


class Parameter(Rule):
    """A parameter or buffer that the graph uses directly: each dim longer than 1 follows what it meets."""

    def depth(self, call: Call) -> Value:
        tensor = attribute(call.root, call.path)
        if not isinstance(tensor, torch.Tensor):
            return fixed_like(call.node.meta["val"])
        if not tensor.is_floating_point():
            return fixed_like(tensor)
        if call.path not in call.facts.layers:
            dims = {str(i): call.depths.new(n) if n > 1 else (n,) for i, n in enumerate(tensor.shape)}
            layer = call.layer("parameter", **dims)
            layer.tensors = (Layout("", tuple(dims.values()), tuple(dims)),)
        return Tensor(tuple(call.facts.layers[call.path].dims.values()))

    def labels(self, call: MarkCall) -> Any:
        fields: Fields = {}
        if isinstance(call.result, Tensor):
            for dim, parts in enumerate(call.result.dims):
                if not is_fixed(parts):
                    labels = call.marker.fresh(f"{call.path}/{dim}", call.out[dim])
                    call.marker.uses(call.path, str(dim), labels)
                    fields[dim] = call.spread(labels, dim, len(call.out))
        return fields


@dataclasses.dataclass(frozen=True)
class FunctionalConvolution(Rule):
    """F.conv*d with a weight that is a parameter or computed from one (weight standardisation)."""

    spatial: int

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        dims, weight = call.dims(), call.dims("weight")
        axis = len(dims) - self.spatial - 1
        x, groups = dims[axis], call.number("groups")
        call.freeze(*dims[axis + 1 :], *weight[2:], because="convolves along a dim that holds channels")
        samples = product(dims_sizes(call, (*dims[:axis], *weight[2:]))) * product(call.shape[axis + 1 :])
        if groups == 1:
            call.tie(x, weight[1])
        elif groups == call.size(x):
            call.tie(call.depths.scale(x, call.size(weight[0]) // groups, call.why), weight[0])
            call.rewrite("groups", x)
        else:
            call.freeze(x, *weight, because="grouped convolution with a weight that is not a module's")
        if isinstance(call.operand("bias"), Tensor):
            call.tie(call.dims("bias")[0], weight[0])
        call.count(samples, weight[0], weight[1])
        if groups == 1:
            _owns(call, weight)
        return Tensor((*dims[:axis], weight[0], *((n,) for n in call.shape[axis + 1 :])))

    def labels(self, call: MarkCall) -> Any:
        return _functional_labels(call, len(call.shape()) - self.spatial - 1, call.number("groups"))


class FunctionalLinear(Rule):
    """F.linear."""

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        dims, weight = call.dims(), call.dims("weight")
        call.tie(dims[-1], weight[1])
        if isinstance(call.operand("bias"), Tensor):
            call.tie(call.dims("bias")[0], weight[0])
        call.count(1, *dims, weight[0])
        path = _owns(call, weight)
        if path is not None:
            call.facts.linear.add(path)
        return Tensor((*dims[:-1], weight[0]))

    def labels(self, call: MarkCall) -> Any:
        return _functional_labels(call, len(call.shape()) - 1, 1)


def _functional_labels(call: MarkCall, axis: int, groups: int) -> Fields:
    """Labels through a convolution or linear function: inputs meet the second axis of the weight, outputs the first."""
    ndim = len(call.shape())
    weight, x = call.fields("weight"), call.fields()
    fields = {d: call.marker.collapse(f, (axis,)) for d, f in x.items() if d < axis}
    if axis in x and groups == 1 and 1 in weight:
        call.marker.link(call.marker.line(x[axis], axis), call.marker.line(weight[1], 1))
    if 0 in weight:
        out = call.marker.line(weight[0], 0)
        if axis in x and groups > 1 and groups == call.shape()[axis]:
            call.marker.link(out, call.marker.line(x[axis], axis).repeat_interleave(len(out) // groups))
        bias = call.fields_of(call.raw("bias")).get(0)
        if bias is not None:
            call.marker.link(out, bias.flatten())
        fields[axis] = call.spread(out, axis, ndim)
    return fields


@dataclasses.dataclass(frozen=True)
class FunctionalNorm(Rule):
    """F.batch_norm, instance_norm, group_norm, prelu: per-channel tensors in ``operands`` follow dim 1."""

    operands: tuple[str, ...]
    mixes: bool = False

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        for name in self.operands:
            value = call.operand(name)
            if isinstance(value, Tensor) and call.size(value.dims[0]) == call.size(dims[1]):
                call.tie(dims[1], value.dims[0])
        if self.mixes:
            call.depths.multiple(dims[1], call.number("num_groups"), call.why)
            call.mixes(dims[1])
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        fields = call.fields()
        for name in self.operands:
            other = call.fields_of(call.raw(name)).get(0)
            if other is not None and 1 in fields:
                call.marker.link(call.marker.line(fields[1], 1), other.flatten())
        return fields


class FunctionalLayerNorm(Rule):
    """F.layer_norm and F.rms_norm: the normalized shape is rewritten, weight and bias follow the last dims."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        count = len(call.number("normalized_shape"))
        last = dims[len(dims) - count :]
        for index, dim in enumerate(last):
            call.rewrite("normalized_shape", dim, index)
            call.mixes(dim)
            for name in ("weight", "bias"):
                if isinstance(call.operand(name), Tensor):
                    call.tie(dim, call.dims(name)[index])
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        fields = call.fields()
        count = len(call.number("normalized_shape"))
        for name in ("weight", "bias"):
            for dim, other in call.fields_of(call.raw(name)).items():
                axis = len(call.shape()) - count + dim
                if axis in fields:
                    call.marker.link(call.marker.line(fields[axis], axis), call.marker.line(other, dim))
        return fields


def _owns(call: Call, weight: tuple[Dim, ...]) -> str | None:
    """Note who writes ``weight[0]`` and reads ``weight[1]``: the module whose parameter the weight is made of."""
    for layer in call.facts.layers.values():
        for role, dim in layer.dims.items():
            if layer.kind == "parameter" and call.depths.resolve(dim) == call.depths.resolve(weight[1]):
                path = layer.path.rpartition(".")[0] or layer.path
                call.facts.writers[path] = weight[0]
                call.facts.readers[path] = weight[1]
                call.facts.reading.add((layer.path, role))
                return path
    call.mixes(weight[1])  # nothing is there to be set to zero for a new channel
    return None


def dims_sizes(call: Call, dims: tuple[Dim, ...]) -> list[int]:
    return [call.size(dim) for dim in dims]
