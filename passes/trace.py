"""nn.Module + example inputs -> fx.GraphModule with the shape of every value on its node.

The trace runs on a copy of the model whose parameters and buffers are fake tensors, so that nothing is computed and
the caller's module, its mode and the random state stay as they were. Each operator is executed on fake tensors the
moment it is recorded; Python that asks for a concrete number (``if x.shape[1] > 3``, ``range(x.dim())``, unpacking)
therefore gets its answer, and sizes that are only computed with stay symbolic in the graph.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import logging
import math
import operator
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import numpy as np
import torch
import torchvision.ops
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.node import map_aggregate
from torch.fx.proxy import Attribute
from torch.nn.utils import parametrize

from conet_fx.errors import TraceError

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]

# Functions that torch cannot dispatch, or would look into: each is one node of the graph when given a proxy.
_RECORDED = (
    *(math.sqrt, math.log, math.log2, math.log10, math.exp, math.pow),
    *(torchvision.ops.deform_conv2d, torchvision.ops.roi_align, torchvision.ops.roi_pool),
)
# Modules of these files are one operator each.
_LEAVES = ("torch.nn.modules.", "torchvision.ops.deform_conv")
# Layers whose parametrized form is looked into: the graph then holds what computes the weight.
_PARAMETRIZED = (nn.modules.conv._ConvNd, nn.Linear)

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_HERE = __file__


@dataclasses.dataclass(frozen=True)
class Trace:
    """A traced model.

    ``graph_module`` shares parameters and submodules with the caller's model. Every node has ``meta["val"]``: a meta
    tensor (or a nest of them, or a plain Python value), and ``meta["source"]``: "file:line" of the user's code.
    ``mode_dependent`` is True when train and eval mode take different paths; the graph is then the one of the mode
    that the model was in.
    """

    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    mode_dependent: bool


def trace(model: nn.Module, example_inputs: Inputs) -> Trace:
    """Trace ``model`` on ``example_inputs`` (a tensor, a tuple of positional or a mapping of keyword inputs).

    Arguments of ``forward`` that the example leaves out keep their defaults and are not inputs of the graph.
    Raises ``TypeError`` for a model that is not an ``nn.Module`` or inputs without a tensor, :class:`TraceError` where
    the control flow depends on tensor data or an operator fails, with the line of the user's code.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    call = _Call.bind(model, example_inputs)
    with undisturbed():
        own = _ShapeTracer(model, call, flip_mode=False)
        graph = own.record()
        twin = _ShapeTracer(model, call, flip_mode=True).record_or_none()
    joined = twin is not None and _join_modes(graph, twin, model.training)
    parts = {
        node.target: own.constants.get(node.target) if node.target in own.constants else attribute(model, node.target)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    for path in parts:
        if hasattr(fx.GraphModule, str(path).partition(".")[0]):
            raise TraceError(f"{path!r} cannot be in a torch.fx.GraphModule, which has such an attribute: rename it")
    graph_module = graph_module_of(parts, graph, like=model)
    return Trace(graph_module, tuple(call.inputs), mode_dependent=not joined)


def graph_module_of(parts: Mapping[str, Any], graph: fx.Graph, like: nn.Module) -> fx.GraphModule:
    """A GraphModule of ``graph`` with ``parts`` at their paths; modes and buffer persistence as in ``like``."""
    graph_module = fx.GraphModule(dict(parts), graph, class_name=type(like).__name__)
    modules = dict(like.named_modules())
    for path, module in graph_module.named_modules():
        twin = modules.get(path)
        if twin is not None:
            module.training = twin.training
            persistent = twin._buffers.keys() - twin._non_persistent_buffers_set
            # plain tensors become buffers here, but are in no state_dict
            module._non_persistent_buffers_set |= module._buffers.keys() - persistent
    return graph_module


def source(node: fx.Node) -> str:
    """Where a node comes from, for messages: ``conv2d at net.py:12 (in block.conv)``."""
    where = node.meta.get("source", "")
    scope = node.meta.get("scope", "")
    if node.op == "call_module":
        text = str(node.target)
    elif node.op in ("placeholder", "get_attr", "output"):
        text = f"{node.op.replace('placeholder', 'input')} {node.target}"
    else:
        text = getattr(node.target, "__name__", str(node.target))
    return text + (f" at {where}" if where else "") + (f" (in {scope})" if scope and node.op != "call_module" else "")


class _Proxy(fx.Proxy):
    """A proxy that knows its value, so that Python which needs a number gets one."""

    tracer: _ShapeTracer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol that torch asks any object for
            raise AttributeError(name)
        return _AttributeProxy(self, name)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._read("round()"), digits)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        return len(self.tracer.value(self, "len()"))

    def __int__(self) -> int:
        return int(self._read("int()"))

    def __index__(self) -> int:
        return int(self.tracer.number(self, "an index"))

    def __float__(self) -> float:
        return float(self._read("float()"))

    def _read(self, use: str) -> Any:
        """The number that this proxy stands for; what the model computes with it will not follow another size."""
        number = self.tracer.number(self, use)
        self.node.meta.setdefault("read_as_number", []).append(f"{use} at {_user_line()}")
        return number


