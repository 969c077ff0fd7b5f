"""Runs one operator to learn the shape of what it gives, without computing anything.

Meta tensors are tried first, since a trace on fake tensors takes several times as long. An operator that meta tensors
cannot run (it makes tensors of its own on another device, or has no kernel for them) runs on fake tensors, and so does
a convolution of values whose dims lie in another order in memory. All values that come and go are meta tensors.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import operator
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.immutable_collections import immutable_list
from torch.fx.node import map_aggregate, map_arg
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from conet_fx.passes.closures import copy_module
from conet_fx.passes.foreseen import foreseen
from conet_fx.passes.nodes import attribute, copies, leaves, lies_in_order, submodule, tensors, tensors_of

_META = torch.device("meta")


def to_meta(a: Any) -> Any:
    """A meta tensor of the shape, strides and type of ``a``; anything that is no tensor as it is."""
    if isinstance(a, FakeTensor):  # of which torch makes others like it, and runs all in Python
        return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device=_META)
    if not isinstance(a, torch.Tensor) or a.device.type == "meta":
        return a
    return torch.empty_like(a, device=_META, requires_grad=False)


class Shapes:
    """Runs the nodes of a graph. ``device`` is where the tensors of the model are; ``on`` the kinds of tensors that are
    tried: "meta", "fake", which take the same paths through torch as real ones, and "ones" in place of the weights and
    inputs of modules that need data and have code that is not torch's.

    Networks repeat their blocks, so what a layer or a function of torch gives is remembered.
    """

    def __init__(self, device: torch.device, on: Collection[str] = ("meta", "fake")) -> None:
        self.device = device
        self._on = on
        self._known: dict[tuple[Any, ...], Any] = {}

    def of(self, node: fx.Node, root: nn.Module, value: Callable[[fx.Node], Any]) -> Any:
        """What ``node`` gives, where the nodes before have the values that ``value`` tells and ``root`` its modules.

        Raises whatever the operator raises on fake tensors.
        """
        if node.op == "get_attr":
            return to_meta(attribute(root, str(node.target)))
        if node.op == "output":
            return map_arg(node.args[0], value)
        if node.target is getattr:
            owner, name = value(cast(fx.Node, node.args[0])), str(node.args[1])
            if isinstance(owner, torch.Tensor) and name in _OF_THE_DEVICE:
                owner = torch.empty(0, device=self.device)
            return getattr(owner, name)
        if node.target == "type" and len(node.args) == 1 and not node.kwargs:  # 'torch.FloatTensor'
            return torch.empty(0, dtype=value(cast(fx.Node, node.args[0])).dtype, device=self.device).type()

        def operand(a: Any) -> Any:
            return _on_meta(value(a) if isinstance(a, fx.Node) else a)

        args, kwargs = cast(tuple[Any, Any], map_aggregate((node.args, node.kwargs), operand))
        if node.op == "call_method":
            name = str(node.target)
            if name in RESHAPE_IN_PLACE:
                args = (args[0].detach(), *args[1:])  # the node before keeps its shape
            return self.run(name, args, kwargs)
        if node.op == "call_module":
            return self.run(submodule(root, str(node.target)), args, kwargs)
        assert callable(node.target)
        return self.run(node.target, args, kwargs)

    def run(self, target: str | Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a function, a module, or the method of that name gives on meta tensors."""
        key = _key(target, args, kwargs) if "meta" in self._on else None
        if key is None or key not in self._known:
            result = foreseen(target, args) if key is not None and not kwargs else None
            if result is None:
                result = self._result(target, args, kwargs)
            if any(t.device != _META or isinstance(t, FakeTensor) for t in tensors(result)):
                result = pytree.tree_map(to_meta, result)  # keeps classes of dicts
            if key is None:
                return result
            self._known[key] = result
        return self._known[key]

    def _result(self, target: str | Callable[..., Any], args: Any, kwargs: Any) -> Any:
        foreign = isinstance(target, nn.Module) and not all(map(_is_known, target.modules()))
        if foreign:
            assert isinstance(target, nn.Module)
            original, target = target, _twin(target)
        args, kwargs = _with_plain_fill(target, args, kwargs)
        if target in _WANTS_A_VIEW:
            args = tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
        if "meta" in self._on and not ("fake" in self._on and _chooses_the_layout(target, args, kwargs)):
            with contextlib.suppress(Exception), torch.no_grad():
                return _call(target, args, kwargs, to_meta)
        if target in _LOOKS_AT_DATA:
            return _call(target, *map_aggregate((args, kwargs), _ones), _ones)
        try:
            return self._on_fakes(target, args, kwargs, foreign)
        except Exception:
            if not ("ones" in self._on and foreign):
                raise
        with torch.no_grad():
            found = _call(_twin(original), *map_aggregate((args, kwargs), _example), _example)
        if not all(isinstance(leaf, torch.Tensor) for leaf in leaves(found)):
            raise TypeError("a number out of the data would be in the graph for good")
        return found

    def _on_fakes(self, target: str | Callable[..., Any], args: Any, kwargs: Any, foreign: bool) -> Any:
        if "fake" not in self._on:
            raise RuntimeError("it runs on no meta tensors")
        with (
            _no_fakes_in_caches() if foreign else contextlib.nullcontext(),
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
        ):
            return _call(target, *map_aggregate((args, kwargs), self._as_if_real), self._as_if_real)

    def _as_if_real(self, a: Any) -> Any:
        """A fake tensor on the device of the model."""
        if isinstance(a, torch.Tensor):
            return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device=self.device)
        return self.device if isinstance(a, torch.device) else a


