"""Example inputs, bound to the arguments of ``forward``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate

from conet_fx.passes.nodes import tensors
from conet_fx.passes.shapes import to_meta

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Example inputs by name, and how ``forward`` takes them.

    ``order``: their names as ``forward`` declares them, with those that the example leaves out before a tensor.
    ``defaults``: what ``forward`` takes for an argument that is left out.
    """

    values: Mapping[str, Any]
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    order: tuple[str, ...]
    defaults: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """What ``forward`` takes for the argument."""
        return self.values[name] if name in self.values else self.defaults[name]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arguments that hold tensors."""
        return tuple(name for name, value in self.values.items() if tensors(value))

    @property
    def fixed(self) -> dict[str, Any]:
        """Arguments without a tensor, by name: a graph that was recorded with these holds for no other values."""
        values = {name: self[name] for name in self.order}
        return {name: value for name, value in values.items() if not tensors(value) and is_plain(value)}

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the arguments of a graph, in the order of ``forward``: it is called as the model is."""
        held = {*self.inputs, *self.fixed}
        return tuple(name for name in self.order if name in held)

    def tensors_only(self) -> Arguments:
        """The same for a graph that declares arguments with tensors alone."""
        return dataclasses.replace(self, order=self.inputs)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(self.values[name] for name in self.positional)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return {name: self.values[name] for name in self.keywords}

    def on_meta(self, floats: torch.dtype | None = None) -> Arguments:
        """The same with meta tensors; those of floating-point numbers are of type ``floats`` where that is given."""

        def convert(a: Any) -> Any:
            meta = to_meta(a)
            return meta.to(floats) if floats and isinstance(meta, torch.Tensor) and meta.is_floating_point() else meta

        return dataclasses.replace(self, values={name: map_aggregate(a, convert) for name, a in self.values.items()})

    @classmethod
    def of_example(cls, model: nn.Module, example: Inputs) -> Arguments:
        """Bind what the user gave. Raises ``TypeError`` where it does not fit, ``ValueError`` for empty tensors."""
        if isinstance(example, Mapping):
            bound = cls.bind(model, (), example)
        elif isinstance(example, (tuple, list)):
            bound = cls.bind(model, tuple(example), {})
        elif isinstance(example, torch.Tensor):
            bound = cls.bind(model, (example,), {})
        else:
            raise TypeError(
                f"example_inputs must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
                f"not {type(example).__name__}"
            )
        found = tensors(bound.values)
        if not found:
            raise TypeError("example_inputs hold no tensor: pass one batch of the shape and type of real inputs")
        if any(tensor.numel() == 0 for tensor in found):
            shapes = [tuple(tensor.shape) for tensor in found]
            raise ValueError(f"example_inputs are empty (shapes {shapes}): pass at least one sample")
        return bound

    @classmethod
    def bind(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        """Bind positional and keyword arguments to ``model.forward``. Raises ``TypeError`` where they do not fit."""
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"example_inputs do not fit {type(model).__name__}.forward{signature}: {error}") from None
        names: list[str] = []
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                names += [f"{name}_{i}" for i in range(len(bound.args) - len(names))]
            elif parameter.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                names.append(name)
        positional = tuple(names[: len(bound.args)])
        values = {**dict(zip(positional, bound.args, strict=True)), **bound.kwargs}
        last = max((i for i, name in enumerate(names) if tensors(values.get(name))), default=0)
        order = (*names[:last], *(name for name in values if name not in names[:last]))
        defaults = {name: p.default for name, p in signature.parameters.items() if p.default is not p.empty}
        return cls(values, positional, tuple(bound.kwargs), order, defaults)


def is_plain(value: Any) -> bool:
    """Whether the code of a graph can hold ``value``, and tell it from others: numbers, text, None, nests of them."""
    if type(value) in (tuple, list):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    return type(value) in _PLAIN and value == value  # NaN is none of them


_PLAIN = frozenset((bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format))
