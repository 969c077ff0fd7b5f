"""States of optimizers and the like as JSON and tensors: what a checkpoint is made of, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

# what JSON has no word for is an object with one key, which no other object has
_TENSOR, _PAIRS, _TUPLE, _FLOAT = "__tensor__", "__pairs__", "__tuple__", "__float__"


def pack(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """``value`` as what JSON can hold, and the tensors in it by name; each tensor is a copy on the CPU.

    Dicts of strings or other plain keys, lists, tuples, tensors, numbers, strings, bools and None are kept as they are.

    Raises ``TypeError`` for anything else, saying where it lies.
    """
    tensors: dict[str, Tensor] = {}

    def visit(item: Any, where: str) -> Any:
        if isinstance(item, Tensor):
            tensors[where] = item.detach().to("cpu", copy=True).contiguous()
            return {_TENSOR: where}
        if item is None or isinstance(item, (bool, int, str)):
            return item
        if isinstance(item, (float, np.floating)):
            return float(item) if np.isfinite(item) else {_FLOAT: str(float(item))}
        if isinstance(item, np.integer):
            return int(item)
        if isinstance(item, (list, tuple)):
            found = [visit(one, f"{where}.{number}") for number, one in enumerate(item)]
            return {_TUPLE: found} if isinstance(item, tuple) else found
        if isinstance(item, Mapping):
            if all(isinstance(key, str) and not key.startswith("__") for key in item):
                return {key: visit(one, f"{where}.{key}") for key, one in item.items()}
            return {_PAIRS: [[visit(key, where), visit(one, f"{where}.{key}")] for key, one in item.items()]}
        raise TypeError(f"{where[1:] or 'the state'} holds a {type(item).__name__}, which only pickle could save")

    return visit(value, ""), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`pack` was given. Raises ``KeyError`` where a tensor is missing."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]]
    if _FLOAT in packed:
        return float(packed[_FLOAT])
    if _TUPLE in packed:
        return tuple(unpack(item, tensors) for item in packed[_TUPLE])
    if _PAIRS in packed:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in packed[_PAIRS]}
    return {key: unpack(item, tensors) for key, item in packed.items()}
