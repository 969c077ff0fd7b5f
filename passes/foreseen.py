"""What common operators of torch give, without running them.

torch runs some of its operators in Python when they are given meta tensors, which takes up to a millisecond each and
longer than all the rest of a trace. Here are the shapes of these few. Whatever they might refuse, broadcast, promote or
lay out in another order is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from conet_fx.passes.nodes import tensors


def foreseen(target: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The meta tensor that a layer or function of torch gives for meta tensors; None where torch should be asked."""
    rule = _RULES.get(type(target) if isinstance(target, nn.Module) else target)
    if rule is None or not all(t.is_contiguous() and t.numel() for t in tensors(args)):
        return None
    return rule(target, *args)


def _batch_norm(layer: Any, x: Any = None, *rest: Any) -> torch.Tensor | None:
    if rest or not isinstance(x, torch.Tensor) or x.dim() not in _BATCH_NORMS[type(layer)]:
        return None
    state = [t for t in tensors([*layer._parameters.values(), *layer._buffers.values()]) if t.dim()]
    fits = x.shape[1] == layer.num_features < x.numel() and _are(state, x.shape[1:2], x.dtype)
    return torch.empty_like(x) if fits else None


def _layer_norm(layer: Any, x: Any = None, *rest: Any) -> torch.Tensor | None:
    return None if rest else _layer_norm_function(F.layer_norm, x, layer.normalized_shape, layer.weight, layer.bias)


def _layer_norm_function(
    _: Any, x: Any = None, shape: Any = (), weight: Any = None, bias: Any = None, *eps: Any
) -> torch.Tensor | None:
    if not isinstance(x, torch.Tensor) or not isinstance(shape, (tuple, list)) or not x.is_floating_point():
        return None
    fits = 0 < len(shape) <= x.dim() and tuple(shape) == tuple(x.shape[-len(shape) :])
    return torch.empty_like(x) if fits and _are([weight, bias], shape, x.dtype) else None


def _linear(layer: Any, x: Any = None, *rest: Any) -> torch.Tensor | None:
    return None if rest else _linear_function(F.linear, x, layer.weight, layer.bias)


def _linear_function(_: Any, x: Any = None, weight: Any = None, bias: Any = None) -> torch.Tensor | None:
    if not (isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor)) or not x.is_floating_point():
        return None
    fits = x.dim() > 1 and weight.dim() == 2 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype
    if not fits or not _are([bias], weight.shape[:1], x.dtype):
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device)


def _like(_: Any, x: Any = None, *rest: Any) -> torch.Tensor | None:
    fits = not rest and isinstance(x, torch.Tensor) and x.is_floating_point()
    return torch.empty_like(x) if fits else None


def _cat(_: Any, parts: Any = (), dim: Any = 0) -> torch.Tensor | None:
    if not isinstance(parts, (tuple, list)) or not parts or type(dim) is not int:
        return None
    if not all(isinstance(part, torch.Tensor) and part.dtype == parts[0].dtype for part in parts):
        return None
    first = parts[0].shape
    if not -len(first) <= dim < len(first):
        return None
    dim %= len(first)
    before, after = first[:dim], first[dim + 1 :]
    if any(len(p.shape) != len(first) or (p.shape[:dim], p.shape[dim + 1 :]) != (before, after) for p in parts[1:]):
        return None
    shape = (*before, sum(part.shape[dim] for part in parts), *after)
    return torch.empty(shape, dtype=parts[0].dtype, device=parts[0].device)


def _are(state: list[Any], shape: Any, dtype: torch.dtype) -> bool:
    """True where all of ``state``, which may be None, are tensors of this kind."""
    return all(
        t is None or (isinstance(t, torch.Tensor) and t.shape == tuple(shape) and t.dtype == dtype) for t in state
    )


# how many dims they take
_BATCH_NORMS: Mapping[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
_RULES: Mapping[Any, Callable[..., torch.Tensor | None]] = {
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    nn.LayerNorm: _layer_norm,
    F.layer_norm: _layer_norm_function,
    nn.Linear: _linear,
    F.linear: _linear_function,
    **dict.fromkeys((nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, F.gelu, F.silu), _like),
    torch.cat: _cat,
}