# views that change a tensor itself: a graph goes on with what they return
RESHAPE_IN_PLACE = {"unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_"}
_OF_THE_DEVICE = {"device", "is_cpu", "is_cuda", "is_mps", "is_xpu", "is_meta"}


def _call(target: str | Callable[..., Any], args: Any, kwargs: Any, convert: Callable[[Any], Any]) -> Any:
    """Call ``target``; where it is a module with tensors of another kind, with theirs converted."""
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **kwargs)
    if isinstance(target, nn.Module):
        own = [*target.named_parameters(), *target.named_buffers()]
        state = {name: convert(t) for name, t in own if isinstance(t, torch.Tensor)}
        if any(state[name] is not t for name, t in own if name in state):
            return torch.func.functional_call(target, state, args, kwargs)
    return target(*args, **kwargs)


@contextlib.contextmanager
def _no_fakes_in_caches() -> Iterator[None]:
    """Empty each ``lru_cache`` that was added to: fake tensors look like real ones, and a table of positions that the
    code of a module keeps would be found there by the next real call. torch's own hold no tensors.
    """
    before = {cached: cached.cache_info().misses for cached in _caches()}
    try:
        yield
    finally:
        for cached in _caches():
            if cached.cache_info().misses > before.get(cached, 0):
                cached.cache_clear()


def _caches() -> list[functools._lru_cache_wrapper[Any]]:
    found = [each for each in gc.get_objects() if type(each) is functools._lru_cache_wrapper]
    return [each for each in found if str(each.__module__).partition(".")[0] != "torch"]


def _chooses_the_layout(target: Any, args: Any, kwargs: Any) -> bool:
    """Whether a convolution is given what lies in memory in another order, the channels last say: what it gives lies as
    its kernel likes, which meta tensors do not tell.
    """
    if isinstance(target, _ConvNd):
        given = [*args, *kwargs.values(), target.weight]
    elif target in _CONVOLUTIONS:
        given = [*args, *kwargs.values()]
    else:
        return False
    return any(isinstance(t, torch.Tensor) and t.dim() > 3 and not lies_in_order(t) for t in given)


_CONVOLUTIONS = frozenset(
    (torch.convolution, *(getattr(torch, f"conv{kind}{dims}d") for kind in ("", "_transpose") for dims in (1, 2, 3)))
)


