"""Operators with weights: convolutions, linear layers and norms, as modules and as functions, and bare parameters."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations

from conet_fx.passes.call import Call, Int, Layer, Layout, NoRule, Tensor, Value, Weight, dims_in, fixed_like, product
from conet_fx.passes.depth import Dim, Slot, is_fixed
from conet_fx.passes.functions import Applied
from conet_fx.passes.labels import Fields, MarkCall, Marker
from conet_fx.passes.nodes import attribute
from conet_fx.passes.rules.base import EdgeKind, Rule


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
        groups = module.groups
        kernel = tuple(map(int, module.kernel_size))
        padding = module.padding if getattr(module, "padding_mode", "zeros") == "zeros" else None
        steps = (module.stride, padding, module.dilation)
        space = _space(call, dims[axis + 1 :], call.shape[axis + 1 :], kernel, None if self.transposed else steps)
        taps = (*dims[:axis], *(dims[axis + 1 :] if self.transposed else space))
        multiplier = module.out_channels // module.in_channels
        if self.depthwise(module) and not (is_fixed(x) and multiplier > 1):
            layer = call.layer("depthwise", **{"in": x})
            if "out" not in layer.dims:
                layer.dims["out"] = call.depths.scale(x, multiplier, call.why)
            out = layer.dims["out"]
            first: tuple[Dim, str] = (x, "in") if self.transposed else (out, "out")
            second: tuple[Dim, str] = ((multiplier if self.transposed else 1,), "")
            call.count(product(kernel), *taps, out)
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
            call.count(product(kernel), *taps, out, call.depths.scale(x, Fraction(1, groups), call.why))
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
        return Tensor((*dims[:axis], out, *space))

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
        return {**_beside(call, axis), axis: call.spread(out, axis, ndim)}


def _space(
    call: Call, dims: tuple[Dim, ...], shape: tuple[int, ...], kernel: Sequence[int], steps: Any
) -> tuple[Dim, ...]:
    """The dims that a convolution slides along, in its result. ``steps``: stride, padding, dilation (None: transposed).

    One that holds channels (efficient channel attention) goes on where its length stays at any size, else it stays.
    """
    out: list[Dim] = []
    for i, (dim, length) in enumerate(zip(dims, shape, strict=True)):
        if not is_fixed(dim) and steps is not None:
            stride, padding, dilation = (v[i] if isinstance(v, (tuple, list)) else v for v in steps)
            reach = dilation * (kernel[i] - 1)
            same = padding == "same" or (padding == "valid" and reach == 0)
            same = same or (isinstance(padding, int) and 2 * padding == reach)
            if stride == 1 and same:
                if reach:
                    call.mixes(dim)
                out.append(dim)
                continue
        call.freeze(dim, because="convolves along a dim that holds channels")
        out.append((length,))
    return tuple(out)


def _beside(call: MarkCall, axis: int) -> Fields:
    """Labels of all dims but the channel ``axis``, after an operator that sums over it and slides along those after."""
    ndim = len(call.shape())
    return {
        dim: call.marker.collapse(field, tuple(d for d in range(axis, ndim) if d != dim))
        for dim, field in call.fields().items()
        if dim != axis
    }


@dataclasses.dataclass(frozen=True)
class DeformableConvolution(Convolution):
    """torchvision's DeformConv2d: offsets and masks say where to read, so their channels are a matter of the kernel."""

    def depth(self, call: Call) -> Value:
        for name in ("offset", "mask"):
            call.freeze(*dims_in(call.operand(name)), because="says where a kernel reads")
        return super().depth(call)


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
        if not isinstance(module, nn.PReLU):
            for dim in (*dims[:axis], *dims[axis + 1 :]):
                call.mixes(dim)  # the mean and the variance are taken over all but the channels
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


_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class WeightNorm(Rule):
    """The weight that weight_norm computes: v, scaled so that its norm over all dims but ``dim`` is g."""

    def depth(self, call: Call) -> Value:
        v, g = call.dims("v"), call.dims("g")
        axis = call.number("dim")
        axis = None if axis == -1 else axis % len(v)
        read = 0 if any(user.target in _TRANSPOSED for user in call.node.users) else 1
        for d, dim in enumerate(v):
            if d == axis:
                call.tie(g[d], dim)
            elif d != read:
                call.mixes(dim)  # what is new there changes the norm; what is read enters as zeros
        return Tensor(tuple(g[d] if d == axis else dim for d, dim in enumerate(v)))

    def labels(self, call: MarkCall) -> Any:
        v, g = call.fields("v"), call.fields("g")
        for dim in v.keys() & g.keys():
            call.marker.link(call.marker.line(v[dim], dim), call.marker.line(g[dim], dim))
        return v


