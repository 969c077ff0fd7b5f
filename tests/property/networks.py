"""Random networks: programs of a few small operators that hypothesis draws, shrinks and prints.

A program is what a person would write: ``v2 = conv3(v1, width=8, stride=2)``. It is resolved from a list of *steps* that
hold nothing but an operator's name and some integers; each integer picks among what fits at that point (an operand of
the right kind, an option), and a step that nothing fits is left out. So any step can be deleted and any integer made
smaller without making the program invalid, which is what shrinking does.

:class:`RandomNet` runs a program in a way that torch.fx can trace: the loop over the program is unrolled, layers of
torch.nn are submodules by name, and everything else is called in the body of ``forward``. What nothing reads goes
through a linear head, so that every value matters to the one output.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
WIDTHS = (4, 6, 8, 12)
MAX_CHANNELS = 32
MAX_NUMBERS = 16_384  # in one value, so that an example takes milliseconds


@dataclasses.dataclass(frozen=True)
class Statement:
    """``v7, v8 = chunk(v6, count=2)``."""

    operator: str
    operands: tuple[int, ...]
    options: tuple[Any, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        given = [f"v{i}" for i in self.operands]
        given += [f"{name}={value!r}" for name, value in zip(OPERATORS[self.operator].options, self.options, strict=True)]
        return f"{', '.join(f'v{i}' for i in self.results)} = {self.operator}({', '.join(given)})"


@dataclasses.dataclass(frozen=True)
class Program:
    """A network on an input ``v0`` of shape [N, channels, space, ...] with ``dims`` dims of space.

    ``outputs``: values that the network returns as they are, besides the sum of all heads.
    """

    dims: int
    channels: int
    space: int
    statements: tuple[Statement, ...]
    shapes: tuple[Shape, ...]
    outputs: tuple[int, ...] = ()

    @property
    def unread(self) -> tuple[int, ...]:
        """The values that go to a head."""
        read = {i for statement in self.statements for i in statement.operands}
        return tuple(i for i in range(len(self.shapes)) if i not in read and (i or not self.statements))

    def __repr__(self) -> str:
        lines = [f"v0 = input{list(self.shapes[0])}"]
        for statement in self.statements:
            lines.append(f"{statement}  # {', '.join(str(list(self.shapes[i])) for i in statement.results)}")
        lines.append(f"return {' + '.join(f'head(v{i})' for i in self.unread)}")
        lines[-1] += "".join(f", v{i}" for i in self.outputs)
        return "\n" + "\n".join(lines) + "\n"

    def input(self, batch: int = 2, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.channels, *[self.space] * self.dims)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


class RandomNet(nn.Module):
    """A program as a module, in double precision."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.parts: list[nn.Module] = []
        for index, statement in enumerate(program.statements, start=1):
            shapes = [program.shapes[i] for i in statement.operands]
            part = OPERATORS[statement.operator].build(program.dims, shapes, statement.options)
            assert part is not None
            self.add_module(f"{statement.operator}_{index}", part)
        for i in program.unread:
            self.add_module(f"head_{i}", Head(program.shapes[i][1]))
        self.double()

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for index, statement in enumerate(self.program.statements, start=1):
            part = self.get_submodule(f"{statement.operator}_{index}")
            results = part(*[values[i] for i in statement.operands])
            values += [results] if len(statement.results) == 1 else [results[i] for i in range(len(statement.results))]
        heads = [self.get_submodule(f"head_{i}")(values[i]) for i in self.program.unread]
        total = heads[0]
        for head in heads[1:]:
            total = total + head
        if self.program.outputs:
            return (total, *[values[i] for i in self.program.outputs])
        return total


