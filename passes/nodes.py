"""Small things that all passes know: where a node comes from, nests of values, dotted paths, plain layers."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from conet_fx.passes import custom


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


def without_classes(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, list[Any], dict[str, Any]]:
    """A call, as another process can make it that knows none of the user's classes: a named tuple is a tuple, a data
    class the dict of its fields.
    """
    if isinstance(target, type) and issubclass(target, tuple) and target is not tuple:
        return tuple, [[*args]], dict(kwargs)
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        return target, [*args], dict(kwargs)
    given = {field.name: value for field, value in zip(dataclasses.fields(target), args, strict=False)} | dict(kwargs)
    if issubclass(target, Mapping):  # transformers.ModelOutput has no items for fields without a value
        given = {name: value for name, value in given.items() if value is not None}
    return dict, [], given


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


def tensors(nest: Any) -> list[torch.Tensor]:
    """The tensors in a nest."""
    return [leaf for leaf in leaves(nest) if isinstance(leaf, torch.Tensor)]


def attribute(root: nn.Module, path: str) -> Any:
    """The module, parameter, buffer or flag at a dotted path, or None where there is none (a conv without bias)."""
    value: Any = root
    for name in path.split("."):
        within = value._modules if isinstance(value, nn.Module) else {}
        value = within[name] if name in within else getattr(value, name, None)
    return value


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path that a graph has called: ``get_submodule`` without its checks, which take time."""
    for name in path.split("."):
        root = root._modules[name]  # type: ignore[assignment]
    return root


def tensors_of(root: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters by path, and after them all buffers, each tensor once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    modules = list(root.named_modules())
    for table in ("_parameters", "_buffers"):
        for path, module in modules:
            for name, tensor in getattr(module, table).items():
                if isinstance(tensor, torch.Tensor):
                    found.setdefault(id(tensor), (f"{path}.{name}" if path else name, tensor))
    return dict(found.values())


def copies(model: nn.Module, tensors: Mapping[int, Any]) -> dict[int, Any]:
    """A memo for deepcopy of what ``model`` is made of, which is faster than what deepcopy does: ``tensors`` (the
    parameters and buffers by the id of the old ones), the modules that hold nothing but tensors, modules and plain
    values, and empty tables of hooks.
    """
    memo = {**computed_by_hooks(model), **tensors}
    ordinary: dict[type, bool] = {}
    containers = []
    for module in model.modules():
        kind = type(module)
        if kind not in ordinary:
            ordinary[kind] = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _COPYING)
        if ordinary[kind]:
            twin = object.__new__(kind)
            if _copy_attributes(vars(module), vars(twin), memo):
                memo[id(module)] = twin
                if module._modules:
                    containers.append((module, twin))
                continue
        tables = (value for value in vars(module).values() if type(value) is OrderedDict and not value)
        memo.update({id(table): OrderedDict() for table in tables})
    for module, twin in containers:
        twin._modules = {name: copy.deepcopy(part, memo) for name, part in module._modules.items()}
    return memo


def _copy_attributes(old: Mapping[str, Any], new: dict[str, Any], memo: dict[int, Any]) -> bool:
    """Fill ``new`` with copies of the attributes of a module, its parts left out; False where one of them is not plain.
    Lists and dicts come into ``memo``, since modules may share them.
    """
    new.update(old)
    for name, value in old.items():
        kind = type(value)
        if kind in _PLAIN:
            continue
        if name in _HOOKS and not value:
            new[name] = OrderedDict()
        elif name in ("_parameters", "_buffers"):
            if not all(tensor is None or id(tensor) in memo for tensor in value.values()):
                return False
            new[name] = {key: None if tensor is None else memo[id(tensor)] for key, tensor in value.items()}
        elif name == "_modules":
            new[name] = {}
        elif (kind in (dict, OrderedDict) and not value) or (
            kind in (tuple, list, set) and all(type(item) in _PLAIN for item in value)
        ):
            new[name] = memo.setdefault(id(value), kind(value))
        else:
            return False
    return True


_HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict)
# what deepcopy takes as it is
_PLAIN = frozenset(
    (int, float, bool, str, type(None), type, torch.dtype, types.FunctionType, types.BuiltinFunctionType)
)
# by which a class says how it is copied
_COPYING = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")


def is_parametrized(module: nn.Module) -> bool:
    """As torch's, which takes time where it is not."""
    return "parametrizations" in module._modules and parametrize.is_parametrized(module)


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of a layer as its parameters are now: a parametrized one is computed where it is read, one that a hook
    computes here. The buffers of a spectral norm, which train mode would renew, stay as they are.
    """
    for hook in layer._forward_pre_hooks.values():
        match hook:
            case WeightNorm(name="weight"):
                return cast(torch.Tensor, hook.compute_weight(layer))
            case SpectralNorm(name="weight"):
                return hook.compute_weight(layer, do_power_iteration=False)
            case BasePruningMethod(_tensor_name="weight"):
                return cast(torch.Tensor, hook.apply_mask(layer))  # type: ignore[no-untyped-call]
    parts = list(layer.parametrizations.modules()) if is_parametrized(layer) else []  # type: ignore[union-attr]
    training = [part for part in parts if part.training]
    try:
        for part in training:
            part.training = False
        return cast(torch.Tensor, layer.weight)
    finally:
        for part in training:
            part.training = True


def hooks_that_compute(module: nn.Module) -> bool:
    """Whether a tensor of the module is computed by a hook before each call: weight_norm and spectral_norm of
    torch.nn.utils, masks of torch.nn.utils.prune.
    """
    return any(isinstance(hook, _COMPUTING_HOOKS) for hook in module._forward_pre_hooks.values())


def computed_by_hooks(model: nn.Module) -> dict[int, torch.Tensor]:
    """A memo for deepcopy, which refuses tensors that have a gradient: those that hooks compute before each call."""
    return {
        id(tensor): tensor.detach()
        for module in model.modules()
        if hooks_that_compute(module)
        for tensor in vars(module).values()
        if isinstance(tensor, torch.Tensor)
    }


_COMPUTING_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def plain_subclass(module: nn.Module) -> type[nn.Module]:
    """The class whose behaviour ``module`` has: its own, or that of the base in torch.nn (or of a registered one) which
    it only initialises in another way (a subclass of nn.Conv2d with another ``__init__`` or ``reset_parameters`` is
    still a convolution).
    """
    own = type(module)
    if is_parametrized(module) or isinstance(module, nn.Sequential):
        return own
    for base in own.__mro__:
        if base in custom.CLASSES or (base.__module__.startswith("torch.nn.modules.") and base is not nn.Module):
            return base
        if set(vars(base)) & _BEHAVIOUR or "forward" in vars(base):
            return own
    return own


_BEHAVIOUR = {"__call__", "_conv_forward", "_check_input_dim", "__getattr__", "_get_name", "_output_padding"}


def lies_in_order(tensor: torch.Tensor) -> bool:
    """Whether the strides are those of a new tensor; `is_contiguous` does not ask for those of dims of one entry."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """That of a weight of which ``model.to(memory_format=...)`` has put the channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(tensor.dim())
    if last is None or tensor.layout is not torch.strided or lies_in_order(tensor):
        return torch.contiguous_format
    return last if tensor.is_contiguous(memory_format=last) else torch.contiguous_format
