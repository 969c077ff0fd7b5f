"""What the tracer records as one node because a user registered it (``conet_fx.register_op``, ``register_module``).

The operator table (:mod:`conet_fx.passes.ops`) says how such an operator carries the channel axis; this module holds
what the tracer needs to know of it, which may not look at the table: which module classes are leaves, and which
functions are recorded as a call instead of being traced into.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn

CLASSES: set[type[nn.Module]] = set()
FUNCTIONS: set[types.FunctionType] = set()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """While this lasts, a call of a function in :data:`FUNCTIONS` with a proxy among its arguments is one node.

    The function object itself gets other code for that time, so it does not matter how a model refers to it: by a
    global name, an attribute, a closure or a ``functools.partial``. Calls without a proxy run as they are.
    """
    saved = {function: _Code.of(function) for function in FUNCTIONS}
    try:
        for function, code in saved.items():
            _record_calls(function, code)
        yield
    finally:
        for function, code in saved.items():
            code.put(function)


class _Code:
    """Code and defaults of a function: what is swapped for the time of a trace."""

    def __init__(self, code: types.CodeType, defaults: Any, kwdefaults: Any) -> None:
        self.code = code
        self.defaults = defaults
        self.kwdefaults = kwdefaults

    @classmethod
    def of(cls, function: types.FunctionType) -> _Code:
        return cls(function.__code__, function.__defaults__, function.__kwdefaults__)

    def put(self, function: types.FunctionType) -> None:
        function.__code__ = self.code
        function.__defaults__ = self.defaults
        function.__kwdefaults__ = self.kwdefaults


def _record_calls(function: types.FunctionType, own: _Code) -> None:
    body = types.FunctionType(own.code, function.__globals__, function.__name__, own.defaults, function.__closure__)
    body.__kwdefaults__ = own.kwdefaults
    signature = inspect.signature(body)

    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        proxy = next((a for a in _leaves((args, kwargs)) if isinstance(a, fx.Proxy)), None)
        if proxy is None:
            return body(*args, **kwargs)
        try:
            bound = signature.bind(*args, **kwargs)  # positional where that can be, so that a rule finds its arguments
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}(): {error}") from None
        return proxy.tracer.create_proxy("call_function", function, bound.args, bound.kwargs)

    # as many free variables as the function has, which Python asks for; none of them is read
    code = _calls_record.__code__.replace(co_freevars=own.code.co_freevars)
    _Code(code, None, {"_conet_record": record}).put(function)


def _calls_record(*args: Any, _conet_record: Callable[..., Any], **kwargs: Any) -> Any:
    return _conet_record(args, kwargs)


def _leaves(nest: Any) -> Iterator[Any]:
    if isinstance(nest, (tuple, list)):
        for item in nest:
            yield from _leaves(item)
    elif isinstance(nest, dict):
        yield from _leaves(list(nest.values()))
    elif isinstance(nest, slice):
        yield from (nest.start, nest.stop, nest.step)
    else:
        yield nest
