"""Integers in the graph: shapes, arithmetic on them, and conditions."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any, Literal

from conet_fx.passes.call import Call, Int, Tensor, Value, dims_in, fixed_like
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import MarkCall
from conet_fx.passes.rules.base import Rule
from conet_fx.passes.rules.keep import Summation
from conet_fx.passes.rules.moves import Permute


class Shape(Rule):
    """``x.shape``, ``x.size()``, ``x.size(d)`` and other attributes of a tensor."""

    def depth(self, call: Call) -> Value:
        dims = call.dims()
        name = call.raw("name") if "name" in call._arguments else "shape"
        if name == "shape":
            which = call.number("dim") if "dim" in call._arguments else None
            return [Int(dim) for dim in dims] if which is None else Int(dims[which])
        if name in ("T", "mT", "H", "mH"):
            return Permute().depth(call)
        if name == "data":
            return Tensor(dims)
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        return call.moved() if isinstance(call.result, Tensor) else None


@dataclasses.dataclass(frozen=True)
class Arithmetic(Summation):
    """+, -, *, // of tensors or of sizes. Sizes stay linear in depths: n + m, n * 2, n // 2."""

    name: Literal["add", "sub", "mul", "floordiv", "other"]

    def _on_numbers(self, call: Call) -> Value:
        values = [call.value(a) for a in call.node.args]
        if len(values) != 2 or not all(isinstance(v, Int) for v in values) or all(is_fixed(v.dim) for v in values):
            if self.name == "other" or all(is_fixed(d) for d in dims_in(values)):
                return fixed_like(call.node.meta["val"])
            return super()._on_numbers(call)
        a, b = (v.dim for v in values)
        if self.name == "add":
            return Int((*a, *b))
        if self.name == "mul" and (is_fixed(a) or is_fixed(b)):
            times, dim = (a, b) if is_fixed(a) else (b, a)
            return Int(call.depths.scale(dim, call.size(times), call.why))
        if self.name == "floordiv" and is_fixed(b) and call.size(a) % call.size(b) == 0:
            return Int(call.depths.scale(a, Fraction(1, call.size(b)), call.why))
        if self.name == "sub" and not is_fixed(a) and not is_fixed(b):
            rest = _minus(call, a, b)
            if rest is not None:
                return Int(rest)
        return super()._on_numbers(call)


class Compare(Rule):
    """A condition on a size: the graph holds only one outcome, so the size must stay."""

    def depth(self, call: Call) -> Value:
        operands = [call.value(a) for a in call.node.args]
        if any(isinstance(v, Tensor) for v in operands):
            return Summation().depth(call)
        if call.node.users:
            call.freeze(*dims_in(operands), because="a condition on a channel count")
        return call.node.meta["val"]

    def labels(self, call: MarkCall) -> Any:
        return Summation().labels(call)


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
