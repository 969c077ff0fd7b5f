"""Operators that move data: concatenations, permutations, reshapes and the like."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch

from conet_fx.passes.call import Call, Int, NoRule, Tensor, Value, dims_in, fixed_like, product
from conet_fx.passes.depth import Dim, Slot, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import NodeKind, Rule
from conet_fx.passes.rules.keep import Summation
from conet_fx.passes.rules.pieces import with_dim


@dataclasses.dataclass(frozen=True)
class Concatenation(Rule):
    """torch.cat: the dims are joined along ``dim`` and tied along the others.

    ``fixed_axis`` is the dim where the operator has no such argument (hstack, vstack, dstack).
    """

    fixed_axis: int | None = None
    kind: ClassVar[NodeKind] = "concatenation"

    def _axis(self, call: Call | MarkCall, ndim: int) -> int:
        return int(call.number("dim") if self.fixed_axis is None else self.fixed_axis) % ndim

    def depth(self, call: Call) -> Value:
        operands = [v for v in call.operand("tensors") if not (isinstance(v, Tensor) and v.dims == ((),))]
        if not operands or not all(isinstance(v, Tensor) for v in operands):
            raise NoRule("what it joins is not a list of tensors")
        axis = self._axis(call, len(operands[0].dims))
        joined: Dim = ()
        for operand in operands:
            joined = (*joined, *operand.dims[axis])
        dims = list(operands[0].dims)
        for index, dim in enumerate(dims):
            if index != axis:
                for operand in operands[1:]:
                    call.tie(dim, operand.dims[index])
        dims[axis] = joined
        return Tensor(tuple(dims))

    def labels(self, call: MarkCall) -> Any:
        operands = call.items("tensors")
        ndim = len(call.out)
        axis = self._axis(call, ndim)
        out: Fields = {}
        for dim, parts in enumerate(call.result.dims):
            if is_fixed(parts):
                continue
            fields = []
            for index, (given, shape) in enumerate(operands):
                if 0 in shape:
                    continue  # joins nothing: what is left of a sequence, padding that this size does not need
                field = given.get(dim)
                if field is None and dim == axis:
                    labels = call.marker.fresh(f"{call.node.name}/{index}", shape[dim])
                    field = call.spread(labels, dim, ndim)
                if field is not None:
                    fields.append((field, shape))
            if not fields:
                continue
            if dim != axis:
                for other, _ in fields[1:]:
                    call.marker.link(call.marker.collapse(fields[0][0], (axis,)), call.marker.collapse(other, (axis,)))
                out[dim] = call.marker.collapse(fields[0][0], (axis,))
                continue
            widths = [max(f.shape[d] for f, _ in fields) for d in range(ndim)]
            aligned = []
            for field, shape in fields:
                widths[axis] = shape[axis]
                aligned.append(field.expand(widths))
            out[dim] = torch.cat(aligned, axis)
        return out


class Stack(Rule):
    """torch.stack: a new fixed dim; the others are tied."""

    kind: ClassVar[NodeKind] = "summation"

    def depth(self, call: Call) -> Value:
        operands = call.operand("tensors")
        if not isinstance(operands, list) or not all(isinstance(v, Tensor) for v in operands):
            raise NoRule("what it stacks is not a list of tensors")
        dims = list(operands[0].dims)
        for other in operands[1:]:
            for axis, (a, b) in enumerate(zip(dims, other.dims, strict=True)):
                call.tie(a, b)
                dims[axis] = b if is_fixed(a) else a
        dims.insert(int(call.number("dim")) % (len(dims) + 1), (len(operands),))
        return Tensor(tuple(dims))

    def labels(self, call: MarkCall) -> Any:
        axis = int(call.number("dim")) % len(call.out)
        out: Fields = {}
        for fields, _ in call.items("tensors"):
            for dim, field in fields.items():
                target = dim + (dim >= axis)
                call.marker.join(out, target, field.unsqueeze(axis))
        return out


class Permute(Rule):
    """permute, transpose, movedim, ``.T``, ``.mT``: found by moving the dims of a probe."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        if str(call.node.target).endswith("_") and len(call.node.all_input_nodes[0].users) > 1:
            raise NoRule("in place, where the value is used again")
        probe = torch.empty(tuple(range(2, len(dims) + 2)), device="meta")
        moved = _again(call, probe)
        return Tensor(tuple(dims[n - 2] for n in moved.shape))