class Head(nn.Module):
    """Mean over space, then a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).mean(2) if x.dim() > 2 else x)


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights and norm statistics of ordinary magnitude, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1
            signs = 1 if name.endswith("running_var") else torch.rand(tensor.shape, generator=generator).sub(0.5).sign()
            tensor.copy_(values * signs)


# --- operators --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Operator:
    """``kinds`` of operands; ``options`` by name: what each is picked from, given the shape of the first operand."""

    kinds: tuple[str, ...]
    options: dict[str, Callable[[Shape], Sequence[Any]]]
    make: Callable[..., nn.Module | None]

    def build(self, dims: int, shapes: Sequence[Shape], options: Sequence[Any]) -> nn.Module | None:
        return self.make(dims, *shapes, *options)


OPERATORS: dict[str, Operator] = {}


def op(*kinds: str, **options: Any) -> Callable[[Callable[..., nn.Module | None]], Callable[..., nn.Module | None]]:
    """Add a function to :data:`OPERATORS`: it gets ``dims``, the shapes of its operands and its options, and returns a
    module, or None where it does not fit. Kinds: ``map`` [N, C, ...], ``vector`` [N, C], ``any``; ``same``: of the shape
    of the first; ``aligned``: of its space; ``pixel``: of its batch, one channel or one position.
    """

    def add(make: Callable[..., nn.Module | None]) -> Callable[..., nn.Module | None]:
        choices = {name: value if callable(value) else _constant(value) for name, value in options.items()}
        OPERATORS[make.__name__] = Operator(kinds, choices, make)
        return make

    return add


def _constant(values: Sequence[Any]) -> Callable[[Shape], Sequence[Any]]:
    return lambda shape: values


def divisors(shape: Shape) -> list[int]:
    """Numbers of groups that the channels can be cut into."""
    return [n for n in (2, 3, 4) if shape[1] % n == 0 and shape[1] > n]


class Apply(nn.Module):
    """Anything but a layer: ``function(x, ...)``, or ``function(parameter, x, ...)`` with a parameter of its own."""

    def __init__(self, function: Callable[..., Any], *, parameter: Shape | None = None, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        if parameter is not None:
            self.weight = nn.Parameter(torch.rand(parameter) + 0.5)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *operands: Any) -> Any:
        given: list[Any] = [self] if self._modules else []
        if "weight" in self._parameters:
            given.append(self.weight)
        return self.function(*given, *operands)


def by_dims(name: str, dims: int) -> Callable[..., Any]:
    """nn.Conv2d for ("Conv", 2), F.max_pool1d for ("max_pool", 1)."""
    return getattr(nn, f"{name}{dims}d") if name[0].isupper() else getattr(F, f"{name}{dims}d")


# layers

@op("map", width=WIDTHS)
def conv1(d: int, x: Shape, width: int) -> nn.Module:
    return by_dims("Conv", d)(x[1], width, 1)


@op("map", width=WIDTHS, stride=(1, 2), bias=(False, True))
def conv3(d: int, x: Shape, width: int, stride: int, bias: bool) -> nn.Module:
    return by_dims("Conv", d)(x[1], width, 3, stride, 1, bias=bias)


@op("map", groups=divisors, times=(1, 2, 3))
def grouped_conv(d: int, x: Shape, groups: int, times: int) -> nn.Module:
    return by_dims("Conv", d)(x[1], groups * times, 3, padding=1, groups=groups)


@op("map", times=(1, 2))
def depthwise_conv(d: int, x: Shape, times: int) -> nn.Module:
    return by_dims("Conv", d)(x[1], x[1] * times, 3, padding=1, groups=x[1])


@op("map", width=WIDTHS, groups=lambda x: [1, *divisors(x)])
def transposed_conv(d: int, x: Shape, width: int, groups: int) -> nn.Module | None:
    return by_dims("ConvTranspose", d)(x[1], width, 2, 2, groups=groups) if width % groups == 0 else None


@op("map", times=(1, 2))
def depthwise_transposed_conv(d: int, x: Shape, times: int) -> nn.Module:
    return by_dims("ConvTranspose", d)(x[1], x[1] * times, 3, padding=1, groups=x[1])


@op("map")
def shared_conv(d: int, x: Shape) -> nn.Module:
    return Apply(lambda m, x: m.conv(m.conv(x).relu()), conv=by_dims("Conv", d)(x[1], x[1], 3, padding=1))


@op("map", "same", width=WIDTHS)
def siamese_conv(d: int, x: Shape, y: Shape, width: int) -> nn.Module:
    return Apply(lambda m, x, y: (m.conv(x), m.conv(y)), conv=by_dims("Conv", d)(x[1], width, 1))


@op("map", width=WIDTHS)
def conv_function(d: int, x: Shape, width: int) -> nn.Module:
    return Apply(lambda weight, x: by_dims("conv", d)(x, weight), parameter=(width, x[1], *[1] * d))


@op("map")
def depthwise_function(d: int, x: Shape) -> nn.Module:
    return Apply(
        lambda weight, x: by_dims("conv", d)(x, weight, padding=1, groups=x.shape[1]), parameter=(x[1], 1, *[3] * d)
    )


@op("vector", width=WIDTHS)
def linear(d: int, x: Shape, width: int) -> nn.Module:
    return nn.Linear(x[1], width)


@op("vector", width=WIDTHS)
def linear_function(d: int, x: Shape, width: int) -> nn.Module:
    return Apply(lambda weight, x: F.linear(x, weight), parameter=(width, x[1]))


@op("map", kind=("BatchNorm", "InstanceNorm", "SyncBatchNorm"), affine=(True, False))
def norm(d: int, x: Shape, kind: str, affine: bool) -> nn.Module | None:
    if kind == "SyncBatchNorm":
        return Apply(lambda m, x: m.norm(x) if not m.norm.training else x, norm=nn.SyncBatchNorm(x[1])) and None
    if kind == "InstanceNorm" and math.prod(x[2:]) == 1:
        return None
    return by_dims(kind, d)(x[1], affine=affine)


@op("vector")
def vector_norm(d: int, x: Shape) -> nn.Module:
    return nn.BatchNorm1d(x[1])
