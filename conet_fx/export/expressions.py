"""The arguments and calls of fx nodes as Python expressions."""

from __future__ import annotations

import builtins
import dataclasses
import functools
import importlib
import inspect
import itertools
import math
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from conet_fx.errors import ExportError
from conet_fx.recipe.names import qualified_name

# How tightly an operator binds; ATOM needs no parentheses anywhere.
_OR, _NOT, _COMPARE, _SUM, _PRODUCT, _UNARY, _POWER, ATOM = 1, 3, 4, 9, 10, 11, 12, 14


@dataclasses.dataclass(frozen=True)
class Text:
    """An expression and how tightly it binds."""

    text: str
    binds: int = ATOM

    def within(self, binds: int) -> str:
        """The text, in parentheses where an operator that binds so tightly would tear it apart."""
        return self.text if self.binds >= binds else f"({self.text})"


BINARY: Mapping[Any, tuple[str, int]] = {
    operator.or_: ("|", 5),
    operator.xor: ("^", 6),
    operator.and_: ("&", 7),
    operator.add: ("+", _SUM),
    operator.sub: ("-", _SUM),
    operator.mul: ("*", _PRODUCT),
    operator.matmul: ("@", _PRODUCT),
    operator.truediv: ("/", _PRODUCT),
    operator.floordiv: ("//", _PRODUCT),
    operator.mod: ("%", _PRODUCT),
    operator.pow: ("**", _POWER),
    operator.lt: ("<", _COMPARE),
    operator.le: ("<=", _COMPARE),
    operator.gt: (">", _COMPARE),
    operator.ge: (">=", _COMPARE),
    operator.eq: ("==", _COMPARE),
    operator.ne: ("!=", _COMPARE),
}
UNARY: Mapping[Any, tuple[str, int]] = {
    operator.neg: ("-", _UNARY),
    operator.pos: ("+", _UNARY),
    operator.invert: ("~", _UNARY),
    operator.not_: ("not ", _NOT),
}
_IS: Mapping[Any, str] = {operator.eq: "is", operator.ne: "is not"}
IN_PLACE: Mapping[Any, str] = {
    operator.iadd: "+=",
    operator.isub: "-=",
    operator.imul: "*=",
    operator.itruediv: "/=",
    operator.ipow: "**=",
    operator.iand: "&=",
    operator.ior: "|=",
    operator.ixor: "^=",
}
_ALIASES = {"torch.nn.functional": "F", "torch.nn": "nn"}


@dataclasses.dataclass
class Imports:
    """The modules that a file has to import, found as its names are written."""

    modules: set[str] = dataclasses.field(default_factory=set)

    def name(self, member: Callable[..., Any]) -> str:
        """How source calls a function or class of a package, which is imported for it.

        Raises:
            ExportError: it has no name that an import could find.
        """
        module, _, name = qualified_name(member).rpartition(".")
        if module == "builtins":
            return name
        for package in itertools.accumulate(module.split("."), lambda a, b: f"{a}.{b}"):
            if package.partition(".")[0] == "conet_fx":
                break
            try:
                found = getattr(importlib.import_module(package), name, None)
            except ImportError:
                break
            if found is member:
                return f"{self.module(package)}.{name}"
        for alias, package in (("F", "torch.nn.functional"), ("torch", "torch._C._nn")):
            if getattr(importlib.import_module(package), name, None) is member:
                return f"{self.module(package) if alias == 'F' else package}.{name}"
        raise ExportError(
            f"{qualified_name(member)} cannot be imported by its name, so that no source can call it: define it at the "
            "top of a module, not in __main__ or inside a function"
        )

    def module(self, package: str) -> str:
        """The name of a package in the source."""
        self.modules.add(package)
        return _ALIASES.get(package, package)


def literal(value: Any) -> Text:
    """A constant, or a nest of them. Raises ``TypeError`` for what has no literal form."""
    return nest(value, _no_node)


def _no_node(node: Node) -> Text:
    raise TypeError(f"{node} is no constant")