class Squeeze(Rule):
    """squeeze and unsqueeze: fixed dims of length 1 come and go."""

    def depth(self, call: Call) -> Value:
        dims = list(call.dims())
        shape = call.shape
        if len(shape) > len(dims):
            dims.insert(call.axis(extra=1), (1,))
            return Tensor(tuple(dims))
        axes = call.number("dim")
        axes = range(len(dims)) if axes is None else [axes] if isinstance(axes, int) else axes
        gone = {axis % len(dims) for axis in axes if call.size(dims[axis % len(dims)]) == 1}
        call.freeze(*(dims[axis] for axis in gone), because="removes the channel dim of one channel")
        for axis in axes:
            if axis % len(dims) not in gone:
                call.depths.at_least(dims[axis % len(dims)], 2)  # a single channel would lose its dim
        return Tensor(tuple(dim for axis, dim in enumerate(dims) if axis not in gone))


_INFERRED = Int((-1,))


class Reshape(Rule):
    """view, reshape, flatten, unflatten: each smallest run of dims with equal products is followed by itself.

    Within a run one dim may hold channels. Outer fixed dims tile it, inner ones repeat each channel, and a dim that
    is taken apart again loses them. Which of several new dims grows is read off the integers in the graph (computed
    from a size, or -1); where all are literals the largest one grows, the innermost among equals. A dim that also takes
    in samples (``b * heads``) does not grow, nor does one whose growth would break the blocks of a grouped convolution.
    """

    argument: ClassVar[str] = "shape"

    def depth(self, call: Call) -> Value:
        dims, shape = call.dims(), call.shape
        before = [call.size(dim) for dim in dims]
        out: list[Dim] = [(n,) for n in shape]
        for inputs, outputs in _runs(before, shape):
            movable = [axis for axis in inputs if call.depths.moves(dims[axis])]
            if sum(before[axis] > 1 for axis in movable) == 1 < len(movable):
                call.freeze(*(dims[a] for a in movable if before[a] == 1), because="removes the dim of one channel")
                movable = [axis for axis in movable if before[axis] > 1]
            if len(movable) > 1:
                movable = self._with_owners(call, dims, movable)
            if not movable:
                continue
            if len(movable) > 1 or not outputs:
                call.freeze(*(dims[axis] for axis in movable), because="merges two dims that hold channels")
                continue
            axis = movable[0]
            wide = [o for o in outputs if shape[o] != 1]
            inner_in = product([before[i] for i in inputs if i > axis])
            joined = axis != inputs[0]  # the first new dim takes in what is before the channels, such as the samples
            target = wide[0] if len(wide) == 1 else self._growing(call, outputs, shape, dims[axis], inner_in, joined)
            if target is None:
                call.freeze(dims[axis], because="spreads the channels over several dims")
                continue
            outer_in = product([before[i] for i in inputs if i < axis])
            outer_out = product([shape[o] for o in outputs if o < target])
            inner_out = product([shape[o] for o in outputs if o > target])
            out[target] = _refactor(call, dims[axis], outer_in, inner_in, outer_out, inner_out)
        for o, given in self._given(call).items():
            if given != _INFERRED:
                self._settle(call, o, out[o])
        return Tensor(tuple(out))

    @staticmethod
    def _with_owners(call: Call, dims: tuple[Dim, ...], axes: list[int]) -> list[int]:
        """Of two dims that merge, the one that some layer has; the other one, made by expand or zeros, stays."""
        depths = call.depths
        owned = {
            root for layer in call.facts.layers.values() for dim in layer.dims.values() for root in depths.roots(dim)
        }
        owners = [axis for axis in axes if owned.intersection(depths.roots(dims[axis]))]
        if len(owners) != 1:
            return axes
        call.freeze(*(dims[axis] for axis in axes if axis not in owners), because="repeats channels by a number")
        return owners

    def _settle(self, call: Call, axis: int, dim: Dim) -> None:
        """The new dim at ``axis`` is ``dim``, whose size the operator was given."""
        call.rewrite(self.argument, dim, axis - self._first(call))

    def _given(self, call: Call) -> dict[int, Value]:
        """What is known of the integer that gives each new dim, where the operator has them."""
        given = enumerate(call.integers(self.argument), self._first(call))
        return {axis: value for axis, value in given if isinstance(value, Int)}

    def _first(self, call: Call) -> int:
        return 0

    def _growing(
        self, call: Call, outputs: list[int], shape: tuple[int, ...], dim: Dim, inner_in: int, joined: bool
    ) -> int | None:
        given = self._given(call)
        symbolic = [o for o in outputs if isinstance(value := given.get(o), Int) and not is_fixed(value.dim)]
        symbolic = [o for o in symbolic if call.depths.moves(given[o].dim)] or symbolic
        if symbolic:
            return symbolic[0] if len(symbolic) == 1 else None
        after = {o: product(shape[o + 1 : outputs[-1] + 1]) for o in outputs}
        block = call.depths.block(dim) * inner_in
        own = outputs[1:] if joined else outputs
        inside = [o for o in own if block % after[o] == 0] or outputs
        inferred = [o for o in inside if given.get(o) == _INFERRED]
        if inferred:
            return inferred[0]
        inner = math.gcd(*(int(p.repeat) for p in dim if isinstance(p, Slot) and p.repeat.denominator == 1))
        whole = [o for o in inside if inner == 0 or after[o] % inner == 0]
        return max(whole or inside, key=lambda o: (shape[o], o))


