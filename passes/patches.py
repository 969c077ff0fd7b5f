"""What makes Python, torch and einops take proxies in place of tensors, for the time of a trace."""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.autograd.variable import Variable
from torch.fx.node import map_aggregate
from torch.nn.utils import _named_member_accessor
from torch.utils.checkpoint import CheckpointFunction

from conet_fx.passes.nodes import leaves


@contextlib.contextmanager
def followed_autograd_functions() -> Iterator[None]:
    """Have the tracer record the call of a custom ``torch.autograd.Function``, whose forward alone would lose the
    backward.
    """
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        proxy = next((a for a in (*args, *kwargs.values()) if isinstance(a, fx.Proxy)), None)
        if proxy is not None:
            if cls is CheckpointFunction:  # computes the same, with less memory
                run, _, *given = args
                return run(*given)
            if cls.__module__ == CheckpointFunction.__module__:  # saves its inputs for the backward, and gives nothing
                return torch.empty(0)
            tracer: Any = proxy.tracer
            return tracer.apply_function(cls, args, kwargs)
        return original.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


@contextlib.contextmanager
def functions_that_take_proxies() -> Iterator[None]:
    """Let functions that torch cannot dispatch take values of the graph.

    ``torch.zeros(x.size(0), 3)`` is recorded as ``torch.zeros((x.size(0), 3))``, ``torch.arange(x.size(1))`` as it is,
    ``torch.as_tensor`` of a tensor as ``x.to``. The limits of a type (``torch.finfo(x.dtype).min``) are numbers, and
    what ``torch._check`` and ``torch.is_tensor`` ask is answered at once.
    """

    def taking_proxies(factory: Callable[..., Any]) -> Callable[..., Any]:
        def call(*size: Any, **options: Any) -> Any:
            recorded = len(size) > 1 and any(isinstance(length, fx.Proxy) for length in size)
            return factory(size, **options) if recorded else factory(*size, **options)

        return call

    def recorded(factory: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            proxy = next((a for a in leaves((args, options)) if isinstance(a, fx.Proxy)), None)
            if proxy is None:
                return factory(*args, **options)
            return proxy.tracer.create_proxy("call_function", factory, args, options)

        return call

    def of_values(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            return original(*map(_value, given), **{name: _value(value) for name, value in options.items()})

        return call

    def converting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(data: Any, dtype: Any = None, device: Any = None) -> Any:
            options = {name: value for name, value in (("dtype", dtype), ("device", device)) if value is not None}
            if isinstance(data, fx.Proxy) and isinstance(data.node.meta["val"], torch.Tensor):
                return data.to(**options) if options else data
            if any(isinstance(a, fx.Proxy) for a in leaves((data, device))):
                return torch.tensor(data, **options)
            return original(data, dtype, device)

        return call

    wrappers: dict[str, Callable[..., Any]] = dict.fromkeys(("zeros", "ones", "empty"), taking_proxies)
    wrappers |= dict.fromkeys(("tensor", "full", "arange", "linspace", "eye"), recorded)
    wrappers |= {"as_tensor": converting, "finfo": of_values, "iinfo": of_values, "is_tensor": of_values}
    wrappers["_check_with"] = of_values  # what torch._check and its like call
    originals = {name: getattr(torch, name) for name in wrappers}
    try:
        for name, factory in originals.items():
            setattr(torch, name, wrappers[name](factory))
        yield
    finally:
        for name, factory in originals.items():
            setattr(torch, name, factory)


@contextlib.contextmanager
def constants_that_take_proxies() -> Iterator[None]:
    """Let methods and functions take numbers of the graph also where the tensor is none of its values, which is where
    torch asks for an ``int``: ``torch.eye(3).expand(x.shape[0], -1, -1)``.
    """

    def dispatched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            proxies = [a for a in leaves((args, options)) if isinstance(a, fx.Proxy)]
            if not proxies or any(isinstance(proxy.node.meta["val"], torch.Tensor) for proxy in proxies):
                return original(*args, **options)
            return type(proxies[0]).__torch_function__(original, (), args, options)

        call.stands_for = original  # type: ignore[attr-defined]  # functions of torch dispatch under their global names
        return call

    torch.overrides.is_tensor_method_or_property(torch.Tensor.expand)  # lists all methods when it is first called
    methods = ("expand", "new", "new_empty", "new_ones", "new_zeros", "roll", "split", "type")
    places = [*((torch.Tensor, name) for name in methods), (torch, "roll"), (F, "interpolate")]
    inherited = [name for name in methods if name not in vars(torch.Tensor)]
    originals = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name, original in originals:
            setattr(place, name, dispatched(original))
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)
        for name in inherited:
            delattr(torch.Tensor, name)


@contextlib.contextmanager
def variables_that_take_proxies() -> Iterator[None]:
    """Let ``torch.autograd.Variable(x)``, which code of the time before torch 0.4 still calls, detach a proxy."""
    meta = type(Variable)

    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("data", "requires_grad"), args, strict=False)), **kwargs}
        if not isinstance(data := given.get("data"), fx.Proxy):
            return type.__call__(cls, *args, **kwargs)
        return data.detach().requires_grad_(True) if given.get("requires_grad") else data.detach()

    meta.__call__ = call  # type: ignore[assignment]
    try:
        yield
    finally:
        del meta.__call__


