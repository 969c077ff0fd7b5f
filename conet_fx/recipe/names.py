"""What a recipe may name: operators and module classes, by their public names."""

from __future__ import annotations

import builtins
import functools
import itertools
import math
import operator
import reprlib
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
# Functions on tensors that torch does not list as such.
_MORE_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(dict, tuple, torch.eye, torch.addmv_, torch.fill_, torch.index_put_, torch.zero_),
)
# Kernels that trust their arguments more than a file can be trusted.
_LOW_LEVEL = ("choose_qparams", "fbgemm_", "fused_moving_avg", "miopen_", "quantized_")
# Methods of tensors that call back, hand out memory or compute nothing.
_NO_METHODS = frozenset(
    (
        *("apply_", "backward", "const_data_ptr", "data_ptr", "map2_", "map_", "module_load", "numpy"),
        *("record_stream", "register_hook", "register_post_accumulate_grad_hook", "set_", "share_memory_"),
        *("storage", "untyped_storage"),
    )
)


def classes() -> Mapping[str, type[nn.Module]]:
    """The leaf classes that a recipe may name: those of the operator table."""
    return _named(frozenset(ops.MODULES))


def functions() -> Mapping[str, Callable[..., Any]]:
    """The functions that a recipe may name: the operator table, and what torch lists as functions of tensors.

    The second part is for operators that nothing resizes, but that a network may well contain.
    """
    overridable = torch.overrides.get_overridable_functions()
    listed = itertools.chain.from_iterable(overridable.get(namespace, ()) for namespace in _NAMESPACES)
    plain = (function for function in listed if not function.__name__.startswith(_LOW_LEVEL))
    return _named(frozenset(itertools.chain(ops.FUNCTIONS, plain, _MORE_FUNCTIONS)))


def methods() -> frozenset[str]:
    """The tensor methods that a recipe may name, chosen as the functions are."""
    listed = {method.__name__ for method in torch.overrides.get_overridable_functions()[Tensor]}
    return frozenset((*ops.METHODS, "stride")).union(name for name in listed - _NO_METHODS if not name.startswith("_"))


@functools.cache
def attributes() -> frozenset[str]:
    """The attributes that ``getattr`` may read: of tensors, and of what functions of torch return several in."""
    members: list[Any] = [member for member in vars(torch.return_types).values() if isinstance(member, type)]
    return _TENSOR_ATTRIBUTES.union(*(member.__match_args__ for member in members))


_TENSOR_ATTRIBUTES = frozenset(
    (
        *(
            "H",
            "T",
            "data",
            "device",
            "dtype",
            "imag",
            "is_cpu",
            "is_cuda",
            "is_meta",
            "is_nested",
            "is_quantized",
            "is_sparse",
        ),
        *("itemsize", "layout", "mH", "mT", "nbytes", "ndim", "real", "requires_grad", "shape"),
    )
)


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


def short(value: object) -> str:
    """How a value from a file is shown in a message."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 20
