"""Integers in the graph: shapes, arithmetic on them, and conditions."""

from __future__ import annotations

import dataclasses
import operator
from fractions import Fraction
from typing import Any, Literal

import torch

from conet_fx.passes.call import Call, Int, Tensor, Value, dims_in, fixed_like, product
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import MarkCall
from conet_fx.passes.rules.base import Rule
from conet_fx.passes.rules.keep import Summation
from conet_fx.passes.rules.moves import Permute


class Shape(Rule):
    """``x.shape``, ``x.size()``, ``x.size(d)`` and other attributes of a tensor."""

    def depth(self, call: Call) -> Value:
        name = call.raw("name") if "name" in call._arguments else "shape"
        items = call.operand("input")
        place = _place(call.raw("input"), name) if isinstance(items, (tuple, list)) else None
        if place is not None:
            return items[place]
        dims = call.dims()
        if name == "shape":
            which = call.number("dim") if "dim" in call._arguments else None
            return [Int(dim) for dim in dims] if which is None else Int(dims[which])
        if name in ("T", "mT", "H", "mH"):
            return Permute().depth(call)
        if name in ("data", "real", "imag"):
            return Tensor(dims)
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        name = call._arguments.get("name")
        place = _place(call.raw("input"), name) if isinstance(name, str) else None
        if place is not None:
            return call.item("input", place)
        if name in ("data", "real", "imag"):
            return call.fields()
        return call.moved() if isinstance(call.result, Tensor) else None


def _place(owner: Any, name: str) -> int | None:
    """Where the field ``name`` stands in what ``owner`` gives: a named tuple, a data class, what torch.max returns."""
    val = owner.meta["val"]
    if dataclasses.is_dataclass(val):
        names = [field.name for field in dataclasses.fields(val)]
    elif isinstance(owner.target, type):
        names = list(getattr(owner.target, "_fields", ()))
    else:
        names = [n for n in ("values", "indices", "min", "max") if isinstance(val, tuple) and hasattr(val, n)]
    return names.index(name) if name in names else None


@dataclasses.dataclass(frozen=True)
class Arithmetic(Summation):
    """+, -, *, // of tensors or of sizes. Sizes stay linear in depths: n + m, n * 2, n // 2."""

    name: Literal["add", "sub", "mul", "floordiv", "mod", "other"]

    def _on_numbers(self, call: Call) -> Value:
        values = [call.value(a) for a in call.node.args]
        if len(values) != 2 or not all(isinstance(v, Int) for v in values) or all(is_fixed(v.dim) for v in values):
            real = isinstance(call.node.meta["val"], float)
            if (self.name == "other" and real) or all(is_fixed(d) for d in dims_in(values)):
                for dim in dims_in(values):
                    call.mixes(dim)  # a factor such as 1 / sqrt(channels)
                return fixed_like(call.node.meta["val"])
            return super()._on_numbers(call)
        a, b = (_settled(call, v.dim) for v in values)
        if self.name == "add":
            return Int((*a, *b))
        if self.name == "mul" and (is_fixed(a) or is_fixed(b)):
            times, dim = (a, b) if is_fixed(a) else (b, a)
            return Int(call.depths.scale(dim, call.size(times), call.why))
        if self.name == "floordiv" and is_fixed(b) and call.size(a) % call.size(b) == 0:
            return Int(call.depths.scale(a, Fraction(1, call.size(b)), call.why))
        if self.name == "floordiv" and call.depths.in_step((*a, *b)):
            return Int((call.node.meta["val"],))  # a ratio that stays
        if self.name == "mod" and is_fixed(b) and call.node.meta["val"] == 0:
            call.depths.multiple(a, call.size(b), call.why)
            return Int((0,))
        if self.name == "sub" and not is_fixed(a) and not is_fixed(b):
            rest = _minus(call, a, b)
            if rest is not None:
                return Int(rest)
        return _scalar(call, dims_in(values), "computes with a channel count in a way that is not followed")


class Numel(Rule):
    """``x.numel()``: the product of all dims, of which one may hold channels."""

    def depth(self, call: Call) -> Value:
        value = call.operand("input")
        dims = value.dims if isinstance(value, Tensor) else [number.dim for number in value]
        dims = [_settled(call, dim) for dim in dims]
        moving = [dim for dim in dims if not is_fixed(dim)]
        if len(moving) == 1:
            return Int(call.depths.scale(moving[0], product([call.size(d) for d in dims if is_fixed(d)]), call.why))
        return _scalar(call, moving, "multiplies two channel counts")

    def labels(self, call: MarkCall) -> Any:
        return None


class Compare(Rule):
    """A condition on a size: the graph holds only one outcome, so the size must stay.

    An assertion that two sizes are equal keeps them equal.
    """

    def depth(self, call: Call) -> Value:
        operands = [call.value(a) for a in call.node.args]
        if any(isinstance(v, Tensor) for v in operands):
            return Summation().depth(call)
        asserted = call.node.meta["val"] is True and all(user.target is torch._assert for user in call.node.users)
        if asserted and call.node.target is operator.eq and all(isinstance(v, Int) for v in operands):
            if call.node.users:
                call.tie(*(v.dim for v in operands))
        elif call.node.users:
            call.freeze(*dims_in(operands), because="a condition on a channel count")
        return call.node.meta["val"]

    def labels(self, call: MarkCall) -> Any:
        return Summation().labels(call)


def _settled(call: Call, dim: Dim) -> Dim:
    """The dim, or the number that it stands for where that is known to stay."""
    return dim if call.depths.moves(dim) else (call.size(dim),)


def _scalar(call: Call, dims: list[Dim], because: str) -> Value:
    """A number that is not linear in channel counts: free to change where tensors are multiplied with it or divided by
    it, which mixes channels; anywhere else the counts stay.
    """
    if all(user.target in _SCALING and isinstance(user.meta["val"], torch.Tensor) for user in call.node.users):
        for dim in dims:
            call.mixes(dim)
        return None
    call.freeze(*dims, because=because)
    return fixed_like(call.node.meta["val"])


_SCALING: frozenset[Any] = frozenset(
    (operator.mul, operator.truediv, torch.mul, torch.div, torch.true_divide, "mul", "mul_", "div", "div_")
)


def _minus(call: Call, a: Dim, b: Dim) -> Dim | None:
    """a - b where b is a run at the start or the end of a, or a share of it."""
    a, b = call.depths.resolve(a), call.depths.resolve(b)
    if a[: len(b)] == b:
        return a[len(b) :]
    if a[len(a) - len(b) :] == b:
        return a[: len(a) - len(b)]
    roots = call.depths.roots((*a, *b))
    if len(roots) == 1 and not any(isinstance(p, int) for p in (*a, *b)):
        return call.depths.scale(a, Fraction(call.size(a) - call.size(b), call.size(a)), call.why)
    return None