class Unflatten(Reshape):
    """unflatten(dim, sizes)."""

    argument: ClassVar[str] = "sizes"

    def _first(self, call: Call) -> int:
        return call.axis()


class ReshapeModule(Reshape):
    """nn.Flatten."""

    def _given(self, call: Call) -> dict[int, Value]:
        return {}


class UnflattenModule(Reshape):
    """nn.Unflatten: the sizes are an attribute of the module, which follows."""

    def depth(self, call: Call) -> Value:
        module = call.module
        if not isinstance(module.dim, int) or not all(isinstance(n, int) for n in module.unflattened_size):
            raise NoRule("named dims")
        value = super().depth(call)
        first, given = self._first(call), module.unflattened_size
        dims = {str(i): value.dims[first + i] for i in range(len(given))}
        layer = call.layer("parameter", **dims)
        sizes = tuple((-1,) if n == -1 else layer.dims[str(i)] for i, n in enumerate(given))
        layer.attributes = (("unflattened_size", sizes),)
        return value

    def _given(self, call: Call) -> dict[int, Value]:
        return {self._first(call) + i: Int((int(n),)) for i, n in enumerate(call.module.unflattened_size)}

    def _settle(self, call: Call, axis: int, dim: Dim) -> None:
        """Nothing in the graph gives the sizes."""

    def _first(self, call: Call) -> int:
        return int(call.module.dim) % len(call.dims())


class ReshapeLike(Reshape):
    """view_as and reshape_as: every new dim is that of another tensor."""

    def _given(self, call: Call) -> dict[int, Value]:
        return {axis: Int(dim) for axis, dim in enumerate(call.dims("other"))}

    def _settle(self, call: Call, axis: int, dim: Dim) -> None:
        call.tie(dim, call.dims("other")[axis])


