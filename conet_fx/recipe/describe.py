"""nn.Module -> Recipe, with its graph where it is a GraphModule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize

from conet_fx.errors import RecipeError
from conet_fx.passes.functions import Applied
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.names import SpelledOut
from conet_fx.passes.nodes import plain_subclass, without_classes
from conet_fx.passes.paths import ONLY_IN
from conet_fx.recipe.build import construct, constructor, named_tensors, plain_attributes, signature
from conet_fx.recipe.files import graph_hash
from conet_fx.recipe.names import classes, functions, name_in, qualified_name
from conet_fx.recipe.spec import GroupSpec, ModuleSpec, NodeSpec, Recipe, TensorSpec
from conet_fx.recipe.values import encode, encode_annotation, encode_call


class CodeError(RecipeError):
    """A graph calls code of the user's, which is no data."""


def describe(
    module: nn.Module,
    groups: Mapping[str, GroupSpec],
    model_id: Mapping[str, str],
    call: Arguments | None = None,
    with_graph: bool = True,
) -> Recipe:
    """The recipe of ``module``, which was traced on ``call``, with copies of its tensors; with its graph where it is a
    GraphModule, unless that is not wanted.

    Raises:
        CodeError: its graph calls code that no recipe can hold.
        RecipeError: something else in it cannot be written as data.
    """
    graph = module.graph if isinstance(module, GraphModule) and with_graph else Graph()
    if type(graph._codegen) not in (CodeGen, SpelledOut):
        raise CodeError(
            f"the graph's signature is made by {type(graph._codegen).__name__}, which a recipe cannot "
            "keep; trace the model without concrete_args"
        )
    modules = _describe_modules(module, {node.target for node in graph.nodes if node.op == "call_module"})
    known = functions()
    nodes = tuple(_describe_node(node, known) for node in graph.nodes)
    tensors, weights = _describe_tensors(module)
    identity = {**model_id, "graph": graph_hash(nodes)}
    known_call = encode_call(call.args, call.kwargs) if call else None
    return Recipe(torch.__version__, identity, {**groups}, modules, tensors, nodes, weights, known_call)


def _describe_modules(root: nn.Module, called: Collection[object]) -> dict[str, ModuleSpec]:
    modules: dict[str, ModuleSpec] = {}
    first_paths: dict[nn.Module, str] = {}
    within_leaves: tuple[str, ...] = ()
    for path, module in root.named_modules(remove_duplicate=False):
        if path.startswith(within_leaves):
            continue
        if cls := name_in(classes(), plain_subclass(module)):
            within_leaves += (f"{path}.",)
            first = first_paths.setdefault(module, path)
            if first == path:
                modules[path] = ModuleSpec(module.training, cls, arguments_of(path, module))
            else:
                modules[path] = ModuleSpec(module.training, same_as=first)
        elif path in called:
            hint = "trace through it, so that the graph holds its parts"
            if parametrize.is_parametrized(module) or ".parametrizations." in path:
                hint = "remove the parametrizations (torch.nn.utils.parametrize) before the model is analyzed"
            raise CodeError(
                f"module {path!r} is a {qualified_name(type(module))}, which is not among the classes that a "
                f"recipe may name; {hint}"
            )
        else:
            modules[path] = ModuleSpec(module.training)
    return modules