class _AttributeProxy(_Proxy, Attribute):
    """``x.shape``, ``x.mT``, ``x.size``: an attribute, or a method about to be called."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        Attribute.__init__(self, root, attr)


class _ShapeTracer(fx.Tracer):
    """Records a graph and runs each operator on fake tensors as it is recorded."""

    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, call: _Call, flip_mode: bool) -> None:
        super().__init__(autowrap_modules=(), autowrap_functions=_RECORDED)  # type: ignore[arg-type]
        self._autowrap_search += [math, torchvision.ops]  # where they stand under their own names
        self.model = model
        self.call = call
        self.flip_mode = flip_mode
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.running = False
        self.constants: dict[str, torch.Tensor] = {}

    def record(self) -> fx.Graph:
        """The graph, each node with its value. Raises :class:`TraceError`."""
        name = type(self.model).__name__
        try:
            root = copy.deepcopy(self.model, self._fakes())
        except Exception as error:
            raise TraceError(
                f"{name} cannot be copied ({type(error).__name__}: {error}), and conet-fx works on a copy so that your "
                "model stays as it is. Tensors computed from parameters and kept as attributes are the usual cause: "
                "replace old-style weight_norm or spectral_norm by torch.nn.utils.parametrizations"
            ) from error
        if self.flip_mode:
            for module in root.modules():
                module.training = not module.training
        try:
            with _factories_that_take_proxies(), _isinstance_that_sees_values(root):
                graph = self.trace(root)
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(f"{name} cannot be traced: {type(error).__name__}: {error} ({_line_of(error)})") from error
        for node in graph.nodes:
            node.meta["val"] = map_aggregate(node.meta.get("val"), _to_meta)
        own = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
        self.constants = {
            str(node.target): attribute(root, str(node.target))
            for node in graph.nodes
            if node.op == "get_attr" and node.target not in own
        }
        return graph

    def record_or_none(self) -> fx.Graph | None:
        """The graph, or None where the model does not run in this mode."""
        try:
            return self.record()
        except TraceError:
            return None

    # --- what fx calls --------------------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Only tensors of the example become placeholders; other arguments are fixed at what the example gives."""
        given = {
            name: self.create_proxy("placeholder", name, (), {}) if name in self.call.inputs else value
            for name, value in self.call.values.items()
        }

        def call(root: nn.Module) -> Any:
            positional = [given[name] for name in self.call.positional]
            return root_fn(root, *positional, **{name: given[name] for name in self.call.keywords})

        return call, [self.root]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (parametrize.ParametrizationList, torch.nn.utils.parametrizations._WeightNorm)):
            return False
        if parametrize.is_parametrized(m) and isinstance(m, _PARAMETRIZED):
            return False
        return (
            super().is_leaf_module(m, module_qualified_name)
            or type(m) is torchvision.ops.DeformConv2d
            or plain_subclass(m) is not type(m)
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        node = proxy.node
        node.meta["source"] = _user_line()
        node.meta["scope"] = self.scope.module_path
        node.meta["val"] = self._run(node)
        return proxy

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.number(obj, "a condition"))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.value(obj, "iteration")
        return iter([obj[i] for i in range(len(value))])  # type: ignore[index]  # proxies record the indexing

    def keys(self, obj: fx.Proxy) -> Any:
        return self.value(obj, "keys()").keys()

    # --- values ---------------------------------------------------------------------------------------------

    def value(self, proxy: fx.Proxy, use: str) -> Any:
        """The fake value of ``proxy``."""
        return proxy.node.meta["val"]

    def number(self, proxy: fx.Proxy, use: str) -> Any:
        """The concrete value of ``proxy``, which Python needs for ``use``."""
        value = self.value(proxy, use)
        if isinstance(value, torch.Tensor):
            raise TraceError(
                f"{source(proxy.node)}: {use} depends on the data in a tensor, and a graph has one path for all data. "
                "Use torch.where, or put the branch in a module that conet-fx need not look into. "
                f"Line: {_user_line()}"
            )
        return value

    def _fakes(self) -> dict[int, Any]:
        """The memo for deepcopy that swaps each parameter and buffer for a fake one."""
        memo: dict[int, Any] = {}
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if nn.parameter.is_lazy(tensor):
                raise TraceError(f"{name} is lazy and has no shape yet: run the model once on real data before")
            memo[id(tensor)] = self.fake.from_tensor(tensor, static_shapes=True)
        return memo

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return map_aggregate(self.call.values[str(node.target)], self._to_fake)
        args, kwargs = map_aggregate((node.args, node.kwargs), self._operand)
        self.running = True
        try:
            with self.fake, torch.no_grad():
                if node.op == "call_module":
                    return self.root.get_submodule(str(node.target))(*args, **kwargs)
                if node.op == "get_attr":
                    return self._to_fake(attribute(self.root, str(node.target)))
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                assert callable(node.target)
                return node.target(*args, **kwargs)
        except Exception as error:
            shapes = [tuple(a.shape) for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            raise TraceError(
                f"{source(node)} failed on inputs of shape {shapes}: {type(error).__name__}: {error}"
            ) from error
        finally:
            self.running = False

    def _operand(self, a: Any) -> Any:
        if not isinstance(a, fx.Node):
            return self._to_fake(a)
        if "val" not in a.meta:  # a tensor that fx found in a plain attribute
            a.meta.update(val=self._run(a), source=_user_line(), scope=self.scope.module_path)
        return a.meta["val"]

    def _to_fake(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not isinstance(a, FakeTensor):
            return self.fake.from_tensor(a, static_shapes=True)
        return a


@contextlib.contextmanager
def _factories_that_take_proxies() -> Iterator[None]:
    """Let functions that torch cannot dispatch take sizes of the graph.

    ``torch.zeros(x.size(0), 3)`` is recorded as ``torch.zeros((x.size(0), 3))``, ``torch.arange(x.size(1))`` as it is.
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

    wrappers = dict.fromkeys(("zeros", "ones", "empty", "rand", "randn"), taking_proxies)
    wrappers |= dict.fromkeys(("tensor", "full", "arange", "linspace", "eye"), recorded)
    originals = {name: getattr(torch, name) for name in wrappers}
    try:
        for name, factory in originals.items():
            setattr(torch, name, wrappers[name](factory))
        yield
    finally:
        for name, factory in originals.items():
            setattr(torch, name, factory)


@contextlib.contextmanager
def _isinstance_that_sees_values(model: nn.Module) -> Iterator[None]:
    """Let ``isinstance(x, torch.Tensor)`` in the files of the model's classes look at what a proxy stands for."""

    def sees_values(obj: Any, kind: Any) -> bool:
        return isinstance(obj.node.meta["val"] if isinstance(obj, _Proxy) else obj, kind)

    functions = (getattr(type(module).forward, "__globals__", {}) for module in model.modules())
    spaces = {
        id(space): space
        for space in functions
        if not space.get("__name__", "torch.").startswith("torch.") and "isinstance" not in space
    }
    try:
        for space in spaces.values():
            space["isinstance"] = sees_values
        yield
    finally:
        for space in spaces.values():
            del space["isinstance"]


def plain_subclass(module: nn.Module) -> type[nn.Module]:
    """The class of torch.nn whose behaviour ``module`` has: its own, or that of the base which it only initialises
    in another way (a subclass of nn.Conv2d with another ``__init__`` or ``reset_parameters`` is still a convolution).
    """
    own = type(module)
    if parametrize.is_parametrized(module) or isinstance(module, nn.Sequential):
        return own
    for base in own.__mro__:
        if base.__module__.startswith(_LEAVES) and base is not nn.Module:
            return base
        if set(vars(base)) & _BEHAVIOUR or "forward" in vars(base):
            return own
    return own


_BEHAVIOUR = {"__call__", "_conv_forward", "_check_input_dim", "__getattr__", "_get_name", "_output_padding"}


@dataclasses.dataclass(frozen=True)
class _Call:
    """Example inputs by name, and how ``forward`` takes them."""

    values: Mapping[str, Any]
    positional: tuple[str, ...]
    keywords: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name, value in self.values.items() if _tensors(value))

    @classmethod
    def bind(cls, model: nn.Module, example: Inputs) -> _Call:
        signature = inspect.signature(model.forward)
        args: tuple[Any, ...] = ()
        kwargs: Mapping[str, Any] = {}
        if isinstance(example, Mapping):
            kwargs = example
        elif isinstance(example, (tuple, list)):
            args = tuple(example)
        elif isinstance(example, torch.Tensor):
            args = (example,)
        else:
            raise TypeError(
                f"example_inputs must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
                f"not {type(example).__name__}"
            )
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"example_inputs do not fit {type(model).__name__}.forward{signature}: {error}") from None
        names: list[str] = []
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                names += [f"{name}_{i}" for i in range(len(bound.args) - len(names))]
            elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                names.append(name)
        positional = tuple(names[: len(bound.args)])
        values = {**dict(zip(positional, bound.args, strict=True)), **bound.kwargs}
        tensors = _tensors(values)
        if not tensors:
            raise TypeError("example_inputs hold no tensor: pass one batch of the shape and type of real inputs")
        if any(tensor.numel() == 0 for tensor in tensors):
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise ValueError(f"example_inputs are empty (shapes {shapes}): pass at least one sample")
        return cls(values, positional, tuple(bound.kwargs))