def nest(value: Any, of_node: Callable[[Node], Text]) -> Text:
    """An argument of a node: constants, nodes (as ``of_node`` writes them), tuples, lists, dicts, slices of such."""

    def inner(item: Any) -> str:
        return nest(item, of_node).text

    match value:
        case Node():
            return of_node(value)
        case None | bool():
            return Text(repr(value))
        case str():
            return Text(quoted(value))
        case int() if type(value) is int:
            return Text(repr(value), ATOM if value >= 0 else _UNARY)
        case float():
            if not math.isfinite(value):
                return Text(f'float("{value}")')
            return Text(repr(float(value)), ATOM if math.copysign(1, value) > 0 else _UNARY)
        case tuple():
            return Text(f"({', '.join(map(inner, value))}{',' * (len(value) == 1)})")
        case list():
            return Text(f"[{', '.join(map(inner, value))}]")
        case dict():
            return Text("{" + ", ".join(f"{inner(key)}: {inner(item)}" for key, item in value.items()) + "}")
        case slice():
            return Text(f"slice({inner(value.start)}, {inner(value.stop)}, {inner(value.step)})")
        case torch.device():
            return Text(f'torch.device("{value}")')
        case types.EllipsisType():
            return Text("...")
        case torch.dtype() | torch.layout() | torch.memory_format():
            return Text(str(value))
    raise TypeError(f"{value!r} of type {qualified_name(type(value))} has no literal form")


def quoted(text: str) -> str:
    """A string literal, in double quotes where that needs no escapes."""
    plain = text.isprintable() and not {*text} & {'"', "\\"}
    return f'"{text}"' if plain else repr(text)


def call(node: Node, of_node: Callable[[Node], Text], imports: Imports) -> Text:
    """What ``node``, a function or a method, computes, as an expression.

    Raises:
        ExportError: the function has no name that an import could find.
    """
    args, kwargs = node.args, node.kwargs

    def text(value: Any, binds: int = 0) -> str:
        return nest(value, of_node).within(binds)

    if node.op == "call_method":
        owner, *rest = args
        return Text(f"{text(owner, ATOM)}.{node.target}({arguments(rest, kwargs, of_node)})")
    target: Any = node.target
    if target is getattr:
        return Text(f"{text(args[0], ATOM)}.{args[1]}")
    if not kwargs and target is operator.getitem:
        return Text(f"{text(args[0], ATOM)}[{index(args[1], of_node)}]")
    if target in _IS and args[1] is None:
        return Text(f"{text(args[0], _COMPARE + 1)} {_IS[target]} None", _COMPARE)
    if not kwargs and target in BINARY and len(args) == 2:
        sign, binds = BINARY[target]
        chains = binds not in (_COMPARE, _POWER)  # a < b < c and a ** b ** c mean something else
        return Text(f"{text(args[0], binds + (not chains))} {sign} {text(args[1], binds + 1)}", binds)
    if not kwargs and target in UNARY and len(args) == 1:
        sign, binds = UNARY[target]
        return Text(f"{sign}{text(args[0], binds)}", binds)
    if target is tuple and len(args) == 1 and isinstance(args[0], (tuple, list)):
        return nest(tuple(args[0]), of_node)
    told = {name: value for name, value in kwargs.items() if not _is_default(target, name, value)}
    return Text(f"{imports.name(target)}({arguments(args, told, of_node)})")


def _is_default(function: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether an argument is what the function takes without it (``inplace=False``)."""
    default = _defaults(function).get(name, _NONE)
    return type(value) is type(default) and not isinstance(value, Node) and value == default


_NONE = object()


@functools.cache
def _defaults(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    except ValueError:  # written in C++
        return {}


def arguments(args: Any, kwargs: Mapping[str, Any], of_node: Callable[[Node], Text]) -> str:
    """What stands in the parentheses of a call."""
    given = [nest(value, of_node).text for value in args]
    return ", ".join([*given, *(f"{name}={nest(value, of_node).text}" for name, value in kwargs.items())])


def index(value: Any, of_node: Callable[[Node], Text]) -> str:
    """What stands in the brackets of a subscript: ``:, 1:3, ...`` for a tuple of slices."""
    if isinstance(value, slice):
        start, stop, step = ("" if part is None else nest(part, of_node).text for part in _parts(value))
        return f"{start}:{stop}" + (f":{step}" if step else "")
    if isinstance(value, tuple) and value:
        return ", ".join(index(part, of_node) if not isinstance(part, tuple) else nest(part, of_node).text
                         for part in value) + "," * (len(value) == 1)  # fmt: skip
    return nest(value, of_node).text


def _parts(value: slice) -> tuple[Any, Any, Any]:
    return value.start, value.stop, value.step


BUILTINS = frozenset(dir(builtins))