def _describe_tensors(root: nn.Module) -> tuple[dict[str, TensorSpec], dict[str, Tensor]]:
    tensors: dict[str, TensorSpec] = {}
    weights: dict[str, Tensor] = {}
    first_names: dict[int, str] = {}
    for name, tensor in named_tensors(root):
        if tensor.is_meta or tensor.layout is not torch.strided or is_lazy(tensor):
            raise RecipeError(f"tensor {name!r} ({type(tensor).__name__} on {tensor.device}) has no plain data to save")
        path, _, key = name.rpartition(".")
        persistent = key not in root.get_submodule(path)._non_persistent_buffers_set
        first = first_names.setdefault(id(tensor), name)
        same_as = None if first == name else first
        tensors[name] = TensorSpec(isinstance(tensor, nn.Parameter), tensor.requires_grad, persistent, same_as)
        if same_as is None:  # a copy of its own, since safetensors refuses tensors that share memory
            weights[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return tensors, weights


def _describe_node(node: Node, known: Mapping[str, Callable[..., Any]]) -> NodeSpec:
    target, args, kwargs = without_classes(node.target, node.args, node.kwargs)
    if callable(target):
        if isinstance(target, Applied):
            raise CodeError(
                f"node {node.name!r} calls {qualified_name(target)}, a torch.autograd.Function, which no recipe holds"
            )
        name = name_in(known, target)
        if name is None:
            raise CodeError(
                f"node {node.name!r} calls {qualified_name(target)}, which is not among the functions that a "
                "recipe may name; if it is made of functions of torch, trace through it"
            )
        target = name
    try:
        args, kwargs = encode(args), {name: encode(value) for name, value in kwargs.items()}
    except TypeError as error:
        raise CodeError(f"node {node.name!r} ({node.op} {target}): {error}") from error
    calls = node.op in ("call_function", "call_method")
    scope = str(node.meta.get("scope", "")) if calls else ""
    annotation, wrapped = encode_annotation(node.type), "is_wrapped" in node.meta
    return NodeSpec(node.op, node.name, target, args, kwargs, annotation, wrapped, scope, node.meta.get(ONLY_IN, ""))


def arguments_of(path: str, module: nn.Module) -> dict[str, Any]:
    """The constructor arguments of ``module`` as JSON data, read from its attributes of the same names."""
    cls = plain_subclass(module)
    arguments: dict[str, Any] = {}
    for name, default in constructor(cls).items():
        value: Any = getattr(module, _ATTRIBUTES.get((cls, name), name), default)
        if isinstance(module, parametrizations._SpectralNorm) and name == "weight_shape":
            value = _normed_shape(module)
        if name in _FLAGS and not isinstance(value, bool):  # it shows in the presence of a tensor
            value = value is not None
        try:
            arguments[name] = encode(value)
        except TypeError as error:
            raise RecipeError(f"module {path!r} ({qualified_name(cls)}), argument {name!r}: {error}") from error
    tensors = sum(1 for _ in named_tensors(module))
    rebuilt = construct(path, ModuleSpec(module.training, qualified_name(cls), arguments), tensors)
    here, there = _all_attributes(module), _all_attributes(rebuilt)
    unused = _OF_OTHER_PADDING if getattr(module, "padding_mode", "") == "zeros" else ""
    changed = [name for name, value in there.items() if name != unused and (name not in here or here[name] != value)]
    changed += ["forward"] * ("forward" in here) + ["tensors"] * (signature(module) != signature(rebuilt))
    if changed:
        raise RecipeError(
            f"module {path!r} ({qualified_name(cls)}) is not what its constructor makes of its attributes "
            f"(different: {', '.join(changed)}), so that a recipe cannot rebuild it"
        )
    return arguments


def _normed_shape(module: parametrizations._SpectralNorm) -> tuple[int, ...]:
    """The shape of a weight with as many rows and columns as that of a spectral norm, its rows along the same dim."""
    if "_u" not in module._buffers:  # of one dim, it keeps no vectors
        return (1,)
    shape = [1] * max(2, module.dim + 1)
    shape[module.dim], shape[0 if module.dim else 1] = len(module._u), len(module._v)
    return tuple(shape)


def _all_attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a leaf and of what it is made of (the ``out_proj`` of an attention)."""
    return {
        f"{path}.{name}" if path else name: value
        for path, part in module.named_modules()
        for name, value in plain_attributes(part).items()
    }


# what a convolution computes from ``padding`` when it is made; segmentation models set the padding later
_OF_OTHER_PADDING = "_reversed_padding_repeated_twice"
_FLAGS = frozenset(("bias", "add_bias_kv", "packed"))
_ATTRIBUTES: dict[tuple[type, str], str] = {  # where they are not called as the argument
    (nn.MultiheadAttention, "bias"): "in_proj_bias",
    (nn.MultiheadAttention, "add_bias_kv"): "bias_k",
    (nn.MultiheadAttention, "packed"): "in_proj_weight",
    (nn.PairwiseDistance, "p"): "norm",
}