def _with_plain_fill(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments with a number in place of a tensor to fill with, whose value nobody knows and no shape needs."""
    place = _FILL.get(target)
    if place is None:
        return args, kwargs

    def number(fill: Any) -> Any:
        return torch.zeros((), dtype=fill.dtype).item() if isinstance(fill, torch.Tensor) else fill

    return (*args[:place], *map(number, args[place : place + 1]), *args[place + 1 :]), {
        name: number(value) if name == "fill_value" else value for name, value in kwargs.items()
    }


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same tensors: a module may keep what it computes."""
    return copy_module(module, copies(module, {id(tensor): tensor for tensor in tensors_of(module).values()}))


def _example(a: Any) -> Any:
    """A tensor with numbers: ones, and zeros where these may be places."""
    if not isinstance(a, torch.Tensor):
        return a
    return (torch.ones if a.is_floating_point() or a.is_complex() else torch.zeros)(a.shape, dtype=a.dtype)


def _ones(a: Any) -> Any:
    return torch.ones(a.shape, dtype=a.dtype) if isinstance(a, torch.Tensor) else a


# takes a view of meta tensors, where real ones may lie as they like
_WANTS_A_VIEW = frozenset((torch.channel_shuffle, torch.native_channel_shuffle))
# refuses to run without data: it checks that its windows overlap
_LOOKS_AT_DATA = frozenset((torch.istft, "istft"))
# where the value stands that is filled in
_FILL: Mapping[Any, int] = {"new_full": 2, torch.full: 1, torch.full_like: 1}


def _key(target: str | Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the result of a layer, a function or a method of torch depends on, or None where that cannot be told."""
    try:
        own = _settings(target) if isinstance(target, nn.Module) else _name(target, args)
        key = own and (own, *map(_signature, args), *((name, _signature(value)) for name, value in kwargs.items()))
        hash(key)
    except (TypeError, RuntimeError):  # something else among the arguments, a sparse tensor
        return None
    return key


def _is_known(layer: nn.Module) -> bool:
    """True for a layer of torch or torchvision, which keeps nothing of what it computes."""
    return type(layer).__module__.startswith(("torch.nn.modules.", "torchvision.ops."))


def _settings(layer: nn.Module) -> tuple[Any, ...] | None:
    """What the result of a layer of torch or torchvision depends on beside its arguments."""
    if not _is_known(layer):
        return None
    settings: list[Any] = []
    for name, value in vars(layer).items():
        kind = type(value)
        if kind is OrderedDict or kind is dict or kind is set:  # most of what a layer has: empty tables of hooks
            if not name.startswith("_") or ("hooks" in name and value):
                return None
        elif kind in _PLAIN:
            settings.append((name, value))
        elif kind is list:
            settings.append((name, tuple(value)))
        elif not name.startswith("_"):  # a function put in its place
            return None
    # no shape depends on the mode (it is among the buffers where one looks for who reads it), errors of norms do
    in_any_mode = not layer._modules and not isinstance(layer, _NormBase)
    state = [value for name, value in layer._buffers.items() if not (in_any_mode and name == "training")]
    for inner in layer._modules.values():
        if inner is not None:
            settings.append(_settings(inner))
            if settings[-1] is None:
                return None
    return (type(layer), *settings, *map(_signature, (*layer._parameters.values(), *state)))


def _name(target: str | Callable[..., Any], args: tuple[Any, ...]) -> str | Callable[..., Any] | None:
    """A function of torch, or a method of a tensor, that computes with a tensor and changes none."""
    if isinstance(target, str):
        return target if type(args[0]) in _TENSORS and not target.endswith("_") else None
    package = str(getattr(target, "__module__", "")).partition(".")[0]
    name = getattr(target, "__name__", "_")
    pure = package in _PACKAGES and not name.endswith("_") and name not in _IN_PLACE
    return target if pure and tensors(args) else None


def _signature(argument: Any) -> Any:
    """All that the shape of a result can depend on."""
    kind = type(argument)
    if kind in _TENSORS:
        return argument.shape, argument.stride(), argument.dtype
    if kind is tuple or kind is list or kind is immutable_list:
        return kind, *map(_signature, argument)
    if kind is slice:
        return kind, *map(_signature, (argument.start, argument.stop, argument.step))
    if kind in _PLAIN:
        return kind, argument
    raise TypeError(f"{kind.__name__} is not plain")


_TENSORS = frozenset((torch.Tensor, nn.Parameter))
_PLAIN = frozenset((bool, int, float, str, tuple, type(None), type(...), torch.dtype, torch.device, torch.Size))
_PACKAGES = frozenset(("torch", "torchvision", "_operator"))
_IN_PLACE = {name for name in vars(operator) if name[0] == "i" and {name[1:], name[1:] + "_"} & vars(operator).keys()}
_IN_PLACE.add("setitem")


def _on_meta(a: Any) -> Any:
    return _META if isinstance(a, torch.device) else to_meta(a)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put every random state back, whatever a forward pass draws, and keep the log lines of fake tensors quiet.

    CUDA is left alone where nobody has used it so far: it would take memory on the devices, and no process could be
    forked that uses it. torch logs each operator that fails on fake tensors; here the failure is an exception that says
    more.
    """
    python, numpy = random.getstate(), np.random.get_state()
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(gpus, device_type="cuda"):
            yield
    finally:
        log.disabled = disabled
        random.setstate(python)
        np.random.set_state(numpy)