@contextlib.contextmanager
def compiled_functions_looked_into() -> Iterator[None]:
    """Let functions under ``torch.jit.script``, ``torch.jit.trace`` and ``torch.compile`` run on proxies as the Python
    that they were made from.
    """
    scripted: Any = torch.jit.ScriptFunction
    original = scripted.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        python = getattr(self, "_torchdynamo_inline", None)
        if python is None or not any(isinstance(a, fx.Proxy) for a in leaves((args, kwargs))):
            return original(self, *args, **kwargs)
        return python(*args, **kwargs)

    dynamo: Any = sys.modules.get("torch._dynamo.config")  # where something is compiled
    scripted.__call__ = call
    try:
        with dynamo.patch(error_on_nested_fx_trace=False) if dynamo else contextlib.nullcontext():
            yield
    finally:
        scripted.__call__ = original


@contextlib.contextmanager
def flags_that_are_set(note: Callable[[nn.Module], None]) -> Iterator[None]:
    """Let code set ``self.training``, or call ``eval()`` of a part, where the tracer keeps the flags among the buffers.
    ``note`` hears of whose flag that is.
    """
    original = nn.Module.__setattr__

    def call(self: nn.Module, name: str, value: Any) -> None:
        if name == "training" and name in self._buffers:
            note(self)
            self._buffers[name] = cast(Any, bool(value))
        else:
            original(self, name, value)

    nn.Module.__setattr__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


@contextlib.contextmanager
def parameters_that_are_proxies(proxy_of: Callable[[torch.Tensor], Any]) -> Iterator[None]:
    """Let ``parameters()``, ``named_buffers()``, ``state_dict()`` and the like give the code of a model values of the
    graph, and ``torch.func.functional_call`` take them. ``proxy_of`` gives that of a parameter or buffer. What is no
    tensor is a flag that the tracer keeps among the buffers.
    """

    def asked_by_torch() -> bool:
        return str(sys._getframe(2).f_globals.get("__name__")).startswith(("torch.", "conet_fx."))

    def values(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: nn.Module, *args: Any, **options: Any) -> Any:
            found = original(self, *args, **options)
            return found if asked_by_torch() else (proxy_of(t) for t in found if isinstance(t, torch.Tensor))

        return call

    def items(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: nn.Module, *args: Any, **options: Any) -> Any:
            found = original(self, *args, **options)
            if asked_by_torch():
                return found
            return ((name, proxy_of(t)) for name, t in found if isinstance(t, torch.Tensor))

        return call

    def state(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: nn.Module, *args: Any, **options: Any) -> Any:
            found = original(self, *args, **{**options, "keep_vars": True})
            if asked_by_torch():
                return found
            return {name: proxy_of(t).detach() for name, t in found.items() if isinstance(t, torch.Tensor)}

        return call

    wrappers = {"parameters": values, "buffers": values, "named_parameters": items, "named_buffers": items}
    originals = {name: vars(nn.Module)[name] for name in (*wrappers, "state_dict")}
    accessor = vars(_named_member_accessor)
    try:
        for name, original in originals.items():
            setattr(nn.Module, name, wrappers.get(name, state)(original))
        accessor["isinstance"] = _sees_values
        yield
    finally:
        del accessor["isinstance"]
        for name, original in originals.items():
            setattr(nn.Module, name, original)


