"""What every rule is, and the rules for the ends of the graph and for operators that nobody knows.

A rule says the same thing twice, once for sizes and once for identities: ``depth`` follows the dims of the operands
(:class:`~conet_fx.passes.call.Call`), ``labels`` follows which channel stands where
(:class:`~conet_fx.passes.labels.MarkCall`). Raising :class:`~conet_fx.passes.call.NoRule` hands the use to
:class:`Opaque`, which freezes what it touches and reports it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import nn

from conet_fx.errors import ConstraintError
from conet_fx.passes.call import Call, Value, dims_in, fixed_like
from conet_fx.passes.depth import is_fixed
from conet_fx.passes.labels import MarkCall
from conet_fx.passes.paths import by_mode
from conet_fx.passes.verify import multiply_adds

EdgeKind = Literal["conv", "non_conv"]
NodeKind = Literal["input", "single", "summation", "concatenation", "output"]


class Rule:
    """Behaviour of a class of operators."""

    kind: ClassVar[NodeKind] = "single"
    pairs: ClassVar[bool] = False  # channels of its operands meet in it, also where the result has none of them

    def edge(self, module: nn.Module | None) -> EdgeKind:
        """ "conv" where the operator may change the depth freely."""
        return "non_conv"

    def depth(self, call: Call) -> Value:
        """The value of the node; ties, cuts and freezes depths on the way."""
        raise NotImplementedError

    def labels(self, call: MarkCall) -> Any:
        """Label fields of the node (a list of them for several results)."""
        return call.moved()


class Ignore(Rule):
    """Assertions and the like: no value that matters."""

    def depth(self, call: Call) -> Value:
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        return None


class Unused(Rule):
    """A number that Python alone has looked at, whatever it is at other sizes: a condition, a count of elements."""

    def depth(self, call: Call) -> Value:
        return None

    def labels(self, call: MarkCall) -> Any:
        return None


class Input(Rule):
    """A network input: all dims fixed."""

    kind: ClassVar[NodeKind] = "input"

    def depth(self, call: Call) -> Value:
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        return {}


class Output(Rule):
    """The network output: its channels are frozen."""

    kind: ClassVar[NodeKind] = "output"

    def depth(self, call: Call) -> Value:
        value = call.value(call.node.args[0])
        for dim in dims_in(_known(call, call.node.args[0])):
            call.depths.freeze(dim, _BORDER if call.node.meta.get("border") else "channels of the network's output")
        return value

    def labels(self, call: MarkCall) -> Any:
        return None


_BORDER = "goes from a traced piece of the network to code that cannot be traced"


class Record(Rule):
    """A named tuple or a data class of values."""

    def depth(self, call: Call) -> Value:
        return [call.value(a) for a in (*call.node.args, *call.node.kwargs.values())]

    def labels(self, call: MarkCall) -> Any:
        given = (*call.node.args, *call.node.kwargs.values())
        return [call.labels_of(a) if isinstance(a, torch.fx.Node) else None for a in given]


class Applied(Rule):
    """The call of a ``torch.autograd.Function`` behind the operators of its forward: it has their value."""

    def depth(self, call: Call) -> Value:
        return call.value(call.node.kwargs["follows"])

    def labels(self, call: MarkCall) -> Any:
        followed: Any = call.node.kwargs["follows"]
        if isinstance(followed, torch.fx.Node):
            return call.labels_of(followed)
        return [call.labels_of(a) if isinstance(a, torch.fx.Node) else None for a in followed]


class Opaque(Rule):
    """An operator that the table does not know: what touches it keeps its size, and the report says so."""

    def depth(self, call: Call) -> Value:
        untraced = call.node.meta.get("untraced")
        return self.because(call, f"cannot be traced ({untraced})" if untraced else "is not in the table")

    def because(self, call: Call, reason: str) -> Value:
        dims = [dim for node in call.node.all_input_nodes for dim in dims_in(call.facts.values[node])]
        moving = [dim for dim in dims if not is_fixed(dim)]
        owns = call.node.op == "call_module" and next(call.module.parameters(), None) is not None
        if (moving or owns) and call.options.strict:
            raise ConstraintError(
                f"{call.why} {reason}, so the channels that it touches cannot be followed. Say how it carries "
                "them with conet_fx.register_op or register_module, or pass strict=False to keep them as they are"
            )
        if moving or owns:
            call.facts.unknown.append(f"{call.why} {reason}")
        for dim in moving:
            call.depths.freeze(dim, f"{call.why} {reason}")
        call.count(multiply_adds(call.node))
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        return None


def each(nest: Any, one: Any) -> Any:
    """``one(shape)`` for a shape, or a list of them for several results."""
    return [each(n, one) for n in nest] if isinstance(nest, list) else one(nest)


def _known(call: Call, argument: Any) -> Value:
    if isinstance(argument, torch.fx.Node) and argument.target is by_mode:
        argument = argument.args[1:]
    if isinstance(argument, torch.fx.Node):
        return call.facts.values[argument]
    if isinstance(argument, (tuple, list)):
        return [_known(call, a) for a in argument]
    if isinstance(argument, dict):
        return [_known(call, a) for a in argument.values()]
    return None
