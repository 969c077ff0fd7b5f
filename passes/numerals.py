"""numpy's numbers and functions in the code of a model, as Python's: graphs are written in Python.

``np.sqrt(x.shape[1])``, ``np.prod(x.shape[1:])``, ``np.float64(2) * x``, ``nn.Conv2d(3, np.int64(8), 3)``.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

_COMPUTING: dict[np.ufunc, Callable[..., Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.power: operator.pow,
    np.negative: operator.neg,
    np.absolute: abs,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    # looked up when called: math's functions are others while a graph is recorded
    np.sqrt: lambda x: math.sqrt(x),
    np.exp: lambda x: math.exp(x),
    np.log: lambda x: math.log(x),
    np.log2: lambda x: math.log2(x),
    np.log10: lambda x: math.log10(x),
    np.ceil: lambda x: float(math.ceil(float(x))),
    np.floor: lambda x: float(math.floor(float(x))),
}


def computed(ufunc: np.ufunc, method: str, operands: Sequence[Any], options: Any) -> Any:
    """What a function of numpy gives for proxies and numbers; NotImplemented where Python has no such function."""
    function = _COMPUTING.get(ufunc)
    numbers = [
        a[()] if isinstance(a, np.ndarray) else a for a in operands
    ]  # numpy hands over its own as arrays of no dim
    if function is None or method != "__call__" or options or any(isinstance(a, np.ndarray) for a in numbers):
        return NotImplemented
    return function(*map(plain, numbers))


def reduced(function: Callable[..., Any], arguments: Sequence[Any], options: Any) -> Any:
    """``np.prod`` and ``np.sum`` of the sizes in a shape; NotImplemented for any other call."""
    joining = operator.mul if function is np.prod else operator.add
    if function not in (np.prod, np.sum) or len(arguments) != 1 or options:
        return NotImplemented
    return functools.reduce(joining, arguments[0])


def plain(value: Any) -> Any:
    """A number of numpy as Python's, an array as a tensor, a tuple or list with such inside; all else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if type(value) in (tuple, list) and any(isinstance(item, np.generic) for item in value):
        return type(value)(map(plain, value))
    return value


def make_plain(module: nn.Module) -> None:
    """Make the numbers that a module and its parts keep Python's own."""
    for part in module.modules():
        attributes = vars(part)
        for name, value in attributes.items():
            if not isinstance(value, np.ndarray):
                attributes[name] = plain(value)
