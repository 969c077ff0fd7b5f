"""Proxies that know the value that they stand for, so that Python which needs a number gets one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.proxy import Attribute

from conet_fx.errors import TraceError
from conet_fx.passes import numerals
from conet_fx.passes.lines import user_line
from conet_fx.passes.nodes import leaves, source

if TYPE_CHECKING:
    from conet_fx.passes.record import Recorder

# Functions of torch.nn.functional that are made of others, and are looked into unless the operator table knows them.
_LOOKED_INTO = frozenset((F.multi_head_attention_forward,))
_SET_ON_TENSORS = frozenset(("data", "grad", "requires_grad"))


class Proxy(fx.Proxy):
    """A value of the graph that is being recorded; ``node.meta["val"]`` is what it is now."""

    tracer: Recorder

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = getattr(function, "stands_for", function)
        if function in _LOOKED_INTO:
            proxy = next(a for a in leaves((args, kwargs)) if isinstance(a, Proxy))
            if (found := proxy.tracer.looked_into(function, args, kwargs or {})) is not None:
                return found
        return super().__torch_function__(function, types, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol that torch asks any object for
            raise AttributeError(name)
        if name == "ndim" and isinstance(value := self.node.meta["val"], torch.Tensor):
            return value.ndim  # the number of dims never changes
        if name == "type" and isinstance(device := self.node.meta["val"], torch.device):
            return device.type  # a name that Python looks at, as torch.autocast does
        return AttributeProxy(self, name)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._read("round()"), digits)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __add__(self, other: Any) -> Any:
        if isinstance(self.node.meta["val"], tuple):  # x.shape[:-1] + (heads, 64): items, as [*x.shape[:-1], 64] has
            return (*self, *other)
        return super().__add__(other)  # type: ignore[misc]  # torch.fx puts it there when it is imported

    def __radd__(self, other: Any) -> Any:
        if isinstance(self.node.meta["val"], tuple):
            return (*other, *self)
        return super().__radd__(other)  # type: ignore[misc]

    def __eq__(self, other: Any) -> Any:
        return self.node.meta["val"] is None if other is None else super().__eq__(other)

    def __ne__(self, other: Any) -> Any:
        return self.node.meta["val"] is not None if other is None else super().__ne__(other)

    __hash__ = fx.Proxy.__hash__

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        value = self.node.meta["val"]
        return repr(self) if isinstance(value, torch.Tensor) else format(value, spec)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and alike(self, value):
            self.detach().copy_(value.detach())
            return
        if name == "requires_grad" and isinstance(value, bool):
            self.requires_grad_(value)
            return
        if name in _SET_ON_TENSORS:
            raise TraceError(
                f"{source(self.node)}: no graph can hold this assignment to .{name} of a tensor: write into it, as "
                f"t.copy_(...) under torch.no_grad() does. Line: {user_line()[0]}"
            )
        super().__setattr__(name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __contains__(self, item: Any) -> bool:
        if isinstance(item, fx.Proxy):
            item = self.tracer.number(item, "a condition")
        return item in self.tracer.number(self, "a condition")

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)  # torch.fx would read the caller's bytecode for the number of items

    def __len__(self) -> int:
        return len(self.tracer.value(self))

    def __int__(self) -> int:
        return int(self._read("int()"))

    def __index__(self) -> int:
        return int(self.tracer.number(self, "an index"))

    def __float__(self) -> float:
        return float(self._read("float()"))

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Any:
        return numerals.computed(ufunc, method, operands, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(self.node.meta["val"], torch.Tensor):
            return NotImplemented
        return numerals.reduced(function, args, kwargs)

    def _read(self, use: str) -> Any:
        """The number that this proxy stands for; what the model computes with it will not follow another size."""
        number = self.tracer.number(self, use)
        self.node.meta.setdefault("read_as_number", []).append(f"{use} at {user_line()[0]}")
        return number


class AttributeProxy(Proxy, Attribute):
    """``x.shape``, ``x.mT``, ``x.size``: an attribute, or a method about to be called."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        Attribute.__init__(self, root, attr)


def alike(ours: fx.Proxy, other: Any) -> bool:
    """Whether both are tensors of one shape and type; ``other`` may be a tensor itself."""
    a, b = ours.node.meta["val"], other.node.meta["val"] if isinstance(other, fx.Proxy) else other
    return all(isinstance(t, torch.Tensor) for t in (a, b)) and (a.shape, a.dtype) == (b.shape, b.dtype)
