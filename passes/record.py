"""Records the graph of a model, and the value of every node the moment it is recorded.

The recorder works on a copy of the model whose parameters and buffers are meta tensors, so that nothing is computed
and the caller's module stays as it was. Python that asks for a concrete number (``if x.shape[1] > 3``,
``range(x.dim())``, unpacking) gets it; sizes that are only computed with stay symbolic in the graph.

A submodule that torch.fx cannot look into (a scripted function, a loop over data, a custom autograd function) is
recorded as one call, if its shapes can be found at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import operator
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torchvision.ops
from torch import fx, nn
from torch._dynamo import OptimizedModule
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import map_aggregate
from torch.nn.utils import parametrizations, parametrize

from conet_fx.errors import TraceError
from conet_fx.passes import custom, functions, numerals
from conet_fx.passes.closures import copy_module
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.lines import line_of, user_line
from conet_fx.passes.nodes import (
    attribute,
    copies,
    hooks_that_compute,
    is_parametrized,
    leaves,
    plain_subclass,
    source,
    tensors,
    tensors_of,
)
from conet_fx.passes.patches import (
    compiled_functions_looked_into,
    constants_that_take_proxies,
    einops_that_takes_proxies,
    flags_that_are_set,
    followed_autograd_functions,
    functional_that_does_not_dispatch,
    functions_that_take_proxies,
    isinstance_that_sees_values,
    parameters_that_are_proxies,
    variables_that_take_proxies,
)
from conet_fx.passes.proxies import AttributeProxy, Proxy, alike
from conet_fx.passes.randomness import drawn_in_python, put_back, random_numbers_drawn_anew, random_states, same
from conet_fx.passes.shapes import RESHAPE_IN_PLACE, Shapes, to_meta

# Functions that torch cannot dispatch, or would look into: each is one node of the graph when given a proxy.
_RECORDED = (
    *(math.sqrt, math.log, math.log2, math.log10, math.exp, math.pow),
    *(torchvision.ops.deform_conv2d, torchvision.ops.roi_align, torchvision.ops.roi_pool),
)
# Layers whose parametrized form is looked into: the graph then holds what computes the weight.
_PARAMETRIZED = (nn.modules.conv._ConvNd, nn.Linear)
_COMPOSITE = (  # modules of torch.nn that are made of others, and are looked into
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.modules.loss._Loss,
)  # fmt: skip


def shapes_of(model: nn.Module, call: Arguments, on: Collection[str] = ("meta", "fake")) -> Shapes:
    """What runs the nodes of the graphs of ``model``; several recordings may share it, since it remembers results."""
    devices = [t.device for t in (*tensors(call.values), *model.parameters()) if t.device.type != "meta"]
    return Shapes(devices[0] if devices else torch.device("cpu"), on)


class Recorder(fx.Tracer):
    """Records one graph of ``model``. ``reads_mode`` tells, afterwards, whether the code asked for ``self.training``;
    ``constants`` are tensors in the graph that are neither parameters nor buffers, by path; ``dropped`` tells what a
    graph cannot hold.

    ``is_leaf`` says of a function or a class of modules that it is to be recorded as one call; ``shapes``: what another
    recording of this model on this call has used.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        model: nn.Module,
        call: Arguments,
        is_leaf: Callable[[Any], bool],
        flip_mode: bool = False,
        look_into_wrapped: bool = True,
        shapes: Shapes | None = None,
    ) -> None:
        wrapped: Any = {"autowrap_modules": (), "autowrap_functions": _RECORDED}  # torch 2.14 asks for one module
        super().__init__(**wrapped)
        self._autowrap_search += [math, torchvision.ops]  # where they stand under their own names
        self.model = model
        self.call = call
        self.is_leaf = is_leaf
        self.flip_mode = flip_mode
        self.look_into_wrapped = look_into_wrapped
        self.shapes = shapes or shapes_of(model, call)
        self.running = False
        self.reads_mode = False
        self.opaque: list[str] = []
        self.wrapped: list[str] = []
        self.dropped: list[str] = []
        self.constants: dict[str, torch.Tensor] = {}
        self._switched: set[nn.Module] = set()
        # parameters and buffers by id: torch.fx goes through all of them for each that a forward reads
        self._names: dict[int, tuple[str, torch.Tensor]] = {}
        self._parameter_proxies: dict[str, fx.Proxy] = {}
        self._instead: dict[fx.Node, fx.Node] = {}
        self._detached: dict[fx.Node, fx.Node] = {}
        self._without_grad: set[fx.Node] = set()
        self._cuts = False

    def record(self) -> fx.Graph:
        """The graph; each node has its value in ``meta["val"]``. Raises :class:`TraceError`."""
        before = random_states()
        graph = self._record()
        after = random_states()
        if not (self.opaque or same(before, after)):  # drawn behind the names that are watched, or by another thread
            put_back(before)
            Recorder(self.model, self.call, self.is_leaf, self.flip_mode, self.look_into_wrapped, self.shapes)._record()
            if same(after, random_states()):  # no other thread draws as much once more
                raise drawn_in_python(f"the forward of {type(self.model).__name__}, or what it calls,")
        return graph

    def _record(self) -> fx.Graph:
        name = type(self.model).__name__
        root = self._copy_on_meta()
        try:
            with (
                torch.enable_grad(),
                functions_that_take_proxies(),
                variables_that_take_proxies(),
                constants_that_take_proxies(),
                flags_that_are_set(self._switch),
                compiled_functions_looked_into(),
                random_numbers_drawn_anew(self._draw, lambda: self.running),
                isinstance_that_sees_values(root),
                parameters_that_are_proxies(self._proxy_of),
                self._wrapped_functions(),
                followed_autograd_functions(),
                einops_that_takes_proxies(Proxy, AttributeProxy),
                custom.recording(),
                self._noting_autocast(),
            ):
                graph = self.trace(root)
        except TraceError:
            raise
        except Exception as error:
            advice = next((told for sign, told in _ADVICE.items() if sign in str(error)), "")
            raise TraceError(
                f"{name} cannot be traced: {type(error).__name__}: {error} ({line_of(error)}){advice}"
            ) from error
        for node in graph.nodes:
            node.meta.pop("is_wrapped", None)  # or the generated code would wrap the function for good
        output = graph.output_node()
        output.meta.update(val=self.shapes.of(output, root, self._operand), source="", scope="")
        used = {str(node.target) for node in graph.nodes if node.op == "get_attr"} - tensors_of(self.model).keys()
        self.constants = {path: self.constants.get(path, attribute(root, path)) for path in sorted(used)}
        for node in graph.nodes:
            if self.constants.get(str(node.target), _REAL).is_meta and not _on_meta(self.model):
                raise TraceError(
                    f"{source(node)} computes with parameters that it has from a private attribute, so that no graph "
                    "shows how: read them as module.weight, or from module.parameters()"
                )
            if node.op == "get_attr" and not node.users:  # Python alone has looked at it
                graph.erase_node(node)
        return graph

    # --- what fx calls --------------------------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Arguments of the example become placeholders. Those without a tensor are fixed at what the example gives: the
        forward is given the value itself, and the graph checks what it is called with.
        """
        self._names = {id(tensor): (name, tensor) for name, tensor in tensors_of(self.root).items()}
        proxies = self._placeholders()
        given = {
            name: self._unfolded(proxies[name]) if name in self.call.inputs else a
            for name, a in self.call.values.items()
        }

        def call(root: nn.Module) -> Any:
            positional = [given[name] for name in self.call.positional]
            returned = root_fn(root, *positional, **{name: given[name] for name in self.call.keywords})
            self._keep_state(root)
            return returned

        return call, [self.root]

    def _placeholders(self) -> dict[str, fx.Proxy]:
        """The arguments of the graph, and checks of those that are fixed."""
        names, fixed = self.call.declared, self.call.fixed
        defaults: dict[str, Any] = {}
        for name in names:
            if name in fixed:
                defaults[name] = fixed[name]
            elif defaults and name in self.call.defaults:  # what stands before it may be left out
                defaults[name] = None
            else:
                defaults.clear()
        proxies = {
            name: self.create_proxy("placeholder", name, (defaults[name],) if name in defaults else (), {})
            for name in names
        }
        for name, proxy in proxies.items():
            if name in fixed:
                text = f"{name} was {fixed[name]!r} when this graph was traced, and can be nothing else"
                self._check(operator.eq, proxy, fixed[name], text)
            elif name in defaults:
                self._check(operator.ne, proxy, None, f"{name} was a tensor when this graph was traced: give one")
        return proxies

    def _check(self, compare: Callable[..., Any], proxy: fx.Proxy, value: Any, text: str) -> None:
        """Record an assertion about an argument."""
        holds = self.create_proxy("call_function", compare, (proxy, value), {})
        self.create_proxy("call_function", torch._assert, (holds, text), {})

    def _keep_state(self, root: nn.Module) -> None:
        """Write what the forward has assigned to buffers (``self.mean = 0.9 * self.mean + ...``) into them, after all
        else; note numbers and plain tensors of modules that it has changed, which no graph holds.
        """
        tensors = dict(self._names.values())
        before = dict(self.model.named_modules())
        for path, module in root.named_modules():
            for name, value in module._buffers.items():
                where = f"{path}.{name}".lstrip(".")
                if not isinstance(value, fx.Proxy):
                    continue
                if where in tensors:
                    module._buffers[name] = tensors[where]
                    self._write(where, tensors[where], value)
                else:  # it was None, or is known by another name
                    self.dropped.append(f"{where}, which forward sets")
            theirs = vars(before.get(path, module))
            for name, value in vars(module).items():
                changed = type(value) in _COUNTS and theirs.get(name, value) != value
                if changed or (isinstance(value, fx.Proxy) and isinstance(theirs.get(name), torch.Tensor)):
                    self.dropped.append(f"{path}.{name}".lstrip(".") + ", which forward changes")

    def _write(self, path: str, buffer: torch.Tensor, value: fx.Proxy) -> None:
        """Record that a buffer takes on a value; what was read from it before stays as it was."""
        target = self._proxy_of(buffer)
        if not alike(target, value):
            if not _depends_on_data(value.node, {name for name, _ in self._names.values()}):
                self.dropped.append(f"{path}, which the graph makes anew in each call")
                return
            raise TraceError(
                f"{source(value.node)}: forward assigns a tensor of another shape or type to the buffer {path!r}, "
                "and in a graph a buffer keeps both"
            )
        if target.node.users:
            with self.graph.inserting_after(target.node):
                read = self.graph.call_method("clone", (target.node,))
            read.meta.update({key: target.node.meta[key] for key in ("val", "source", "stack_trace", "scope")})
            target.node.replace_all_uses_with(read, delete_user_cb=lambda user: user is not read)
        target.copy_(value.detach())

    def _switch(self, m: nn.Module) -> None:
        """The forward sets the training flag of ``m``, as it will each time, whatever mode the network is in."""
        if not self.running:
            self._switched.add(m)

    def _has_a_mode_of_its_own(self, m: nn.Module) -> bool:
        return m in self._switched and "training" in type(m).forward.__code__.co_names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._has_a_mode_of_its_own(m):
            return False  # its functions are given the flag
        if isinstance(m, _COMPOSITE):
            return self.is_leaf(type(m))
        if isinstance(m, (parametrize.ParametrizationList, parametrizations._WeightNorm)):
            return False
        if "forward" in vars(m):  # one of its own was put in the place of that of its class
            return False
        if isinstance(m, _PARAMETRIZED) and (is_parametrized(m) or hooks_that_compute(m)):
            return False
        parts = [m, *(part for part in m._modules.values() if part is not None)]  # those of an attention
        if any(isinstance(tensor, fx.Proxy) for part in parts for tensor in part._parameters.values()):
            return False  # torch.func.functional_call has put computed values in the place of its parameters
        behaves_like = plain_subclass(m)
        known = behaves_like is not type(m) or behaves_like in custom.CLASSES or self.is_leaf(type(m))
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        if type(m) is nn.Identity and len(args) == 1 and not isinstance(args[0], fx.Proxy):
            return args[0]  # a list, which no layer takes
        if isinstance(m, OptimizedModule):  # what torch.compile gives: the module itself is inside
            forward = m._orig_mod
        try:
            path = self.path_of_module(m)
        except NameError:  # made inside forward, as nn.ReLU()(x) is
            self._refuse_new_weights(m)
            return forward(*args, **kwargs)
        depth = len(self.module_stack)
        before = next(iter(reversed(self.graph.nodes)))
        dropped = len(self.dropped)
        try:
            return self._unfolded(super().call_module(m, forward, args, kwargs))
        except Exception as error:
            while len(self.module_stack) > depth:
                self.module_stack.popitem()
            if self.is_leaf_module(m, path) or isinstance(vars(m).get("forward"), types.FunctionType):
                raise  # a function of its own may call another module than the copy that the network would hold
            if self._has_a_mode_of_its_own(m):
                raise TraceError(
                    f"the forward switches the mode of {path} ({type(m).__name__}), which in a graph is that of the "
                    f"network: switch it where the network is made, or in train() ({user_line()[0]})"
                ) from error
            self._forget_nodes_after(before)
            del self.dropped[dropped:]  # the call keeps it
            try:
                proxy = self.create_proxy("call_module", path, args, kwargs)
            except Exception:
                raise error from None
            text = str(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {error}"
            proxy.node.meta["untraced"] = text
            self.opaque.append(path)
            return self._unfolded(proxy)

    def _unfolded(self, value: Any) -> Any:
        """A list or dict that code may write into, as one of Python's own with proxies in it."""
        held: Any = value.node.meta["val"] if isinstance(value, fx.Proxy) else None
        if isinstance(held, list):
            return [None if item is None else self._unfolded(value[i]) for i, item in enumerate(held)]
        if type(held) in (dict, immutable_dict):
            return {key: None if item is None else self._unfolded(value[key]) for key, item in held.items()}
        return value

    def _refuse_new_weights(self, m: nn.Module) -> None:
        """Raise for a module with parameters that are not among those of the model."""
        if any(id(parameter) not in self._names for parameter in m.parameters()):
            raise self._foreign(f"the weight of {type(m).__name__}")

    @staticmethod
    def _foreign(what: str) -> TraceError:
        return TraceError(
            f"{what} at {user_line()[0]} is not among the parameters of the model that is traced. Where no state_dict "
            "holds it, nothing trains it: make the layer in __init__, and keep it as an attribute or in nn.ModuleList "
            "or nn.ModuleDict, not in a plain list. Where it is the model's, a function has it from a global name: "
            "take it from self, since a copy is traced"
        )

    def _draw(self, function: Callable[..., Any], args: Any, options: Any) -> fx.Proxy:
        """Record a function that draws random numbers. Those that it draws for its shape are put back."""
        state = torch.get_rng_state()
        try:
            return self.create_proxy("call_function", function, args, options)
        finally:
            torch.set_rng_state(state)

    def looked_into(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a function returns that is made of others, each of which is recorded; None where that fails."""
        before = next(iter(reversed(self.graph.nodes)))
        try:
            with functional_that_does_not_dispatch():
                return function(*args, **kwargs)
        except Exception:  # as one call it may yet run
            self._forget_nodes_after(before)
            return None

    def apply_function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Record the call of a ``torch.autograd.Function`` behind the operators of its forward, which tell how it
        carries channels. Raises :class:`TraceError` where these cannot be recorded.
        """
        before = next(iter(reversed(self.graph.nodes)))
        try:
            if kwargs:
                raise TypeError("it has keyword arguments")
            returned = functions.run_forward(function, args)
            nodes = list(itertools.takewhile(lambda node: node is not before, reversed(self.graph.nodes)))
            for node in nodes:
                node.meta[functions.INSIDE] = True
                if node.op == "get_attr" or (_is_in_place(node.target) and node.args[0] not in nodes):
                    raise TypeError(f"{source(node)} is more than a function of its inputs")
            return self.create_proxy("call_function", functions.applied(function), args, {"follows": returned})
        except Exception as error:
            self._forget_nodes_after(before)
            raise TraceError(
                f"{function.__name__} is a torch.autograd.Function, whose backward no graph can hold, and its forward "
                f"cannot be followed ({type(error).__name__}: {error}): call it in a module of its own, and say how "
                f"that carries channels with conet_fx.register_module ({user_line()[0]})"
            ) from error

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self.running:
            return attr_val
        if attr == "training":
            self.reads_mode = True
            return attr_val
        found = self._proxy_of(attr_val)
        return super().getattr(attr, attr_val, parameter_proxy_cache) if found is attr_val else found

    def _proxy_of(self, tensor: Any) -> Any:
        """What stands for a parameter or buffer of the model in the graph; any other value as it is."""
        name, known = self._names.get(id(tensor), ("", None))
        if self.running or known is None or known is not tensor:
            return tensor
        if name not in self._parameter_proxies:
            self._parameter_proxies[name] = self.create_proxy("get_attr", name, (), {})
        return self._parameter_proxies[name]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):
            return self._as_operand(a.node)
        if type(a) in _NUMBERS:  # most of what comes; torch.fx returns it too, after many questions
            return a
        a = numerals.plain(a)
        if dataclasses.is_dataclass(a) and not isinstance(a, type):
            fields = {field.name: getattr(a, field.name) for field in dataclasses.fields(a)}
            return self.create_proxy("call_function", type(a), (), fields).node
        if isinstance(a, tuple) and hasattr(a, "_fields"):
            return self.create_proxy("call_function", type(a), tuple(a), {}).node if _has_proxies(a) else a
        if isinstance(a, nn.Parameter) and id(a) not in self._names:
            raise self._foreign("what a function takes")
        return super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Proxy:
        # what is written into without gradients must not come to have some (moving averages)
        self._cuts = not torch.is_grad_enabled() and (_is_in_place(target) or (kwargs or {}).get("out") is not None)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self._cuts = False
        node = proxy.node
        node.meta["source"], node.meta["stack_trace"] = user_line()
        node.meta["scope"] = self.scope.module_path
        try:
            node.meta["val"] = self._run(node)
        except BaseException:
            self.graph.erase_node(node)
            raise
        if kind not in ("placeholder", "get_attr") and not torch.is_grad_enabled():
            self._without_grad.add(node)
        elif target in (operator.getitem, getattr) and node.args[0] in self._without_grad:
            self._without_grad.add(node)  # an item of several results: a tensor is cut off where it comes in
        return proxy

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.number(obj, "a condition"))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(self.value(obj)))])  # type: ignore[index]  # proxies record indexing

    def keys(self, obj: fx.Proxy) -> Any:
        return self.value(obj).keys()

    # --- values ---------------------------------------------------------------------------------------------

    def value(self, proxy: fx.Proxy) -> Any:
        """The value of ``proxy``: meta tensors, numbers, nests of them."""
        return proxy.node.meta["val"]

    def number(self, proxy: fx.Proxy, use: str) -> Any:
        """The concrete value of ``proxy``, which Python needs for ``use``."""
        value = self.value(proxy)
        if isinstance(value, torch.Tensor):
            raise TraceError(
                f"{source(proxy.node)}: {use} depends on the data in a tensor, and a graph has one path for all data. "
                "Use torch.where, or put this part into a module of its own, which is one call. "
                f"Line: {user_line()[0]}"
            )
        return value

    def _run(self, node: fx.Node) -> Any:
        """The value of a node that was just recorded."""
        if node.op == "placeholder":
            return map_aggregate(self.call[str(node.target)], to_meta)
        if node.op == "call_method" and node.target in _OTHER_STORAGE:
            raise TraceError(
                f"{source(node)} gives a tensor another storage or size in place, which no graph shows to those who "
                "hold it: make a new tensor, or put this part into a module of its own, which is one call"
            )
        if node.op == "call_method" and node.target in RESHAPE_IN_PLACE:
            self._instead[node.args[0]] = node  # type: ignore[index]
        self.running = True
        try:
            return self.shapes.of(node, self.root, self._operand)
        except Exception as error:
            shapes = [tuple(t.shape) for t in tensors([n.meta.get("val") for n in node.all_input_nodes])]
            data = _needs_data(node, error)
            told = f"{type(error).__name__}: {str(error).removesuffix('.')}{_hint(node, error)}"
            kind = TraceError if data else _CAUGHT.get(type(error), TraceError)
            raise kind(f"{source(node)} failed on inputs of shape {shapes}: {told}") from error
        finally:
            self.running = False

    def _operand(self, node: fx.Node) -> Any:
        if "val" not in node.meta:  # a tensor that fx found in a plain attribute, where the model may put another one
            self.constants[str(node.target)] = attribute(self.root, str(node.target))
            where, stack = user_line()
            value = self.shapes.of(node, self.root, self._operand)
            node.meta.update(val=value, source=where, stack_trace=stack, scope=self.scope.module_path)
        return node.meta["val"]

    def _as_operand(self, node: fx.Node) -> fx.Node:
        """The node to use for ``node``: the result of a view in place; cut off if it was made without gradients."""
        while node in self._instead:
            node = self._instead[node]
        cut = self._cuts or (node in self._without_grad and torch.is_grad_enabled())
        if not (cut and isinstance(node.meta.get("val"), torch.Tensor)):
            return node
        if node not in self._detached:
            detached = self._detached[node] = self.create_node("call_method", "detach", (node,), {})
            detached.meta.update({key: node.meta[key] for key in ("val", "source", "stack_trace", "scope")})
        return self._detached[node]

    def _forget_nodes_after(self, last: fx.Node) -> None:
        """Take back what a module recorded before it failed."""
        while (node := next(iter(reversed(self.graph.nodes)))) is not last:
            self.graph.erase_node(node)
            for known in (self._instead, self._detached):
                for key in [k for k, v in known.items() if node in (k, v)]:
                    del known[key]
        for name in [n for n, p in self._parameter_proxies.items() if p.node._erased]:
            del self._parameter_proxies[name]

    def _copy_on_meta(self) -> nn.Module:
        """A copy of the model with meta tensors, whose training flags are seen when they are read."""
        root = self._plain_copy()
        flags = self._flags_of_the_other_mode() if self.flip_mode else {}
        if "forward" in vars(root):
            _into_class(root, vars(root).pop("forward"))
        for path, module in root.named_modules():
            if "training" in vars(module):
                # what is not in __dict__ is asked of __getattr__, which fx lets us see
                own = module.__dict__.pop("training")
                module._buffers["training"] = flags.get(path, not self.model.training) if self.flip_mode else own
        return root

    def _plain_copy(self) -> nn.Module:
        memo: dict[int, Any] = {}
        for name, tensor in tensors_of(self.model).items():
            if nn.parameter.is_lazy(tensor):
                raise TraceError(f"{name} is lazy and has no shape yet: run the model once on real data before")
            new = torch.empty_like(tensor, device="meta")
            memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        try:
            return copy_module(self.model, copies(self.model, memo))
        except Exception as error:
            raise TraceError(
                f"{type(self.model).__name__} cannot be copied ({type(error).__name__}: {error}), and conet-fx works "
                "on a copy so that your model stays as it is. Tensors computed from parameters and kept as attributes "
                "are the usual cause: detach them, or set them to None before"
            ) from error

    def _flags_of_the_other_mode(self) -> dict[str, bool]:
        """The training flags that a ``train`` of the model's own sets, which may keep parts of it in eval mode. What
        else it does (LoRA merges its weights) is left out, since no graph does it.
        """
        if all(type(module).train is nn.Module.train for module in self.model.modules()):
            return {}
        twin = self._plain_copy()
        try:
            twin.train(not self.model.training)
        except Exception as error:
            raise TraceError(
                f"a copy of {type(self.model).__name__} on the meta device cannot change its mode "
                f"({type(error).__name__}: {error})"
            ) from error
        return {path: module.training for path, module in twin.named_modules()}

    @contextlib.contextmanager
    def _noting_autocast(self) -> Iterator[None]:
        """Note where the model switches autocast, which no graph holds."""
        original = torch.autocast.__enter__

        def enter(context: torch.autocast) -> Any:
            if not self.running and (where := user_line()[0]):
                self.dropped.append(f"autocast at {where}")
            return original(context)  # type: ignore[no-untyped-call]

        torch.autocast.__enter__ = enter  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.autocast.__enter__ = original  # type: ignore[method-assign]

    @contextlib.contextmanager
    def _wrapped_functions(self) -> Iterator[None]:
        """Look into functions of ``torch.fx.wrap`` that the operator table does not know."""
        known = fx._symbolic_trace._wrapped_fns_to_patch
        saved = dict(known)
        for (key, name), space in saved.items():
            function = space.get(name)
            if self.look_into_wrapped and isinstance(function, types.FunctionType) and not self.is_leaf(function):
                self.wrapped.append(name)
                del known[key, name]
        try:
            yield
        finally:
            known.clear()
            known.update(saved)


