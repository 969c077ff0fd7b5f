"""Teach the operator table your own functions, tensor methods and module classes.

with conet_fx.register_op(my_activation, rules.Elementwise()):
    plan = conet_fx.analyze(model, example_inputs)
"""

from __future__ import annotations

import difflib
import inspect
import keyword
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from conet_fx.passes import custom, ops
from conet_fx.passes.rules import Rule

_Key = Callable[..., Any] | str | type[nn.Module]
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, OpOverload, OpOverloadPacket)


class Registration:
    """Operators that stand in the table until :meth:`undo`, or until the end of a ``with`` block."""

    def __init__(self, *keys: _Key) -> None:
        self._keys = keys

    def undo(self) -> None:
        """Take the operators out of the table again. Plans that were made before keep what they know."""
        for key in self._keys:
            tables: tuple[dict[Any, ops.Entry], ...] = (ops.FUNCTIONS, ops.METHODS, ops.MODULES)
            for table in tables:
                table.pop(key, None)
            for known in (custom.FUNCTIONS, custom.CLASSES):
                cast(set[Any], known).discard(key)
        self._keys = ()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def register_op(target: Callable[..., Any] | str, rule: Rule, arguments: str = "input") -> Registration:
    """Say how a function or a tensor method carries the channel axis.

    A function written in Python is from now on recorded as one node: its body may use autograd functions, operators
    that the table lacks, loops and branches on shapes. It must run on meta or fake tensors; what branches on data
    becomes a ``torch.library.custom_op`` with its ``register_fake``.

    Args:
        target: a function (Python, torch's own, ``torch.ops`` or ``torch.library.custom_op``), or the name of a method
            of ``torch.Tensor``.
        rule: an instance of a rule in :mod:`conet_fx.passes.rules`, or of your own subclass of ``Rule``.
        arguments: the names under which the rule finds the arguments, in the order of the call, with defaults:
            ``"input dim=1"``; ``*sizes`` takes all that follow.

    Returns:
        The registration: a context manager, or a handle to ``undo()``. It may be thrown away.

    Raises:
        TypeError: ``target`` or ``rule`` is of another type.
        ValueError: ``target`` stands in the table already, is no method of tensors, or ``arguments`` cannot be read.
    """
    _check_rule(rule)
    _check_arguments(arguments)
    if isinstance(target, str):
        _check_method(target)
        _check_new(target, ops.METHODS)
        ops.register(rule, arguments, methods=target, own=True)
        return Registration(target)
    keys = _functions(target)
    for key in keys:
        _check_new(key, ops.FUNCTIONS)
    ops.register(rule, arguments, functions=keys, own=True)
    custom.FUNCTIONS.update(key for key in keys if isinstance(key, types.FunctionType))
    return Registration(*keys)


def register_module(cls: type[nn.Module], rule: Rule, arguments: str = "input") -> Registration:
    """Say how a module class carries the channel axis. The tracer does not look into its modules any more.

    Subclasses that define no ``forward`` of their own count too. Arguments, result and errors as :func:`register_op`.
    """
    _check_class(cls)
    _check_rule(rule)
    _check_arguments(arguments)
    _check_new(cls, ops.MODULES)
    ops.register(rule, arguments, modules=[cls], own=True)
    custom.CLASSES.add(cls)
    return Registration(cls)


def _check_class(cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        hint = f"; pass its class, {type(cls).__name__}" if isinstance(cls, nn.Module) else ""
        raise TypeError(f"register_module takes a subclass of torch.nn.Module, not {cls!r}{hint}")
    if cls in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict):
        raise TypeError(f"{cls.__name__} has no behaviour of its own: register the subclass")


def _check_rule(rule: object) -> None:
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(f"rule is the class {rule.__name__}: pass an instance, such as {rule.__name__}()")
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be an instance of a rule in conet_fx.passes.rules, not {rule!r}")
    if type(rule).depth is Rule.depth:
        raise TypeError(f"{type(rule).__name__} has no depth(): it must say what the dims of the result are")


def _check_arguments(arguments: object) -> None:
    if not isinstance(arguments, str):
        raise TypeError(f"arguments must be a string such as 'input dim=1', not {arguments!r}")
    try:
        names = list(ops.parse_arguments(arguments))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"arguments={arguments!r}: a default is no Python literal ({error})") from None
    for name in names:
        plain = name.removeprefix("*")
        if not plain.isidentifier() or keyword.iskeyword(plain):
            raise ValueError(f"arguments={arguments!r}: {name!r} is no argument name; write 'input dim=1'")


def _check_method(name: str) -> None:
    if not callable(getattr(torch.Tensor, name, None)):
        near = difflib.get_close_matches(name, dir(torch.Tensor), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"torch.Tensor has no method {name!r}{hint}")


def _check_new(key: Any, table: Mapping[Any, ops.Entry]) -> None:
    if key in table:
        name = key if isinstance(key, str) else getattr(key, "__qualname__", str(key))
        raise ValueError(
            f"{name} stands in the operator table already, with the rule {type(table[key].rule).__name__}; a "
            "registration of yours goes with its undo()"
        )


def _functions(target: Any) -> list[Callable[..., Any]]:
    """What stands in the graph where ``target`` is called."""
    if isinstance(target, CustomOpDef):
        target = target._opoverload
    if isinstance(target, OpOverload):
        packet = target.overloadpacket
        return [target, packet] if len(_overloads(packet)) == 1 else [target]
    if isinstance(target, OpOverloadPacket):
        return [target, *_overloads(target)]
    if isinstance(target, nn.Module) or (isinstance(target, type) and issubclass(target, nn.Module)):
        raise TypeError(f"{target!r} is a module: use register_module")
    name = getattr(target, "__name__", "")
    if inspect.ismethoddescriptor(target) and getattr(torch.Tensor, name, None) is target:
        raise TypeError(f"give a method of tensors by its name: register_op({name!r}, ...)")
    if not isinstance(target, _FUNCTIONS):
        raise TypeError(
            f"register_op takes a function or the name of a tensor method, not {target!r}; "
            "call an object or a bound method from a function, and register that function"
        )
    return [target]


def _overloads(packet: Any) -> list[OpOverload]:
    return [getattr(packet, name) for name in packet.overloads()]