@dataclasses.dataclass(frozen=True)
class Rescale(Rule):
    """Moves channels to space or back: dim ``axis`` grows by ``factor(call)``, the dims after it are fixed."""

    way: Literal["shuffle", "unshuffle", "fold", "unfold"]

    def _factor(self, call: Call) -> Fraction:
        def read(name: str) -> Any:
            return getattr(call.module, name) if call.node.op == "call_module" else call.number(name)

        if self.way == "shuffle":
            return Fraction(1, read("upscale_factor" if call.node.op == "call_module" else "factor") ** 2)
        if self.way == "unshuffle":
            return Fraction(read("downscale_factor" if call.node.op == "call_module" else "factor") ** 2)
        kernel = read("kernel_size")
        taps = kernel**2 if isinstance(kernel, int) else product(kernel)
        return Fraction(taps) if self.way == "unfold" else Fraction(1, taps)

    def depth(self, call: Call) -> Value:
        dims, shape = call.dims(), call.shape
        spatial = 2 if self.way in ("shuffle", "unshuffle") else 1 if self.way == "fold" else 2
        axis = len(dims) - spatial - 1
        call.freeze(*dims[axis + 1 :], because="moves channels to a dim that holds channels")
        channels = call.depths.scale(dims[axis], self._factor(call), call.why)
        return Tensor((*dims[:axis], channels, *((n,) for n in shape[axis + 1 :])))

    def labels(self, call: MarkCall) -> Any:
        if self.way != "fold":
            return call.moved()
        axis = len(call.shape()) - 2  # overlapping patches are added, so all taps of one channel are one
        taps = call.line("input", axis, call.shape()[axis]).reshape(call.out[axis], -1)
        before = {d: call.marker.collapse(f, (axis,)).unsqueeze(-1) for d, f in call.fields().items() if d < axis}
        return {**before, axis: call.spread(call.marker.line(taps, 0), axis, len(call.out))}


