"""What a recipe may name: operators and module classes, by their public names."""

from __future__ import annotations

import builtins
import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torchvision.ops
from torch import Tensor, nn

from conet_fx.passes import ops

_T = TypeVar("_T", bound=Callable[..., Any])

_NAMESPACES: tuple[Any, ...] = (
    *(builtins, math, operator, torchvision.ops),
    *(torch, nn, nn.functional, torch.linalg, torch.fft, torch.special),
)
# Classes that a recipe may name though the operator table has no rule for them. Constructing one is cheap,
# whatever its arguments (no layers are stacked), and its attributes tell the arguments.
_MORE_CLASSES: tuple[type[nn.Module], ...] = (
    *(nn.GLU, nn.LogSoftmax, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.CrossMapLRN2d, nn.MultiheadAttention),
    nn.Unflatten,
)
# Methods of tensors that call back, hand out memory or compute nothing.
_NO_METHODS = frozenset(
    (
        *("apply_", "backward", "const_data_ptr", "data_ptr", "map2_", "map_", "module_load", "numpy"),
        *("record_stream", "register_hook", "register_post_accumulate_grad_hook", "set_", "share_memory_"),
        *("storage", "untyped_storage"),
    )
)


def classes() -> Mapping[str, type[nn.Module]]:
    """The leaf classes that a recipe may name."""
    return _named(frozenset((*ops.MODULES, *_MORE_CLASSES)))


def functions() -> Mapping[str, Callable[..., Any]]:
    """The functions that a recipe may name: the operator table, and what torch lists as functions of tensors.

    The second part is for operators that nothing resizes, but that a network may well contain.
    """
    overridable = torch.overrides.get_overridable_functions()
    listed = itertools.chain.from_iterable(overridable.get(namespace, ()) for namespace in _NAMESPACES)
    return _named(frozenset(itertools.chain(ops.FUNCTIONS, listed, [tuple, torch.eye])))


def methods() -> frozenset[str]:
    """The tensor methods that a recipe may name, chosen as the functions are."""
    listed = {method.__name__ for method in torch.overrides.get_overridable_functions()[Tensor]}
    return frozenset(ops.METHODS).union(name for name in listed - _NO_METHODS if not name.startswith("_"))


@functools.cache
def _named(members: frozenset[_T]) -> Mapping[str, _T]:
    return {qualified_name(member): member for member in members}


def name_in(table: Mapping[str, object], member: object) -> str | None:
    """The name of ``member`` in ``table``, or None where it is not in there."""
    name = qualified_name(member)
    return name if table.get(name) is member else None


def qualified_name(member: Any) -> str:
    """The public name of a function or class if it has one, such as ``torch.nn.Conv2d``, ``operator.add``."""
    name = getattr(member, "__name__", repr(member))
    for namespace in _NAMESPACES:
        family = namespace.__name__.rpartition(".")[2]
        for public in (name, name.removeprefix(f"{family}_")):  # torch.fft.rfft calls itself fft_rfft
            if getattr(namespace, public, None) is member:
                return f"{namespace.__name__}.{public}"
    return f"{getattr(member, '__module__', None)}.{getattr(member, '__qualname__', name)}"