class _Differs(Exception):
    """Train and eval mode differ in more than the training flag."""


_FLAG = object()


def _join_modes(graph: fx.Graph, twin: fx.Graph, training: bool) -> bool:
    """Let ``graph`` read ``GraphModule.training`` where the two modes differ in that flag only.

    ``F.dropout(x, training=self.training)`` leaves a constant in each graph; it is replaced by the module's own flag.
    Returns False, and changes nothing, where the modes differ in more than that.
    """
    twins: dict[fx.Node, fx.Node] = {}
    flagged: list[tuple[fx.Node, Any]] = []

    def join(ours: Any, theirs: Any) -> Any:
        if isinstance(ours, fx.Node):
            if twins.get(ours) is not theirs:
                raise _Differs
            return ours
        if type(ours) is not type(theirs):
            raise _Differs
        if isinstance(ours, (tuple, list)):
            if len(ours) != len(theirs):
                raise _Differs
            items = [join(a, b) for a, b in zip(ours, theirs, strict=True)]
            return type(ours)(items) if type(ours) in (tuple, list) else ours
        if isinstance(ours, dict):
            if ours.keys() != theirs.keys():
                raise _Differs
            return {key: join(value, theirs[key]) for key, value in ours.items()}
        if isinstance(ours, bool) and ours != theirs:
            if ours != training:
                raise _Differs
            return _FLAG
        if isinstance(ours, slice):
            return slice(*join((ours.start, ours.stop, ours.step), (theirs.start, theirs.stop, theirs.step)))
        if ours != theirs:
            raise _Differs
        return ours

    if len(graph.nodes) != len(twin.nodes):
        return False
    for ours, theirs in zip(graph.nodes, twin.nodes, strict=True):
        if (ours.op, ours.target) != (theirs.op, theirs.target):
            return False
        twins[ours] = theirs
        try:
            joined = join((ours.args, dict(ours.kwargs)), (theirs.args, dict(theirs.kwargs)))
        except _Differs:
            return False
        if any(a is _FLAG for a in leaves(joined)):
            flagged.append((ours, joined))
    if flagged:
        with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
            flag = graph.create_node("get_attr", "training")
        flag.meta.update(val=training, source="", scope="")
        for node, joined in flagged:
            node.args, node.kwargs = map_aggregate(joined, lambda a: flag if a is _FLAG else a)
    return True


