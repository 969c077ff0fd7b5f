"""What a training loader gives: its batches checked once, before any training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from conet_fx.errors import SearchError
from conet_fx.search.randomness import reproducible

Loss = Any  # callable(output, target) -> scalar tensor


def first_batch(loader: Iterable[Any]) -> tuple[Any, Any]:
    """The first (input, target) batch of ``loader``.

    Raises ``TypeError`` for what is no loader of such pairs, ``ValueError`` for an empty one.
    """
    if isinstance(loader, (str, bytes, Mapping, torch.Tensor)) or not isinstance(loader, Iterable):
        raise TypeError(
            "loader must be an iterable of (input, target) batches, for instance a DataLoader, not "
            f"{type(loader).__name__}"
        )
    if isinstance(loader, Iterator):
        raise TypeError("loader can be iterated only once, and every epoch needs it anew: pass a DataLoader or a list")
    with reproducible(loader):
        batch = next(iter(loader), None)
    if batch is None:
        raise ValueError("loader is empty: it gives no batch (is drop_last set with fewer samples than a batch?)")
    inputs, target = split(batch)
    if not tensors(inputs):
        raise TypeError(f"the input of a batch must be a tensor, or a tuple or dict of tensors, not {describe(inputs)}")
    if any(tensor.numel() == 0 for tensor in tensors(inputs)):
        raise ValueError(f"the first batch of loader has no samples: its input is {describe(inputs)}")
    return inputs, target


def split(batch: Any) -> tuple[Any, Any]:
    """A batch as (input, target). Raises ``TypeError`` for anything else."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(
            f"loader gives {describe(batch)} where a batch must be a pair (input, target): wrap the data set so that "
            "it returns such pairs, or use a collate_fn that makes them"
        )
    return batch[0], batch[1]


def tensors(nest: Any) -> list[torch.Tensor]:
    """The tensors in a tensor, tuple, list or dict."""
    if isinstance(nest, torch.Tensor):
        return [nest]
    items: Iterable[Any] = (
        nest.values() if isinstance(nest, Mapping) else nest if isinstance(nest, (tuple, list)) else ()
    )
    return [tensor for item in items for tensor in tensors(item)]


def samples(inputs: Any, count: int) -> Any:
    """The first ``count`` samples of a tensor, or of a tuple, list or dict of tensors. Of a deeper nest all of them: a
    list in it may hold one image after the other, or maps of all samples.
    """
    if isinstance(inputs, torch.Tensor):
        return inputs[:count] if inputs.ndim else inputs
    values = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    if not any(isinstance(value, (tuple, list, Mapping)) for value in values):
        values = [samples(value, count) if isinstance(value, torch.Tensor) else value for value in values]
    return dict(zip(inputs, values, strict=True)) if isinstance(inputs, Mapping) else tuple(values)


def run_on(model: nn.Module, inputs: Any) -> Any:
    """``model`` on one input: a tensor, a tuple of positional or a dict of keyword inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def check_targets(output: Any, target: Any) -> None:
    """Whether cross entropy can hold ``output`` (as traced) against ``target``. Raises :class:`SearchError`."""
    if not isinstance(output, torch.Tensor) or output.ndim < 2:
        raise SearchError(
            f"the model returns {describe(output)}, which the default loss (cross entropy) cannot take: pass loss_fn, "
            "a callable of (output, target)"
        )
    classes = output.shape[1]
    if not isinstance(target, torch.Tensor):
        raise SearchError(f"targets are {describe(target)}, not a tensor: pass loss_fn, a callable of (output, target)")
    if target.is_floating_point():
        if target.shape[1:] != output.shape[1:]:
            raise SearchError(
                f"targets of shape {tuple(target.shape)} are no class probabilities for {classes} outputs: pass loss_fn"
            )
        return
    if target.ndim != output.ndim - 1:
        one_hot = target.shape[1:] == output.shape[1:]
        raise SearchError(
            f"targets of shape {tuple(target.shape)} are no class indices for outputs of shape {tuple(output.shape)}: "
            + ("let the loader give target.argmax(1)" if one_hot else "pass loss_fn, a callable of (output, target)")
        )
    if target.dtype not in (torch.int64, torch.uint8):
        raise SearchError(
            f"targets are {target.dtype}, and cross entropy takes int64: let the loader give target.long()"
        )
    ignored = target == -100
    if bool(((target < 0) & ~ignored).any()) or int(target.max()) >= classes:
        low, high = int(target[~ignored].min()), int(target.max())
        raise SearchError(
            f"targets run from {low} to {high}, but the model has {classes} outputs (classes 0 to {classes - 1}): "
            "give the model as many outputs as there are classes"
        )


def describe(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        kind = type(value).__name__
        return (
            f"a {kind} of {len(value)} ({', '.join(describe(item) for item in value[:3])})"
            if value
            else f"an empty {kind}"
        )
    if isinstance(value, Mapping):
        return f"a dict with keys {list(value)[:5]}"
    return f"a {type(value).__name__}"