@contextlib.contextmanager
def functional_that_does_not_dispatch() -> Iterator[None]:
    """Let a function of torch.nn.functional that takes many tensors run on proxies, instead of handing itself over."""
    space = vars(F)
    original = space["has_torch_function"]
    space.update(has_torch_function=lambda relevant: False, isinstance=_sees_values)
    try:
        yield
    finally:
        space["has_torch_function"] = original
        del space["isinstance"]


def _sees_values(obj: Any, kind: Any) -> bool:
    """``isinstance`` of what a proxy stands for; it is a proxy too, for code that asks whether it is being traced."""
    return isinstance(obj, kind) or isinstance(_value(obj), kind)


def _calls_values(obj: Any) -> bool:
    """``callable`` of what a proxy stands for."""
    return callable(_value(obj))


def _value(obj: Any) -> Any:
    return obj.node.meta["val"] if isinstance(obj, fx.Proxy) else obj


@contextlib.contextmanager
def isinstance_that_sees_values(model: nn.Module) -> Iterator[None]:
    """Let ``isinstance(x, torch.Tensor)`` and ``callable(x)`` look at what a proxy stands for, in the packages that the
    model's classes are from, and so ``torch.jit.isinstance`` everywhere.
    """
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "conet_fx"}
    loaded = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    spaces = [vars(module) for module in loaded if isinstance(module, types.ModuleType)]
    # a forward that was put into a class from elsewhere
    forwards = (inspect.getattr_static(type(module), "forward", None) for module in model.modules())
    spaces += [f.__globals__ for f in forwards if isinstance(f, types.FunctionType)]
    spaces = [
        space
        for space in {id(space): space for space in spaces}.values()
        if not (space.get("__name__", "torch.").startswith("torch.") or {"isinstance", "callable"} & space.keys())
    ]
    scripted = torch.jit.isinstance

    def in_scripts(obj: Any, kind: Any) -> Any:
        return scripted(map_aggregate(obj, _value), kind)  # type: ignore[no-untyped-call]

    try:
        for space in spaces:
            space.update(isinstance=_sees_values, callable=_calls_values)
        torch.jit.isinstance = in_scripts
        yield
    finally:
        torch.jit.isinstance = scripted
        for space in spaces:
            del space["isinstance"], space["callable"]


@contextlib.contextmanager
def einops_that_takes_proxies(*proxies: type[fx.Proxy]) -> Iterator[None]:
    """Let einops, where the model's code has imported it, rearrange proxies as it does tensors.

    It looks for a library by the type of a tensor, and remembers that type and the sizes that it has seen.
    """
    core, backends = sys.modules.get("einops.einops"), sys.modules.get("einops._backends")
    if core is None or backends is None:
        yield
        return
    known, remembering = dict(backends._type2backend), core._reconstruct_from_shape
    backends._type2backend.update(dict.fromkeys(proxies, backends.get_backend(torch.empty(0))))
    core._reconstruct_from_shape = core._reconstruct_from_shape_uncached  # type: ignore[attr-defined]
    try:
        yield
    finally:
        core._reconstruct_from_shape = remembering  # type: ignore[attr-defined]
        backends._type2backend.clear()
        backends._type2backend.update(known)