def leaves(nest: Any) -> Iterator[Any]:
    """Everything in a nest of tuples, lists, dicts and slices."""
    if isinstance(nest, (tuple, list)):
        for item in nest:
            yield from leaves(item)
    elif isinstance(nest, Mapping):
        for item in nest.values():
            yield from leaves(item)
    elif isinstance(nest, slice):
        yield from (nest.start, nest.stop, nest.step)
    else:
        yield nest


def _tensors(nest: Any) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(nest) if isinstance(leaf, torch.Tensor)]


def attribute(root: nn.Module, path: str) -> Any:
    """The module, parameter, buffer or flag at a dotted path, or None where there is none (a conv without bias)."""
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _to_meta(a: Any) -> Any:
    return torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(a, torch.Tensor) else a


def _user_line() -> str:
    """ "file:line" of the innermost frame of the user's code (or of torchvision's models) on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not (file.startswith((_TORCH, "<")) or file == _HERE or os.path.basename(file) == "contextlib.py"):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _line_of(error: BaseException) -> str:
    """ "file:line" of the innermost frame of the user's code in a traceback."""
    where = ""
    trace_back = error.__traceback__
    while trace_back is not None:
        file = trace_back.tb_frame.f_code.co_filename
        if not (file.startswith((_TORCH, "<")) or file == _HERE):
            where = f"{file}:{trace_back.tb_lineno}"
        trace_back = trace_back.tb_next
    return where


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put every random state back, whatever a forward pass on fake tensors draws, and keep its log lines quiet.

    torch logs each operator that fails on fake tensors; here the failure is an exception that says more.
    """
    python, numpy = random.getstate(), np.random.get_state()
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        with torch.random.fork_rng():
            yield
    finally:
        log.disabled = disabled
        random.setstate(python)
        np.random.set_state(numpy)