class SpectralNorm(Rule):
    """What parametrizations.spectral_norm registers: the weight over its largest singular value, from two vectors with
    an entry for each row and each column of its matrix. New entries are zeros: a new channel counts from the next power
    iteration on.
    """

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        for dim in dims:
            call.mixes(dim)
        if len(dims) > 1:
            others = [dim for d, dim in enumerate(dims) if d != call.module.dim]
            moving = [dim for dim in others if not is_fixed(dim)]
            if len(moving) > 1:
                raise NoRule("two dims of channels in its columns")
            columns: Dim = (product([call.size(dim) for dim in others]),)
            if moving:
                columns = call.depths.scale(moving[0], call.size(columns) // call.size(moving[0]), call.why)
            layer = call.layer("norm", rows=dims[call.module.dim], columns=columns)
            vectors = {"_u": "rows", "_v": "columns"}
            layer.tensors = tuple(
                Layout(name, (layer.dims[role],), (role,), zeros=True) for name, role in vectors.items()
            )
        return Tensor(dims)

    def labels(self, call: MarkCall) -> Any:
        fields, shape = call.fields(), call.shape()
        for dim, field in fields.items():
            if len(shape) > 1 and dim == call.module.dim:
                call.marker.uses(call.path, "rows", call.marker.line(field, dim))
            elif len(shape) > 1:
                row = field.expand(shape).select(call.module.dim, 0)
                call.marker.uses(call.path, "columns", row.flatten())
        return fields


class Parameter(Rule):
    """A parameter or buffer that the graph uses directly: each dim longer than 1 follows what it meets."""

    def depth(self, call: Call) -> Value:
        tensor = attribute(call.root, call.path)
        if not isinstance(tensor, torch.Tensor):
            return fixed_like(call.node.meta["val"])
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return fixed_like(tensor)
        if call.path not in call.facts.layers:
            free = 2 if _is_kernel(call) else tensor.ndim  # the taps of a kernel are no channels
            dims = {str(i): call.depths.new(n) if n > 1 and i < free else (n,) for i, n in enumerate(tensor.shape)}
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


def _is_kernel(call: Call) -> bool:
    """True for the weight of a convolution with a forward of its own, and for what it is computed from."""
    owner, _, computed = call.path.partition(".parametrizations.")
    name = computed.partition(".")[0]
    if not computed:
        owner, _, name = call.path.rpartition(".")
    modules = call.node.meta.get("nn_module_stack", {}).values()
    return name in _KERNELS and any(
        path == owner and isinstance(cls, type) and issubclass(cls, _ConvNd) for path, cls in modules
    )


# those of a hook that computes the weight have other names (torch.nn.utils.weight_norm, spectral_norm, prune)
_KERNELS = frozenset(("weight", "weight_v", "weight_orig", "weight_mask"))


@dataclasses.dataclass(frozen=True)
class FunctionalConvolution(Rule):
    """F.conv*d and F.conv_transpose*d with a weight that is a parameter or computed from one (weight standardisation).

    The weight is [out, in / groups, *kernel], transposed [in, out / groups, *kernel]. In a grouped one (neither dense
    nor depthwise) all groups share the channels along the second axis, so equal places of all groups come and go
    together.
    """

    spatial: int
    transposed: bool = False
    pairs: ClassVar[bool] = True

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        dims, weight = call.dims(), call.dims("weight")
        axis = len(dims) - self.spatial - 1
        x, groups = dims[axis], call.number("groups")
        call.freeze(*weight[2:], because="convolves along a dim that holds channels")
        steps = None if self.transposed else tuple(map(call.number, ("stride", "padding", "dilation")))
        kernel = dims_sizes(call, weight[2:])
        space = _space(call, dims[axis + 1 :], call.shape[axis + 1 :], kernel, steps)
        read, out = (weight[0], weight[1]) if self.transposed else (weight[1], weight[0])
        if groups == 1:
            call.tie(x, read)
        elif groups == call.size(x):
            if self.transposed:
                call.tie(x, read)
                call.freeze(out, because="has a multiplier that is a channel count")
                out = call.depths.scale(x, call.size(out), call.why)
            else:
                call.tie(call.depths.scale(x, call.size(out) // groups, call.why), out)
            call.rewrite("groups", x)
        elif isinstance(given := call.operand("groups"), Int) and not is_fixed(given.dim):
            raise NoRule("a number of groups that is computed from a channel count")
        else:
            block = call.depths.scale(x, Fraction(1, groups), call.why)
            if self.transposed:
                call.tie(x, read)
                out = call.depths.scale(out, groups, call.why)
            else:
                call.tie(block, read)
                call.depths.multiple(out, groups, call.why)
        if isinstance(call.operand("bias"), Tensor):
            call.tie(call.dims("bias")[0], out)
        inside = dims[axis + 1 :] if self.transposed else space
        call.count(product(kernel), *dims[:axis], *inside, weight[0], weight[1])
        if groups == 1 or groups != call.size(x):
            _owns(call, read, x, out, transposed=self.transposed)
        return Tensor((*dims[:axis], out, *space))

    def labels(self, call: MarkCall) -> Any:
        marker, fields, weight = call.marker, call.fields(), call.fields("weight")
        ndim = len(call.shape())
        axis = ndim - self.spatial - 1
        groups, channels = call.traced_number("groups"), call.traced_shape(call.raw("input"))[axis]
        x = marker.line(fields[axis], axis) if axis in fields else None
        first, second = (marker.line(weight[d], d) if d in weight else None for d in (0, 1))
        read, out = (first, second) if self.transposed else (second, first)
        if groups == 1:
            _link(marker, x, read)
        elif groups == channels and self.transposed:
            _link(marker, x, read)
            out = None if x is None else x.repeat_interleave(call.traced_shape(call.raw("weight"))[1])
        elif groups == channels:
            _link(marker, out, None if x is None or out is None else x.repeat_interleave(len(out) // len(x)))
        elif self.transposed:
            _link(marker, x, read)
            for labels in (x, read):
                if labels is not None:
                    marker.holds(labels.reshape(groups, -1), (0,))
            out = None if out is None else out.repeat(groups)
        else:
            _link(marker, x, None if read is None else read.repeat(groups))
            if out is not None:
                marker.holds(out.reshape(groups, -1), (0,))
        _link(marker, out, call.fields_of(call.raw("bias")).get(0))
        beside = _beside(call, axis)
        return beside if out is None else {**beside, axis: call.spread(out, axis, ndim)}


@dataclasses.dataclass(frozen=True)
class FunctionalDeformable(FunctionalConvolution):
    """torchvision's deform_conv2d with a weight of its own, whose shape gives the groups."""

    def depth(self, call: Call) -> Value:
        if call.size(call.dims()[1]) != call.size(call.dims("weight")[1]):
            raise NoRule("a grouped one")
        for name in ("offset", "mask"):
            call.freeze(*dims_in(call.operand(name)), because="says where a kernel reads")
        return super().depth(call)


def _link(marker: Marker, a: torch.Tensor | None, b: torch.Tensor | None) -> None:
    """One-dimensional labels at equal positions are one channel, where both sides have labels."""
    if a is not None and b is not None:
        marker.link(a.flatten(), b.flatten())


class FunctionalLinear(Rule):
    """F.linear."""

    pairs: ClassVar[bool] = True

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        dims, weight = call.dims(), call.dims("weight")
        call.tie(dims[-1], weight[1])
        if isinstance(call.operand("bias"), Tensor):
            call.tie(call.dims("bias")[0], weight[0])
        call.count(1, *dims, weight[0])
        path = _owns(call, weight[1], dims[-1], weight[0], linear=True)
        if path is not None:
            call.facts.linear.add(path)
        return Tensor((*dims[:-1], weight[0]))

    def labels(self, call: MarkCall) -> Any:
        marker, fields, weight = call.marker, call.fields(), call.fields("weight")
        axis = len(call.shape()) - 1
        if axis in fields and 1 in weight:
            marker.link(marker.line(fields[axis], axis), marker.line(weight[1], 1))
        out = {d: marker.collapse(f, (axis,)) for d, f in fields.items() if d < axis}
        if 0 in weight:
            written = marker.line(weight[0], 0)
            _link(marker, written, call.fields_of(call.raw("bias")).get(0))
            out[axis] = call.spread(written, axis, axis + 1)
        return out


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
        if len(self.operands) > 1:  # a norm, and not prelu
            others = (dims[0], *dims[2:])
            for dim in others:
                call.mixes(dim)
            moving = [dim for dim in others if not is_fixed(dim)]
            if moving and product(dims_sizes(call, tuple(d for d in others if is_fixed(d)))) == 1:
                call.depths.at_least(moving[0], 2)  # torch refuses to take the variance of one value
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


def _owns(call: Call, read: Dim, x: Dim, out: Dim, *, transposed: bool = False, linear: bool = False) -> str | None:
    """Note who writes ``out`` and reads ``x``: the module of the parameter whose axis ``read`` is summed with ``x``, or
    a slice of that axis (octave convolutions give several slices of one weight to several operators).
    """
    facts, read = call.facts, call.depths.resolve(read)
    axes = ((node, layer, role, dim) for node, layer in _parameters_of(call) for role, dim in layer.dims.items())
    whole = (axis for axis in axes if call.depths.resolve(axis[-1]) == read)
    node, layer, role, dim = next(itertools.chain(whole, _sliced(call, read)), (None, None, "", ()))
    if node is None or layer is None:
        call.mixes(read)  # nothing is there to be set to zero for a new channel
        return None
    path = layer.path.partition(".parametrizations.")[0]
    path = path if path != layer.path else layer.path.rpartition(".")[0] or layer.path
    called = call.node.graph.find_nodes(op="call_module", target=path)
    if called and role != ("0" if getattr(call.root.get_submodule(path), "transposed", False) else "1"):
        path = layer.path  # the module writes what this operator reads
    along = call.depths.resolve(layer.dims.get("1" if role == "0" else "0", ()))
    written = [part for part in call.depths.resolve(facts.writers.get(path, ())) if part in along]  # by another slice
    facts.writers[path] = (*written, *(part for part in call.depths.resolve(out) if part not in written))
    in_one = call.depths.resolve(dim) == read
    facts.readers[path] = x if in_one else dim
    facts.weights.setdefault(path, Weight((call.raw("weight") if in_one else node).name, transposed, linear))
    facts.reading.add((layer.path, role))
    if not _keeps_zeros(call.raw("weight")):
        call.mixes(read)  # a parameter of zeros is no weight of zeros
    return path


def _sliced(call: Call, read: Dim) -> Iterator[tuple[fx.Node, Layer, str, Dim]]:
    """The axes along which the channels ``read`` stand one after the other in the parameter that the weight is a slice
    of; none where the weight is computed from several tensors.
    """
    node = call.raw("weight")
    while node.op != "get_attr":
        operands = [operand for operand in node.all_input_nodes if isinstance(operand.meta.get("val"), torch.Tensor)]
        if len(operands) != 1:
            return
        (node,) = operands
    layer = call.facts.layers.get(str(node.target))
    if layer is None or layer.kind != "parameter":
        return
    for role, dim in layer.dims.items():
        parts = call.depths.resolve(dim)
        if not is_fixed(read) and any(parts[i : i + len(read)] == read for i in range(len(parts))):
            yield node, layer, role, dim


def _parameters_of(call: Call) -> Iterator[tuple[fx.Node, Layer]]:
    """The parameters that the weight is, or is computed from, nearest first, each with its node."""
    nodes = [call.raw("weight")]
    seen = set(nodes)
    for node in nodes:
        layer = call.facts.layers.get(str(node.target)) if node.op == "get_attr" else None
        if layer is not None and layer.kind == "parameter":
            yield node, layer
        new = [operand for operand in node.all_input_nodes if operand not in seen]
        nodes += new
        seen.update(new)


def _keeps_zeros(weight: Any) -> bool:
    """True where zeros in the parameter of a computed weight are zeros in the weight, as far as can be told."""
    if not isinstance(weight, fx.Node) or weight.op == "get_attr":
        return True
    if weight.op == "call_module":
        owner = weight.graph.owning_module
        divides = owner is not None and isinstance(attribute(owner, str(weight.target)), parametrizations._SpectralNorm)
        return divides and _keeps_zeros(weight.args[0])
    if isinstance(weight.target, Applied):
        return _keeps_zeros(weight.kwargs.get("follows"))
    operands = [a for a in weight.args if isinstance(a, fx.Node) and isinstance(a.meta["val"], torch.Tensor)]
    if not operands:
        return False
    if weight.target in _LINEAR_IN_FIRST:
        return _keeps_zeros(operands[0])
    if weight.target in _PRODUCTS:
        return any(map(_keeps_zeros, operands))
    plain = not any(isinstance(a, (int, float)) for a in weight.args)
    return weight.target in _SUMS and plain and all(map(_keeps_zeros, operands))


_PRODUCTS = {torch.mul, operator.mul, "mul"}
_SUMS = {torch.add, torch.sub, operator.add, operator.sub, "add", "sub"}
_LINEAR_IN_FIRST = {
    *(torch._weight_norm, torch.div, operator.truediv, "div", operator.neg, torch.neg, "neg", torch.tanh, "tanh"),
    *(torch.permute, torch.transpose, torch.flip, torch.reshape, "permute", "transpose", "flip", "reshape", "view"),
    *(torch.sum, torch.mean, torch.sqrt, "sum", "mean", "clone", "contiguous", "detach", "to", "type", "type_as"),
    *(operator.getitem, torch.abs, "abs", torch.sign, "sign", "float", "half", "bfloat16", "double", "flatten"),
    *(torch.relu, F.relu, "relu", torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", torch.square, "square"),
}


def dims_sizes(call: Call, dims: tuple[Dim, ...]) -> list[int]:
    return [call.size(dim) for dim in dims]