def _on_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in tensors_of(model).values())


_REAL = torch.empty(0)
_NUMPY = ". numpy has no symbolic sizes: where it is given one of a tensor, give it int(x.shape[2])"
_TRANSFORM = ". What torch.func transforms is in no graph: put this part into a module of its own, which is one call"
_CONSTRUCTOR = ". A constructor of a tensor type cannot be given a size of the graph: call torch.empty(n) in its place"
_ONLY_INT = ". torch takes an int alone there: give it int(x.shape[2])"
_REPLACED = ". No optimiser has a parameter that the forward makes: compute with that of __init__, and assign none"
_ADVICE = {
    **{"ufunc": _NUMPY, "np.ndarray": _NUMPY, "vmap(": _TRANSFORM, "transform API": _TRANSFORM},
    "new() received an invalid combination": _CONSTRUCTOR,
    **{"PyList_Check": _ONLY_INT, "as parameter": _REPLACED},
}
_COUNTS = frozenset((int, float))
_NUMBERS = frozenset((int, float, bool, str, type(None)))


def _into_class(root: nn.Module, forward: Callable[..., Any]) -> None:
    """Give a module that has a ``forward`` of its own a class that has it: torch.fx looks it up there."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    own = type(root)
    bound = isinstance(forward, types.MethodType) and forward.__self__ is root
    members = {
        "forward": getattr(forward, "__func__", call) if bound else call,
        "__module__": own.__module__,
        "__doc__": own.__doc__,
    }
    root.__class__ = type(own.__name__, (own,), members)


# the error of an operator, for code that tries one and calls another ``except TypeError``
_CAUGHT: dict[type[Exception], type[TraceError]] = {
    kind: type("TraceError", (TraceError, kind), {}) for kind in (TypeError, ValueError, RuntimeError, IndexError)
}


def _needs_data(node: fx.Node, error: Exception) -> bool:
    """Whether an operator fails since a tensor has no numbers here."""
    return node.target in _NEED_DATA or isinstance(error, (DataDependentOutputException, DynamicOutputShapeException))


def _hint(node: fx.Node, error: Exception) -> str:
    """What to do about an operator that does not run without data."""
    if "more than 1 value per channel" in str(error):
        return ": pass an example of two samples"
    if node.target in _BACKWARD:
        return ". Gradients inside a forward are in no graph: put this part into a module of its own, which is one call"
    if _needs_data(node, error):
        return (
            ". This depends on the data in a tensor, and a graph is one for all data: keep numbers in tensors "
            "(y / y.amax()), masks in torch.where, or put this part into a module of its own, which is one call"
        )
    return ""


_BACKWARD = {"backward", torch.autograd.grad, torch.autograd.backward}
_OTHER_STORAGE = {"set_", "resize_", "resize_as_"}
_NEED_DATA = {"item", "tolist", "numpy"}


def _depends_on_data(node: fx.Node, state: Collection[str]) -> bool:
    """Whether a tensor is computed from numbers in inputs or in the ``state`` of the model, not from sizes alone."""
    ahead, seen = [node], {node}
    for step in ahead:
        if step.op == "placeholder" or (step.op == "get_attr" and step.target in state):
            return True
        if step.target in _MADE_LIKE:
            continue
        operands = step.all_input_nodes[:1] if step.target in _TURNED_LIKE else step.all_input_nodes
        new = [operand for operand in operands if operand not in seen and tensors(operand.meta["val"])]
        seen.update(new)
        ahead += new
    return False


_MADE_LIKE = {
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
}
_TURNED_LIKE = {"to", "type_as", "expand_as", "view_as"}


def _is_in_place(target: Any) -> bool:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return target is operator.setitem or (name.endswith("_") and not name.endswith("__"))


def _has_proxies(nest: Any) -> bool:
    return any(isinstance(leaf, fx.Proxy) for leaf in leaves(nest))