class ChannelShuffle(Rule):
    """nn.ChannelShuffle: the rows are equally long, then interleaved."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        groups = call.module.groups if call.node.op == "call_module" else call.number("groups")
        row = call.depths.pieces(dims[1], groups, call.why)[0]
        return Tensor((dims[0], call.depths.scale(row, groups, call.why), *dims[2:]))


class Expand(Rule):
    """expand, expand_as, broadcast_to: a dim of length 1 takes the length asked for."""

    def depth(self, call: Call) -> Value:
        dims, shape = call.dims(), call.shape
        if "other" in call._arguments:
            like = call.dims("other")
            return Tensor(_tie_or_take(call, dims, like))
        given = call.integers("sizes")
        out: list[Dim] = []
        for axis, (length, wanted) in enumerate(zip(shape, given, strict=True)):
            own = dims[axis - (len(shape) - len(dims))] if axis >= len(shape) - len(dims) else (1,)
            if call.size(own) == length:
                dim = own
            else:
                call.freeze(own, because="broadcasts one channel")
                dim = call.length("sizes", axis)
            if wanted != _INFERRED:
                call.rewrite("sizes", dim, axis)
            out.append(dim)
        return Tensor(tuple(out))

    def labels(self, call: MarkCall) -> Any:
        fields = call.fields()
        before, after = call.traced_shape(call.raw("input")), call.traced_out
        shift = len(after) - len(before)
        kept = {d: f for d, f in fields.items() if before[d] == after[d + shift]}
        out = {d + shift: f.reshape((1,) * shift + f.shape) for d, f in kept.items()}
        other = call._arguments.get("other")
        like = {d: f for d, f in call.fields_of(other).items() if d not in out} if other is not None else {}
        return {**_fresh(call), **like, **out}


class Create(Rule):
    """zeros, ones, full, empty, new_zeros ...: every length given follows what the tensor meets."""

    def depth(self, call: Call) -> Value:
        dims: list[Dim] = []
        for axis in range(len(call.shape)):
            dims.append(call.length("sizes", axis))
            call.rewrite("sizes", dims[-1], axis)
        return Tensor(tuple(dims))

    def labels(self, call: MarkCall) -> Any:
        return _fresh(call)


class New(Create):
    """``x.new(size)``, of code from before torch 0.4. Numbers in a list are data, as those of ``x.new_tensor``."""

    def depth(self, call: Call) -> Value:
        given = call.integers("sizes")
        if any(isinstance(value, Tensor) for value in (call.operand("sizes"), *given)):
            raise NoRule("it is given a tensor")
        sizes = [call.size(length.dim) for length in given if isinstance(length, Int)]
        if len(sizes) == len(given) and sizes == list(call.shape):
            return super().depth(call)
        for dim in dims_in(given):
            call.mixes(dim)
        return Tensor(tuple((n,) for n in call.shape))


class Full(Create):
    """full and new_full; a channel count that fills the tensor is a value, not a length."""

    def depth(self, call: Call) -> Value:
        if isinstance(count := call.operand("fill_value"), Int):
            call.mixes(count.dim)
        return super().depth(call)


class Drawn(Summation):
    """randint, randperm and normal: of the shape of their operands, or of lengths that are numbers."""

    kind: ClassVar[NodeKind] = "single"

    def _on_numbers(self, call: Call) -> Value:
        if any(not is_fixed(dim) for node in call.node.all_input_nodes for dim in dims_in(call.facts.values[node])):
            raise NoRule("a length or a bound that is a channel count")
        return fixed_like(call.node.meta["val"])


class Tile(Rule):
    """repeat and tile: the dim comes several times, end to end."""

    def depth(self, call: Call) -> Value:
        dims, shape = call.dims(), call.shape
        shift = len(shape) - len(dims)
        given = call.integers("sizes")
        if len(given) != len(shape):
            raise NoRule("fewer counts than dims")
        out: list[Dim] = []
        for axis, (own, count) in enumerate(zip(((1,),) * shift + dims, given, strict=True)):
            times = call.size(count.dim)
            if not is_fixed(own):
                if not is_fixed(count.dim):
                    raise NoRule("as many copies of the channels as there are channels")
                out.append(own * times)
            elif call.size(own) == 1 < times:
                out.append(call.length("sizes", axis))
                call.rewrite("sizes", out[-1], axis)
            else:
                out.append(call.depths.scale(count.dim, call.size(own), call.why))
        return Tensor(tuple(out))

    def labels(self, call: MarkCall) -> Any:
        return {**_fresh(call), **call.moved()}


@dataclasses.dataclass(frozen=True)
class Pad(Rule):
    """F.pad: fixed channels before and after where the channel axis is padded with a constant."""

    def depth(self, call: Call) -> Value:
        dims = list(call.dims())
        pads = call.concrete(call.raw("pad"))
        for index in range(len(pads) // 2):
            low, high = pads[2 * index], pads[2 * index + 1]
            axis = len(dims) - 1 - index
            if (low, high) == (0, 0):
                continue
            if not is_fixed(dims[axis]) and (low < 0 or high < 0 or call.number("mode") != "constant"):
                call.freeze(dims[axis], because="pads the channels")
            if is_fixed(dims[axis]):
                dims[axis] = (call.shape[axis],)
            else:
                dims[axis] = (low, *dims[axis], high)
        return Tensor(tuple(dims))

    def labels(self, call: MarkCall) -> Any:
        if call.number("mode") != "constant":
            return call.moved()
        pads, ndim = call.number("pad"), len(call.out)
        out: Fields = {}
        for dim, field in call.fields().items():
            widths = list(pads)  # what is filled in, whatever its value, is no channel
            for index in range(len(pads) // 2):
                axis = ndim - 1 - index
                if axis != dim and field.shape[axis] == 1:
                    widths[2 * index : 2 * index + 2] = 0, 0
            out[dim] = torch.nn.functional.pad(field, widths)
        return out


@dataclasses.dataclass(frozen=True)
class Roll(Rule):
    """roll: moves data around, keeps every size."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        axes = call.number("dims")
        axes = [axes] if isinstance(axes, int) else axes or range(len(dims))
        call.freeze(*(dims[a % len(dims)] for a in axes), because="changes the order of channels")
        return Tensor(dims)


