"""Small things that all passes know: where a node comes from, nests of values, dotted paths, plain layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

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
        value = getattr(value, name, None)
    return value


def empty_tables(model: nn.Module) -> dict[int, Any]:
    """A memo that spares deepcopy the empty tables of hooks, which are most of what a module holds."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(value): OrderedDict() for value in held if type(value) is OrderedDict and not value}


def plain_subclass(module: nn.Module) -> type[nn.Module]:
    """The class whose behaviour ``module`` has: its own, or that of the base in torch.nn (or of a registered one) which
    it only initialises in another way (a subclass of nn.Conv2d with another ``__init__`` or ``reset_parameters`` is
    still a convolution).
    """
    own = type(module)
    if parametrize.is_parametrized(module) or isinstance(module, nn.Sequential):
        return own
    for base in own.__mro__:
        if base in custom.CLASSES or (base.__module__.startswith("torch.nn.modules.") and base is not nn.Module):
            return base
        if set(vars(base)) & _BEHAVIOUR or "forward" in vars(base):
            return own
    return own


_BEHAVIOUR = {"__call__", "_conv_forward", "_check_input_dim", "__getattr__", "_get_name", "_output_padding"}
