"""A catalogue of small networks: what each construct may change, and what stays frozen and why.

One module a family. A case is documentation and test at once: ``tests/passes/test_rules.py`` compares the plan of each
with ``free`` and ``frozen`` and runs the whole battery on it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Shape = tuple[int, ...]
Free = Mapping[str, tuple[int, int]]

OUTPUT = "channels of the network's output"
LINEAR = "only linear layers write it"


@dataclasses.dataclass(frozen=True)
class Case:
    """``free``: group name -> (size, quantum). ``frozen``: group name -> part of the reason. ``mixed``: free groups
    over which some operator normalises or reduces. ``loses``: why some channels cannot be inherited at other sizes, ""
    where all are. ``options`` go to ``analyze``.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: Sequence[Shape]
    free: Free
    frozen: Mapping[str, str]
    mixed: frozenset[str]
    loses: str
    options: Mapping[str, bool]

    def inputs(self) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=generator) for shape in self.shapes)


CASES: list[Case] = []


def case(
    free: Free | None = None,
    frozen: Mapping[str, str] | None = None,
    *,
    shapes: Sequence[Shape] = ((2, 3, 8, 8),),
    mixed: Sequence[str] = (),
    out: str = "out",
    loses: str = "",
    **options: bool,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Add the decorated function to the catalogue; the layer ``out`` writes the output of the network."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        written = dict.fromkeys(out.split(), OUTPUT)
        name = f"{build.__module__.rpartition('.')[2]}-{build.__name__}"
        reasons = {**written, **(frozen or {})}
        CASES.append(Case(name, build, shapes, free or {}, reasons, frozenset(mixed), loses, options))
        return build

    return add


def net(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module with these parts (submodules, parameters, numbers) and this ``forward``."""
    module: nn.Module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def conv(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image size (with an odd kernel and stride 1)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


for family in (
    "attention", "blocks", "computed", "designs", "joins", "layers", "modes", "moves", "numbers", "picks", "products",
    "sampling", "sequences", "spellings", "transformers",
):  # fmt: skip
    importlib.import_module(f"{__name__}.{family}")