@dataclasses.dataclass(frozen=True)
class Flip(Rule):
    """flip, fliplr, flipud: the parts of a dim in reverse order. ``fixed_axis`` is the dim where none is given."""

    fixed_axis: int | None = None

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        axes = [self.fixed_axis] if self.fixed_axis is not None else call.number("dims")
        turned = {a % len(dims) for a in ([axes] if isinstance(axes, int) else axes)}
        return Tensor(tuple(dim[::-1] if axis in turned else dim for axis, dim in enumerate(dims)))


class RepeatInterleave(Rule):
    """repeat_interleave: each channel several times in a row."""

    def depth(self, call: Call) -> Value:
        dims, times = call.dims(), call.operand("repeats")
        if call.raw("dim") is None or not isinstance(times, Int) or not is_fixed(times.dim):
            raise NoRule("repeats that are not one number along one dim")
        axis = call.axis()
        return with_dim(dims, axis, call.depths.scale(dims[axis], call.size(times.dim), call.why))


def _fresh(call: MarkCall) -> Fields:
    """New labels along every dim of the result that holds a depth."""
    return {
        dim: call.spread(call.marker.fresh(f"{call.node.name}/{dim}", call.out[dim]), dim, len(call.out))
        for dim, parts in enumerate(call.result.dims)
        if not is_fixed(parts)
    }


def _tie_or_take(call: Call, dims: tuple[Dim, ...], like: tuple[Dim, ...]) -> tuple[Dim, ...]:
    shift = len(like) - len(dims)
    for axis, dim in enumerate(dims):
        if call.size(dim) == call.size(like[axis + shift]):
            call.tie(dim, like[axis + shift])
        else:
            call.freeze(dim, because="broadcasts one channel")
    return like


def _again(call: Call, tensor: torch.Tensor) -> torch.Tensor:
    """The operator of ``call`` on another tensor."""
    args = [call.concrete(a) for a in call.node.args[1:]]
    kwargs = {k: call.concrete(v) for k, v in call.node.kwargs.items() if k != "input"}
    if call.node.op == "call_method":
        result = getattr(tensor, str(call.node.target))(*args, **kwargs)
    else:
        assert callable(call.node.target)
        result = call.node.target(tensor, *args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def _runs(before: list[int], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dims with equal products on both sides of a reshape."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        inputs, outputs = [], []
        left = right = 1
        if i < len(before):
            inputs.append(i)
            left *= before[i]
            i += 1
        if j < len(after):
            outputs.append(j)
            right *= after[j]
            j += 1
        while left != right or not inputs or not outputs:
            if (left < right or not inputs) and i < len(before):
                inputs.append(i)
                left *= before[i]
                i += 1
            elif j < len(after):
                outputs.append(j)
                right *= after[j]
                j += 1
            else:
                break
        runs.append((inputs, outputs))
    return runs


def _refactor(call: Call, dim: Dim, outer_in: int, inner_in: int, outer_out: int, inner_out: int) -> Dim:
    """A run ``outer_in x dim x inner_in`` seen as ``outer_out x result x inner_out``."""
    depths = call.depths
    if outer_out % outer_in == 0:
        rows = outer_out // outer_in
        if rows > 1:
            dim = depths.pieces(dim, rows, call.why)[0]
    elif outer_in % outer_out == 0:
        dim = dim * (outer_in // outer_out)
    else:
        depths.proportion([dim], f"is reshaped together with channels of a fixed number: {call.why}")
        return depths.scale(dim, Fraction(outer_in * inner_in, outer_out * inner_out), call.why)
    return depths.scale(dim, Fraction(inner_in, inner_out), call.why)
