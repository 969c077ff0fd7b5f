"""Random networks: programs of a few small operators that hypothesis draws, shrinks and prints.

A program is what a person would write: ``v2 = conv3(v1, width=8, stride=2)``. It is resolved from a list of
*steps* that hold nothing but an operator's name and some integers; each integer picks among what fits at that
point (an operand of the right kind, an option), and a step that nothing fits is left out. So any step can be
deleted and any integer made smaller without making the program invalid, which is what shrinking does.

:class:`RandomNet` runs a program in a way that torch.fx can trace: the loop over the program is unrolled,
layers of torch.nn are submodules by name, and everything else is called in the body of ``forward``. What
nothing reads goes through a linear head, so that every value matters to the one output.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.property import spellings

Shape = tuple[int, ...]
WIDTHS = (4, 6, 4, 8, 4, 12)  # often equal, so that values meet
MAX_NUMBERS = 8_192  # in one value, so that an example takes milliseconds


@dataclasses.dataclass(frozen=True)
class Statement:
    """``v7, v8 = chunk(v6, count=2)``."""

    operator: str
    operands: tuple[int, ...]
    options: tuple[Any, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        given = [f"v{i}" for i in self.operands]
        given += [
            f"{name}={value!r}" for name, value in zip(OPERATORS[self.operator].options, self.options, strict=True)
        ]
        return f"{', '.join(f'v{i}' for i in self.results)} = {self.operator}({', '.join(given)})"


@dataclasses.dataclass(frozen=True)
class Program:
    """A network on an input ``v0`` of shape [N, channels, space, ...] with ``dims`` dims of space.

    ``outputs``: values that the network returns as they are, besides the sum of all heads; in train mode only if
    ``auxiliary``.
    """

    dims: int
    channels: int
    space: int
    statements: tuple[Statement, ...]
    shapes: tuple[Shape, ...]
    outputs: tuple[int, ...] = ()
    auxiliary: bool = False

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
        lines[-1] += "".join(f", v{i}{' (in training)' if self.auxiliary else ''}" for i in self.outputs)
        return "\n" + "\n".join(lines) + "\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis prints
        printer.text(repr(self))

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
            self.add_module(f"head_{i}", Head(program.shapes[i]))
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
        if self.program.outputs and (self.training or not self.program.auxiliary):
            return (total, *[values[i] for i in self.program.outputs])
        return total


class Head(nn.Module):
    """Mean over space, then a linear layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.space = len(shape) > 2
        self.linear = nn.Linear(shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).mean(2) if self.space else x)


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights and norm statistics of ordinary magnitude, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1
            signs = 1 if name.endswith("running_var") else torch.rand(tensor.shape, generator=generator).sub(0.5).sign()
            tensor.copy_(values * signs)


# --- operators
# --------------------------------------------------------------------------------------------------


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
    """Add a function to :data:`OPERATORS`: it gets ``dims``, the shapes of its operands and its options, and
    returns a module, or None where it does not fit. Kinds: ``map`` [N, C, ...], ``vector`` [N, C], ``any``;
    ``same``: of the shape of the first; ``aligned``: of its space; ``smaller``: some dims of it have length
    1, the others are of its length.
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


class ScaledConv(nn.Module):
    """Holds the weight and the bias of a convolution of kernel size 1."""

    def __init__(self, d: int, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(outputs, inputs, *[1] * d))
        if bias:
            self.bias = nn.Parameter(torch.rand(outputs))


class Constants(nn.Module):
    """A scale and an offset for each channel, as buffers or as plain attributes."""

    def __init__(self, channels: int, buffers: bool) -> None:
        super().__init__()
        scale, offset = torch.arange(1.0, channels + 1.0) / channels, torch.linspace(-1.0, 1.0, channels)
        if buffers:
            self.register_buffer("scale", scale)
            self.register_buffer("offset", offset)
        else:
            self.scale, self.offset = scale.double(), offset.double()


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


@op("map", groups=divisors, width=WIDTHS)
def grouped_conv(d: int, x: Shape, groups: int, width: int) -> nn.Module | None:
    if width % groups or x[1] % groups:
        return None
    return by_dims("Conv", d)(x[1], width, 3, padding=1, groups=groups)


@op("map", times=(1, 2))
def depthwise_conv(d: int, x: Shape, times: int) -> nn.Module:
    return by_dims("Conv", d)(x[1], x[1] * times, 3, padding=1, groups=x[1])


@op("map", width=WIDTHS, groups=lambda x: [1, *divisors(x)])
def transposed_conv(d: int, x: Shape, width: int, groups: int) -> nn.Module | None:
    if width % groups or x[1] % groups:
        return None
    return by_dims("ConvTranspose", d)(x[1], width, 2, 2, groups=groups)


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
    def run(weight: Tensor, x: Tensor) -> Tensor:
        return by_dims("conv", d)(x, weight, padding=1, groups=weight.shape[0])

    return Apply(run, parameter=(x[1], 1, *[3] * d))


@op("map", width=WIDTHS, kind=("scaled", "standardised", "with a bias"))
def weight_function(d: int, x: Shape, width: int, kind: str) -> nn.Module:
    """A convolution by function whose weight is computed from a parameter."""
    conv = by_dims("conv", d)
    dims = tuple(range(1, d + 2))
    runs: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "scaled": lambda m, x: conv(x, m.part.weight * 0.5),
        "standardised": lambda m, x: conv(x, m.part.weight - m.part.weight.mean(dims, keepdim=True)),
        "with a bias": lambda m, x: conv(x, m.part.weight, m.part.bias, padding=0),
    }
    return Apply(runs[kind], part=ScaledConv(d, x[1], width, kind == "with a bias"))


@op("map", width=WIDTHS)
def weight_used_twice(d: int, x: Shape, width: int) -> nn.Module:
    """The weight of a layer is an argument of a function too."""
    run = by_dims("conv", d)
    return Apply(lambda m, x: m.conv(x) + run(x.abs(), m.conv.weight), conv=by_dims("Conv", d)(x[1], width, 1))


@op("map", width=WIDTHS)
def tied_convs(d: int, x: Shape, width: int) -> nn.Module:
    """Two layers with one weight."""
    layers = {name: by_dims("Conv", d)(x[1], width, 1) for name in ("a", "b")}
    layers["b"].weight = layers["a"].weight
    return Apply(lambda m, x: (m.a(x), m.b(x.relu())), **layers)


@op("map", kind=("batch", "channel"))
def one_channel_at_a_time(d: int, x: Shape, kind: str) -> nn.Module:
    """One filter for all channels: they are folded into the batch, or stand in its place."""

    def run(m: Any, y: Tensor) -> Tensor:
        if kind == "batch":
            return m.conv(y.reshape(-1, 1, *x[2:])).view(y.shape)
        return torch.stack([m.conv(z.unsqueeze(1)).squeeze(1) for z in y.unbind(0)], 0)

    return Apply(run, conv=by_dims("Conv", d)(1, 1, 3, padding=1))


@op("map")
def groups_in_the_batch(d: int, x: Shape) -> nn.Module | None:
    """A grouped convolution whose groups share one weight."""
    if x[1] % 2 or x[1] < 4:
        return None

    def run(m: Any, y: Tensor) -> Tensor:
        n, c = y.shape[:2]
        return m.conv(y.reshape(n * 2, c // 2, *x[2:])).view(n, c, *x[2:])

    return Apply(run, conv=by_dims("Conv", d)(x[1] // 2, x[1] // 2, 1))


@op("map", width=WIDTHS, kind=("dense", "depthwise", "grouped", "grouped forwards"))
def conv_function_of_groups(d: int, x: Shape, width: int, kind: str) -> nn.Module | None:
    """Transposed convolutions by function, dense, depthwise and grouped; and a grouped one that is not transposed."""
    run, groups = by_dims("conv_transpose", d), 1 if kind == "dense" else x[1] if kind == "depthwise" else 2
    if x[1] % groups or width % groups:
        return None
    if kind == "grouped forwards":
        return Apply(lambda w, x: by_dims("conv", d)(x, w, groups=groups), parameter=(width, x[1] // groups, *[1] * d))
    shape = (x[1], 1 if kind == "depthwise" else width // groups, *[2] * d)
    return Apply(lambda w, x: run(x, w, stride=2, groups=groups), parameter=shape)


@op("vector", width=WIDTHS)
def linear(d: int, x: Shape, width: int) -> nn.Module:
    return nn.Linear(x[1], width)


@op("vector", width=WIDTHS)
def linear_function(d: int, x: Shape, width: int) -> nn.Module:
    return Apply(lambda weight, x: F.linear(x, weight), parameter=(width, x[1]))


# norms


@op("map", affine=(True, False))
def batch_norm(d: int, x: Shape, affine: bool) -> nn.Module:
    return by_dims("BatchNorm", d)(x[1], affine=affine)


@op("vector")
def vector_norm(d: int, x: Shape) -> nn.Module:
    return nn.BatchNorm1d(x[1])


@op("map", affine=(True, False))
def instance_norm(d: int, x: Shape, affine: bool) -> nn.Module | None:
    return by_dims("InstanceNorm", d)(x[1], affine=affine) if math.prod(x[2:]) > 1 else None


@op("map", groups=lambda x: [1, x[1], *divisors(x)])
def group_norm(d: int, x: Shape, groups: int) -> nn.Module | None:
    if x[1] % groups or x[1] // groups * math.prod(x[2:]) == 1:
        return None
    return nn.GroupNorm(groups, x[1])


@op("map", kind=(nn.LayerNorm, nn.RMSNorm))
def channel_norm(d: int, x: Shape, kind: type[nn.Module]) -> nn.Module:
    return Apply(lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), norm=kind(x[1]))


@op("map", kind=("layer_norm", "rms_norm"))
def channel_norm_function(d: int, x: Shape, kind: str) -> nn.Module:
    def run(weight: Tensor, x: Tensor) -> Tensor:
        return torch.movedim(getattr(F, kind)(torch.movedim(x, 1, -1), (weight.shape[0],), weight), -1, 1)

    return Apply(run, parameter=(x[1],))


@op("map", kind=("batch_norm", "instance_norm", "group_norm", "prelu", "prelu method"))
def norm_function(d: int, x: Shape, kind: str) -> nn.Module | None:
    runs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "instance_norm": lambda weight, x: F.instance_norm(x, None, None, weight, weight),
        "group_norm": lambda weight, x: F.group_norm(x, 2, weight, weight),
        "prelu": lambda weight, x: F.prelu(x, weight),
        "prelu method": lambda weight, x: x.prelu(weight),
    }
    if (kind == "group_norm" and x[1] % 2) or math.prod(x[2:]) == 1:
        return None
    if kind == "batch_norm":  # frozen: always with its statistics
        norm = by_dims("BatchNorm", d)(x[1])
        norm.register_buffer("num_batches_tracked", None)  # nothing reads it, so that the graph would not hold it
        return Apply(
            lambda m, x: F.batch_norm(x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias), norm=norm
        )
    return Apply(runs[kind], parameter=(x[1],))


@op("map", buffers=(True, False), kind=("view", "reshape", "index"))
def frozen_norm(d: int, x: Shape, buffers: bool, kind: str) -> nn.Module:
    """FrozenBatchNorm2d: constants of the model, brought into the form of a map."""
    ones = [1] * d
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "view": lambda t: t.view(1, -1, *ones),
        "reshape": lambda t: t.reshape(-1, *ones),
        "index": lambda t: t[(None, slice(None), *[None] * d)],
    }
    form = forms[kind]
    return Apply(lambda m, x: x * form(m.own.scale) + form(m.own.offset), own=Constants(x[1], buffers))


@op("map", kind=("LayerNorm", "RMSNorm", "layer_norm", "layer_norm of a size"))
def whole_norm(d: int, x: Shape, kind: str) -> nn.Module:
    """Over channels and space."""
    if kind in ("LayerNorm", "RMSNorm"):
        return getattr(nn, kind)(x[1:])
    return Apply(lambda y: F.layer_norm(y, y.shape[1:] if kind.endswith("size") else x[1:]))


@op("map", name=tuple(spellings.REDUCTIONS), dim=(1, 2))
def reduction(d: int, x: Shape, name: str, dim: int) -> nn.Module:
    """What all channels (or all places) have in common goes back to each of them."""
    return Apply(lambda x: x - 0.1 * spellings.reduced(name, x, dim))


@op("map", name=tuple(spellings.ALONG), dim=(1, 2))
def along_a_dim(d: int, x: Shape, name: str, dim: int) -> nn.Module | None:
    """Sorts, running sums and the like, along the channels or in space."""
    return Apply(lambda x: x + 0.1 * spellings.along(name, x.detach(), dim)) if x[dim] > 1 else None


@op("map")
def spatial_attention(d: int, x: Shape) -> nn.Module:
    """CBAM: a map from the mean and the largest of all channels."""

    def run(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * m.conv(both).sigmoid()

    return Apply(run, conv=by_dims("Conv", d)(2, 1, 3, padding=1))


@op("map", shared=(False, True))
def prelu(d: int, x: Shape, shared: bool) -> nn.Module:
    return nn.PReLU(1 if shared else x[1])


@op("map", kind=("softmax", "log_softmax", "cumsum", "cumprod", "softmin", "normalize", "local_response_norm",
                 "LocalResponseNorm", "Softmax", "LogSoftmax", "Softmin", "Softmax2d"),
    space=("method", "torch", "functional"))  # fmt: skip
def across_channels(d: int, x: Shape, kind: str, space: str) -> nn.Module | None:
    if kind == "LocalResponseNorm":
        return nn.LocalResponseNorm(3)
    if kind == "Softmax2d":
        return nn.Softmax2d() if d == 2 else None
    if kind[0] == "S" or kind == "LogSoftmax":
        return getattr(nn, kind)(dim=1)
    if kind == "local_response_norm":
        return Apply(lambda x: F.local_response_norm(x, 3)) if d < 3 else None
    owner = {"method": Tensor, "torch": torch, "functional": F}[space]
    if not hasattr(owner, kind):
        return None
    return Apply(lambda x: getattr(x, kind)(dim=1) if owner is Tensor else getattr(owner, kind)(x, dim=1))


# element-wise


def method(name: str) -> Callable[..., Tensor]:
    return lambda x, *others: getattr(x, name)(*others)


def in_place(name: str) -> Callable[..., Tensor]:
    """On a copy, since other operators may read the value too."""
    return lambda x, *others: getattr(x.clone(), name)(*others)


def by_positive(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: function(x, y.abs() + 1.0)


def by_comparison(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: x * function(x, y)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(F, name)
    for name in ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign",
                 "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "sigmoid", "tanh", "tanhshrink", "softshrink",
                 "hardshrink", "rrelu")
} | {
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: torch.relu_(x + 1.0),
    "torch.sigmoid": torch.sigmoid,
    "torch.tanh": torch.tanh,
    "operator.abs": operator.abs,
    "operator.neg": operator.neg,
    "operator.pos": operator.pos,
    **{f"dropout{d}": partial(getattr(F, f"dropout{d}"), p=0.5, training=False) for d in ("", "1d", "2d", "3d")},
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5),
}  # fmt: skip
MODULES: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in ("Identity", "ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus",
                 "Softsign", "Hardtanh", "Hardswish", "Hardsigmoid", "LogSigmoid", "Sigmoid", "Tanh", "Tanhshrink",
                 "Softshrink", "Hardshrink", "RReLU", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout",
                 "FeatureAlphaDropout")
} | {
    "Threshold": lambda: nn.Threshold(0.1, 0.0),
    "StochasticDepth": lambda: torchvision.ops.StochasticDepth(0.5, "row"),
}  # fmt: skip
METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: method(name) for name in
       ("relu", "sigmoid", "tanh", "abs", "neg", "square", "sin", "cos", "erf", "sign", "round", "floor", "ceil",
        "clone", "contiguous", "nan_to_num", "double", "cpu")},
    **{name: in_place(name) for name in ("relu_", "sigmoid_", "tanh_")},
    "float": lambda x: x.float().double(),
    "half": lambda x: x.half().double(),
    "bfloat16": lambda x: x.bfloat16().to(torch.float64),
    "type": lambda x: x.type(torch.float64),
    "type_as": lambda x: x.float().type_as(x),
    "detach": lambda x: x + x.detach(),
    "requires_grad_": lambda x: x + x.detach().requires_grad_(False),
    "int": lambda x: x + x.int(),
    "long": lambda x: x + x.long(),
    "bool": lambda x: x.masked_fill((x > 0.5).bool(), 0.1),
    "fill_": lambda x: x + x.clone().fill_(0.5),
    "zero_": lambda x: x + x.clone().zero_(),
    "logical_not": lambda x: x * x.logical_not(),
    "isnan": lambda x: x.masked_fill(x.isnan(), 0.0),
    "masked_fill_": lambda x: x.clone().masked_fill_(x < 0, 0.5),
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    "clamp_": lambda x: x.clone().clamp_(-1.0),
    "clip": lambda x: x.clip(-1.0, 1.0),
    "clamp_min": lambda x: x.clamp_min(-1.0),
    "clamp_max": lambda x: x.clamp_max(1.0),
}  # fmt: skip
LIKE = {name: getattr(torch, name) for name in ("zeros_like", "ones_like", "rand_like", "randn_like")} | {
    "full_like": lambda x: torch.full_like(x, 0.5),
    "empty_like": lambda x: torch.empty_like(x).zero_(),
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "2 * x": lambda x: 2.0 * x,
    "1 - x": lambda x: 1.0 - x,
    "x / 2 + 1": lambda x: x / 2.0 + 1.0,
    "x ** 2": lambda x: x**2,
    "x % 1": lambda x: x % 1.0,
    "x // 1": lambda x: x + x.detach() // 1.0,
    "torch.pow": lambda x: torch.pow(x, 2),
    "torch.rsub": lambda x: torch.rsub(x, 1.0),
    "torch.clamp": lambda x: torch.clamp(x, -1.0, 1.0),
    "torch.clip": lambda x: torch.clip(x, -1.0, 1.0),
    "torch.floor_divide": lambda x: x + torch.floor_divide(x.detach(), 0.5),
    "torch.isnan": lambda x: torch.where(torch.isnan(x), x, x * 0.5),
    "torch.logical_not": lambda x: x * torch.logical_not(x),
    "invert": lambda x: torch.where(~(x > 0), x * 0.5, x),
    "pow": lambda x: x.pow(2),
    "pow_": lambda x: x.clone().pow_(2),
    "x.add(2)": lambda x: x.add(2.0),
    # of which every outcome is the same
    "torch.randint": lambda x: x * torch.randint(2, 3, (1,)),
    "torch.randperm": lambda x: x + torch.randperm(1),
    "torch.normal": lambda x: x + torch.normal(0.5, 0.0, (1,)),
    "torch.normal of x": lambda x: x + torch.normal(x.detach(), 0.0),
}


@op("any", name=tuple(ACTIVATIONS))
def activation(d: int, x: Shape, name: str) -> nn.Module | None:
    fits = {"dropout1d": len(x) == 3, "dropout2d": len(x) == 4, "dropout3d": len(x) == 5}
    return Apply(ACTIVATIONS[name]) if fits.get(name, True) else None


@op("any", name=tuple(MODULES))
def activation_module(d: int, x: Shape, name: str) -> nn.Module | None:
    fits = {"Dropout1d": len(x) == 3, "Dropout2d": len(x) == 4, "Dropout3d": len(x) == 5}
    return MODULES[name]() if fits.get(name, True) else None


@op("any", name=tuple(METHODS))
def activation_method(d: int, x: Shape, name: str) -> nn.Module:
    return Apply(METHODS[name])


@op("any", name=tuple(spellings.UNARY))
def elementwise(d: int, x: Shape, name: str) -> nn.Module:
    domain, run = spellings.UNARY[name]
    given = spellings.DOMAINS[domain]
    return Apply(lambda x: x + 0.1 * run(given(x.detach())))  # in place, some have no derivative


@op("any", "same", name=tuple(spellings.BINARY))
def elementwise_of_two(d: int, x: Shape, y: Shape, name: str) -> nn.Module:
    domain, run = spellings.BINARY[name]
    given = spellings.DOMAINS[domain]
    return Apply(lambda x, y: x + 0.1 * run(given(x.detach()), given(y.detach())))


@op("any", name=tuple(LIKE))
def like(d: int, x: Shape, name: str) -> nn.Module:
    return Apply(lambda x: x + LIKE[name](x) * 0.0)


@op("any", name=tuple(NUMBERS))
def with_number(d: int, x: Shape, name: str) -> nn.Module:
    return Apply(NUMBERS[name])


@op("map")
def checked(d: int, x: Shape) -> nn.Module:
    """Assertions, and numbers that forward asks a tensor for."""

    def run(y: Tensor) -> Tensor:
        torch._assert(y.dim() == len(x), "a map")
        if not y.is_floating_point() or y.is_complex() or not y.is_signed() or y.ndimension() != len(x):
            return y
        if y.element_size() != 8 or not y.is_contiguous() or y.stride(-1) != 1 or torch.numel(y) != y.nelement():
            y = y.contiguous()
        scale = y.ndimension() * y.element_size() * y.is_contiguous()
        return y.flatten(y.dim() - 1).unflatten(-1, (y.shape[-1],)) / (y.numel() // (y.nelement() // 2)) * scale

    return Apply(run)


@op("any", name=COMPARISONS, kind=("operator", "function", "method"))
def compare(d: int, x: Shape, name: str, kind: str) -> nn.Module:
    def run(x: Tensor) -> Tensor:
        if kind == "method":
            return x * getattr(x, name)(0.5)
        return x * getattr(torch if kind == "function" else operator, name)(x, 0.5)

    return Apply(run)


# two values of one shape

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul")},
    **{f"torch.{name}": getattr(torch, name) for name in
       ("add", "sub", "mul", "multiply", "maximum", "minimum", "atan2", "fmod")},
    **{name: method(name) for name in ("add", "sub", "mul", "maximum", "minimum")},
    **{name: in_place(name) for name in ("add_", "sub_", "mul_", "copy_")},
    **{f"torch.{name}": by_positive(getattr(torch, name)) for name in ("div", "true_divide")},
    **{name: by_positive(method(name)) for name in ("div", "true_divide")},
    "div_": lambda x, y: x.clone().div_(y.abs() + 1.0),
    "x / y": lambda x, y: x / (y.abs() + 1.0),
    "torch.where": lambda x, y: torch.where(x > 0, x, y),
    "where": lambda x, y: x.where(y > 0, y),
    "torch.lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "lerp": lambda x, y: x.lerp(y, 0.25),
    "torch.addcmul": lambda x, y: torch.addcmul(x, x, y),
    "addcmul": lambda x, y: x.addcmul(x, y),
    "torch.max": lambda x, y: torch.max(x, y),
    "torch.min": lambda x, y: torch.min(x, y),
    "x.max": lambda x, y: x.max(y),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 0.0),
    "and": lambda x, y: x * ((x > 0) & (y > 0)),
    "or": lambda x, y: x * ((x > 0) | (y > 0)),
    "torch.logical_and": lambda x, y: x * torch.logical_and(x, y),
    "torch.logical_or": lambda x, y: x * torch.logical_or(x, y),
    "logical_and": lambda x, y: x * x.logical_and(y),
    "logical_or": lambda x, y: x * x.logical_or(y),
    "expand_as": lambda x, y: x + y.expand_as(x),
    **{f"x {name} y": by_comparison(getattr(operator, name)) for name in COMPARISONS},
    **{f"torch.{name}": by_comparison(getattr(torch, name)) for name in COMPARISONS},
    "where >": lambda x, y: torch.where(x > y, x, y * 0.5),
    "x * scalar": lambda x, y: x * y.mean(),
    "sum()": lambda x, y: sum([x, y, x]),
    "x += y": lambda x, y: operator.iadd(x.clone(), y),
    "x * y.relu_()": lambda x, y: x * y.clone().relu_(),
    "view_as": lambda x, y: x + y.view_as(x),
    "reshape_as": lambda x, y: x + y.reshape_as(x),
}  # fmt: skip


@op("any", "same", name=tuple(BINARY))
def binary(d: int, x: Shape, y: Shape, name: str) -> nn.Module:
    return Apply(BINARY[name])


@op("any", "same")
def residual(d: int, x: Shape, y: Shape) -> nn.Module:
    return Apply(lambda x, y: x + y)


@op(
    "any", "same", kind=("other layers", "layers behind one another", "other operators", "one more operand", "in place")
)
def by_training(d: int, x: Shape, y: Shape, kind: str) -> nn.Module:
    """Train and eval mode take different paths."""

    def other(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return m.a(x) + y if m.training else y * m.b(x)

    def behind(m: Any, x: Tensor, y: Tensor) -> Tensor:
        for layer in (m.a, m.c) if m.training else (m.b, m.d):
            x = layer(x).relu() * 0.5
        return x + y

    def operators(m: Any, x: Tensor, y: Tensor) -> Tensor:
        x = m.act(x)
        return torch.cat([x, y], 1) if m.training else torch.cat([x * 2, y - 1], 1)

    def operand(m: Any, x: Tensor, y: Tensor) -> Tensor:
        z = m.a(x) * 0.5
        return z + y if m.training else z

    def in_place(m: Any, x: Tensor, y: Tensor) -> Tensor:
        z = m.act(x) + 1
        return (z.mul_(2) if m.training else z) + y

    runs = {"other layers": other, "layers behind one another": behind, "other operators": operators}
    runs |= {"one more operand": operand, "in place": in_place}

    def make(inputs: int, outputs: int) -> nn.Module:
        layer: nn.Module = nn.Linear(inputs, outputs) if len(x) == 2 else by_dims("Conv", d)(inputs, outputs, 1)
        return layer

    a, b = make(x[1], y[1]), make(x[1], y[1])
    chain = {"a": make(x[1], 4), "b": make(x[1], 4), "c": make(4, y[1]), "d": make(4, y[1])}
    layers = {"other layers": {"a": a, "b": b}, "layers behind one another": chain, "one more operand": {"a": a}}
    return Apply(runs[kind], **layers.get(kind, {"act": nn.ReLU()}))


@op("map", "smaller", name=("operator.add", "operator.mul", "torch.maximum"))
def broadcast(d: int, x: Shape, y: Shape, name: str) -> nn.Module:
    return Apply(BINARY[name])


@op("map", "vector", kind=("view", "index", "unsqueeze", "expand"))
def gate_by_vector(d: int, x: Shape, y: Shape, kind: str) -> nn.Module | None:
    """A map is scaled by a vector with as many channels."""
    ones = [1] * d

    def run(x: Tensor, v: Tensor) -> Tensor:
        forms: dict[str, Callable[[], Tensor]] = {
            "view": lambda: v.view(v.size(0), v.size(1), *ones),
            "index": lambda: v[(..., *[None] * d)],
            "unsqueeze": lambda: v.unsqueeze(-1) if d == 1 else v.unsqueeze(-1).unsqueeze(-1),
            "expand": lambda: v.reshape(*v.shape, *ones).expand_as(x),
        }
        return x * forms[kind]()

    return Apply(run) if x[:2] == y[:2] and (d < 3 or kind != "unsqueeze") else None


@op("vector", "vector")
def cat_vectors(d: int, x: Shape, y: Shape) -> nn.Module:
    return Apply(lambda x, y: torch.cat([x, y], -1))


@op("vector")
def gated_vector(d: int, x: Shape) -> nn.Module | None:
    """A gated linear unit."""

    def run(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * gate.sigmoid()

    return Apply(run) if x[1] % 2 == 0 else None


@op("map", "same")
def select_branches(d: int, x: Shape, y: Shape) -> nn.Module:
    """SKNet: branches are weighted by a softmax over the branches."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        both = torch.stack([x, y], 1)
        weights = both.mean(tuple(range(3, d + 3)), keepdim=True).softmax(1)
        return (both * weights).sum(1)

    return Apply(run)


@op("map", width=WIDTHS)
def squeeze_excite(d: int, x: Shape, width: int) -> nn.Module:
    pool = by_dims("AdaptiveAvgPool", d)(1)
    down, up = by_dims("Conv", d)(x[1], width, 1), by_dims("Conv", d)(width, x[1], 1)
    return Apply(lambda m, x: x * m.up(m.down(m.pool(x)).relu()).sigmoid(), pool=pool, down=down, up=up)


@op("map")
def spatial_gate(d: int, x: Shape) -> nn.Module:
    return Apply(lambda m, x: x * m.conv(x).sigmoid(), conv=by_dims("Conv", d)(x[1], 1, 1))


@op("map", kind=("scale", "scale of a batch", "offset", "norm"))
def layer_scale(d: int, x: Shape, kind: str) -> nn.Module:
    ones = [1] * d
    if kind == "scale":
        return Apply(lambda weight, x: x * weight, parameter=(x[1], *ones))
    if kind == "norm":  # global response norm
        dims = tuple(range(2, d + 2))
        return Apply(lambda weight, x: x + weight * x * x.norm(2, dims, keepdim=True), parameter=(1, x[1], *ones))
    run = operator.mul if kind == "scale of a batch" else operator.add
    return Apply(lambda weight, x: run(x, weight), parameter=(1, x[1], *ones))


@op("map")
def position_embedding(d: int, x: Shape) -> nn.Module:
    return Apply(lambda weight, x: x + weight, parameter=(1, *x[1:]))


# layers of other kinds


@op("map", hidden=WIDTHS, kind=("RNN", "GRU", "LSTM"), layers=(1, 2), both=(False, True))
def recurrent(d: int, x: Shape, hidden: int, kind: str, layers: int, both: bool) -> nn.Module | None:
    """Positions in a row; the channels of all states go on."""
    if math.prod(x[2:]) > 64:
        return None
    rnn = getattr(nn, kind)(x[1], hidden, layers, batch_first=True, bidirectional=both)

    def run(m: Any, y: Tensor) -> Tensor:
        return m.rnn(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(y.shape[0], -1, *x[2:])

    return Apply(run, rnn=rnn)


@op("vector", hidden=WIDTHS, kind=("RNNCell", "GRUCell", "LSTMCell"))
def recurrent_cell(d: int, x: Shape, hidden: int, kind: str) -> nn.Module:
    """One step, from a state of zeros."""

    def run(m: Any, v: Tensor) -> Tensor:
        state = m.cell(v)
        return state[0] if kind == "LSTMCell" else state

    return Apply(run, cell=getattr(nn, kind)(x[1], hidden))


@op("map", function=(False, True))
def embedded(d: int, x: Shape, function: bool) -> nn.Module:
    """A vector for each sign of the mean, with as many channels as the map."""
    run = F.embedding if function else None

    def look_up(m: Any, y: Tensor) -> Tensor:
        index = (y.mean(tuple(range(1, d + 2))) > 0).long()
        found = run(index, m.table.weight) if run is not None else m.table(index)
        return y + found[(..., *[None] * d)]

    return Apply(look_up, table=nn.Embedding(3, x[1]))


@op("map", kind=("one_hot", "bucketize"))
def by_class(d: int, x: Shape, kind: str) -> nn.Module:
    """A number for each sample, from the class it is in."""

    def run(y: Tensor) -> Tensor:
        v = y.mean(tuple(range(1, d + 2)))
        if kind == "one_hot":
            v = F.one_hot((v > 0).long(), 2).sum(1)
        else:
            v = torch.bucketize(v, torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64))
        return y * v.view(-1, *[1] * (d + 1))

    return Apply(run)


@op("map", width=WIDTHS, kind=("Conv", "ConvTranspose"), steps=(1, 2))
def spectrally_normed(d: int, x: Shape, width: int, kind: str, steps: int) -> nn.Module:
    """A convolution whose largest singular value is kept at 1."""
    return nn.utils.parametrizations.spectral_norm(by_dims(kind, d)(x[1], width, 1), n_power_iterations=steps)


@op("map", width=WIDTHS, kind=("weight_norm", "old weight_norm"))
def weight_normed(d: int, x: Shape, width: int, kind: str) -> nn.Module:
    """A parametrized convolution."""
    return nn.utils.parametrizations.weight_norm(by_dims("Conv", d)(x[1], width, 1))


@op("map", width=WIDTHS, mask=(False, True))
def deformable(d: int, x: Shape, width: int, mask: bool) -> nn.Module | None:
    if d != 2:
        return None
    layers = {"offset": nn.Conv2d(x[1], 18, 3, padding=1)} | (
        {"mask": nn.Conv2d(x[1], 9, 3, padding=1)} if mask else {}
    )
    deform = torchvision.ops.DeformConv2d(x[1], width, 3, padding=1)
    return Apply(lambda m, x: m.deform(x, m.offset(x), m.mask(x) if mask else None), **layers, deform=deform)


@op("map", "same", kind=("CosineSimilarity", "cosine_similarity", "PairwiseDistance", "pairwise_distance"))
def similarity(d: int, x: Shape, y: Shape, kind: str) -> nn.Module:
    """How alike two maps are at each place, or over it."""
    if kind == "CosineSimilarity":
        return Apply(lambda m, x, y: x * m.alike(x, y).unsqueeze(1), alike=nn.CosineSimilarity(1))
    if kind == "PairwiseDistance":
        return Apply(lambda m, x, y: x * m.alike(x, y).unsqueeze(-1), alike=nn.PairwiseDistance())
    if kind == "cosine_similarity":
        return Apply(lambda x, y: x * F.cosine_similarity(x, y, dim=1).unsqueeze(1))
    return Apply(lambda x, y: x * F.pairwise_distance(x, y).unsqueeze(-1))


LOSSES: dict[str, Callable[..., Any]] = {
    **{name: getattr(F, name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss")},
    "soft_margin_loss": lambda x, y, **options: F.soft_margin_loss(x, y.detach().sign(), **options),
    "kl_div": lambda x, y, reduction: F.kl_div(x, y.sigmoid(), reduction=reduction.replace("mean", "batchmean")),
    "binary_cross_entropy": lambda x, y, **options: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), **options),
    "binary_cross_entropy_with_logits": lambda x, y, **options: F.binary_cross_entropy_with_logits(
        x, y.sigmoid(), **options
    ),
}


@op("map", "same", name=tuple(LOSSES), reduction=("none", "mean", "sum"))
def loss(d: int, x: Shape, y: Shape, name: str, reduction: str) -> nn.Module:
    """What a loss says of two maps, at each element or of them all."""
    return Apply(lambda x, y: x + LOSSES[name](x, y, reduction=reduction))


@op("map", "same")
def nearest(d: int, x: Shape, y: Shape) -> nn.Module:
    """How far the features at each place are from the nearest ones of another map."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        rows, others = (z.flatten(2).transpose(1, 2) for z in (x, y))
        # by products, as torch computes most distances, that from itself is not 0, and its root far from it
        distances = torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")
        return x * distances.amin(2).view(x.shape[0], 1, *x.shape[2:])

    return Apply(run)


@op("map", "same", kind=("GLU", "CrossMapLRN2d"))
def gated(d: int, x: Shape, y: Shape, kind: str) -> nn.Module | None:
    if kind == "GLU":
        return Apply(lambda m, x, y: m.glu(torch.cat([x, y], 1)), glu=nn.GLU(1))
    return Apply(lambda m, x, y: m.norm(x) + y, norm=nn.CrossMapLRN2d(3)) if d == 2 else None


@op("map", kind=("MaxPool", "MaxPool conv", "max_pool", "adaptive_max_pool"))
def pool_and_unpool(d: int, x: Shape, kind: str) -> nn.Module | None:
    """The largest values, or what a convolution makes of them, back at their places."""
    if any(n % 2 for n in x[2:]) or min(x[2:]) < 2:
        return None
    pool, unpool = by_dims("MaxPool", d)(2, return_indices=True), by_dims("MaxUnpool", d)(2)
    function, back = by_dims("adaptive_max_pool" if kind[0] == "a" else "max_pool", d), by_dims("max_unpool", d)

    middle = by_dims("Conv", d)(x[1], x[1], 1) if kind == "MaxPool conv" else nn.Identity()

    def run(m: Any, y: Tensor) -> Tensor:
        if kind.startswith("MaxPool"):
            values, places = m.pool(y)
            return m.unpool(m.middle(values), places)
        size = [n // 2 for n in x[2:]] if kind[0] == "a" else 2
        values, places = function(y, size, return_indices=True)
        return back(values, places, 2)

    return Apply(run, pool=pool, unpool=unpool, middle=middle)


@op("map", kind=("grid_sample", "upsample_nearest", "upsample_bilinear"))
def sampled(d: int, x: Shape, kind: str) -> nn.Module | None:
    if d != 2:
        return None

    def run(y: Tensor) -> Tensor:
        theta = torch.eye(2, 3, dtype=y.dtype).expand(y.shape[0], 2, 3)
        return F.grid_sample(y, F.affine_grid(theta, [y.shape[0], 1, *x[2:]], False), align_corners=False)

    if kind.startswith("upsample"):
        up = nn.UpsamplingNearest2d if kind.endswith("nearest") else nn.UpsamplingBilinear2d
        return up(scale_factor=2)
    return Apply(run)


# space


@op("map", kind=("MaxPool", "AvgPool", "LPPool"), function=(False, True))
def pool(d: int, x: Shape, kind: str, function: bool) -> nn.Module | None:
    if min(x[2:]) < 2:
        return None
    norm = (2,) if kind == "LPPool" else ()
    if not function:
        return by_dims(kind, d)(*norm, 2)
    name = {"MaxPool": "max_pool", "AvgPool": "avg_pool", "LPPool": "lp_pool"}[kind]
    return Apply(lambda x: by_dims(name, d)(x, *norm, 2))


@op("map", kind=("Avg", "Max"), size=(1, 2), function=(False, True))
def adaptive_pool(d: int, x: Shape, kind: str, size: int, function: bool) -> nn.Module:
    if not function:
        return by_dims(f"Adaptive{kind}Pool", d)(size)
    return Apply(lambda x: by_dims(f"adaptive_{kind.lower()}_pool", d)(x, size))


@op("map", kind=("Upsample", "interpolate", "UpsamplingNearest2d", "UpsamplingBilinear2d"))
def upsample(d: int, x: Shape, kind: str) -> nn.Module | None:
    if kind == "Upsample":
        return nn.Upsample(scale_factor=2)
    if kind == "interpolate":
        return Apply(lambda x: F.interpolate(x, scale_factor=2))
    return getattr(nn, kind)(scale_factor=2) if d == 2 else None


@op("map", kind=("ReflectionPad", "ReplicationPad", "ConstantPad", "ZeroPad", "CircularPad", "pad"))
def pad_space(d: int, x: Shape, kind: str) -> nn.Module | None:
    if min(x[2:]) < 2:
        return None
    if kind == "pad":
        return Apply(lambda x: F.pad(x, (1, 0)))
    return by_dims(kind, d)(1, 0.5) if kind == "ConstantPad" else by_dims(kind, d)(1)


@op("map", low=(0, 1), high=(2, 0))
def pad_channels(d: int, x: Shape, low: int, high: int) -> nn.Module:
    return Apply(lambda x: F.pad(x, (*[0, 0] * d, low, high)))


@op("map", kind=("roll", "flip", "torch.roll", "torch.flip", "slice", "narrow", "select", "torch.narrow", "unbind",
                 "rot90", "torch.rot90", "fliplr", "torch.fliplr", "flipud", "torch.flipud", "tril", "torch.tril",
                 "triu", "torch.triu", "tril_", "triu_", "unfold", "vsplit", "torch.vsplit", "dsplit",
                 "torch.dsplit"))  # fmt: skip
def move_in_space(d: int, x: Shape, kind: str) -> nn.Module | None:
    if d == 1 and "tri" in kind:  # works along the channels, which freezes them
        return None
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "roll": lambda x: x.roll(1, 2),
        "flip": lambda x: x.flip(2),
        "torch.roll": lambda x: torch.roll(x, 1, 2),
        "torch.flip": lambda x: torch.flip(x, [2]),
        "slice": lambda x: x[:, :, ::2] if d == 1 else x[..., ::2],
        "narrow": lambda x: x.narrow(2, 0, 1),
        "torch.narrow": lambda x: torch.narrow(x, 2, 0, 1),
        "select": lambda x: x.select(2, 0).unsqueeze(2) + torch.select(x, 2, 0).unsqueeze(2),
        "unbind": lambda x: torch.unbind(x, 2)[0].unsqueeze(2) + x.unbind(2)[0].unsqueeze(2),
        "rot90": lambda x: x.rot90(2, (-2, -1)),
        "torch.rot90": lambda x: torch.rot90(x, 2, [-2, -1]),
        "fliplr": lambda x: x.fliplr(),
        "torch.fliplr": lambda x: torch.fliplr(x),
        "flipud": lambda x: x.flipud(),
        "torch.flipud": lambda x: torch.flipud(x),
        **{name: method(name) for name in ("tril", "triu")},
        **{name: in_place(name) for name in ("tril_", "triu_")},
        **{f"torch.{name}": getattr(torch, name) for name in ("tril", "triu")},
        "unfold": lambda x: x.unfold(2, 1, 1).mean(-1),
        "vsplit": lambda x: torch.cat(x.vsplit(2)[::-1], 0),
        "torch.vsplit": lambda x: torch.vstack(torch.vsplit(x, 2)),
        "dsplit": lambda x: torch.cat(x.dsplit(1), 2),
        "torch.dsplit": lambda x: torch.dstack(torch.dsplit(x, 1)),
    }
    return Apply(runs[kind])


@op("map", kind=("mean", "sum", "amax", "amin", "torch.mean", "torch.sum", "torch.amax", "torch.amin", "logsumexp",
                 "torch.logsumexp", "std", "var", "torch.std", "torch.var", "norm", "torch.norm"))  # fmt: skip
def mean(d: int, x: Shape, kind: str) -> nn.Module | None:
    """Over space, to length 1."""
    if math.prod(x[2:]) < 2:
        return None
    name = kind.rpartition(".")[2]
    norm = (2,) if name == "norm" else ()
    dims = tuple(range(2, d + 2))
    if kind.startswith("torch"):
        return Apply(lambda x: getattr(torch, name)(x, *norm, dim=dims, keepdim=True))
    return Apply(lambda x: getattr(x, name)(*norm, dim=dims, keepdim=True))


@op("map", "map")
def resize_to(d: int, x: Shape, y: Shape) -> nn.Module:
    """FPN: to the space of another map."""
    return Apply(lambda x, y: F.interpolate(x, size=y.shape[2:]))


@op("map")
def shift_in_batch(d: int, x: Shape) -> nn.Module:
    """Samples change places; so do some of their channels (TSM, with all channels)."""
    return Apply(lambda x: torch.cat([x[1:], torch.zeros_like(x[:1])], 0) + torch.cat(x.chunk(2, 0)[::-1], dim=0))


@op("map", kind=("flatten", "view"))
def spatial_linear(d: int, x: Shape, kind: str) -> nn.Module | None:
    """MLP-Mixer: a linear layer along the positions, whose number stays."""
    size = math.prod(x[2:])

    def run(m: Any, y: Tensor) -> Tensor:
        z = y.flatten(2) if kind == "flatten" else y.view(y.shape[0], y.shape[1], -1)
        return m.linear(z).view_as(y) if kind == "flatten" else m.linear(z).reshape(y.size())

    return Apply(run, linear=nn.Linear(size, size)) if size <= 64 else None


@op("map")
def mean_vector(d: int, x: Shape) -> nn.Module:
    return Apply(lambda x: x.mean(tuple(range(2, d + 2))))


@op("map", module=(False, True))
def flatten(d: int, x: Shape, module: bool) -> nn.Module | None:
    if math.prod(x[1:]) > 256:
        return None
    return nn.Flatten() if module else Apply(lambda x: torch.flatten(x, 1))


@op("map", width=WIDTHS, kind=("reshape", "literal", "flatten", "sizes", "numel", "channels last"))
def flatten_and_linear(d: int, x: Shape, width: int, kind: str) -> nn.Module | None:
    size = math.prod(x[1:])
    if size > 256:
        return None
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "reshape": lambda y: y.reshape(y.shape[0], -1),
        "literal": lambda y: y.reshape(-1, size),
        "flatten": lambda y: y.flatten(start_dim=1),
        "sizes": lambda y: y.reshape(y.size(0), y.size(1) * math.prod(x[2:])),
        "numel": lambda y: y.contiguous().view(y.size(0), y.numel() // y.size(0)),
        "channels last": lambda y: y.movedim(1, -1).flatten(1),
    }
    return Apply(lambda m, y: m.linear(forms[kind](y)), linear=nn.Linear(size, width))


@op("vector", kind=("unsqueeze", "view", "index", "torch.unsqueeze"))
def to_map(d: int, x: Shape, kind: str) -> nn.Module:
    def run(x: Tensor) -> Tensor:
        if kind == "view":
            return x.view(x.size(0), x.size(1), *[1] * d)
        if kind == "index":
            return x[(slice(None), slice(None), *[None] * d)]
        for _ in range(d):
            x = torch.unsqueeze(x, -1) if kind.startswith("torch") else x.unsqueeze(-1)
        return x

    return Apply(run)


@op("vector", channels=(4, 6))
def linear_to_map(d: int, x: Shape, channels: int) -> nn.Module:
    return Apply(lambda m, x: m.linear(x).view(-1, channels, *[2] * d), linear=nn.Linear(x[1], channels * 2**d))


# joining and cutting channels


@op("map", "aligned", name=("cat", "concat", "concatenate", "hstack", "column_stack"))
def cat(d: int, x: Shape, y: Shape, name: str) -> nn.Module:
    if "stack" in name:
        return Apply(lambda x, y: getattr(torch, name)([x, y]))
    return Apply(lambda x, y: getattr(torch, name)([x, y], dim=1))


@op("map", "aligned", "aligned")
def cat3(d: int, x: Shape, y: Shape, z: Shape) -> nn.Module:
    return Apply(lambda x, y, z: torch.cat((x, y, z), 1))


@op("map")
def cat_twice(d: int, x: Shape) -> nn.Module:
    return Apply(lambda x: torch.cat([x, x], 1))


@op("map", kind=("repeat", "tile", "torch.tile"))
def repeat(d: int, x: Shape, kind: str) -> nn.Module:
    counts = (1, 2, *[1] * d)
    runs = {"repeat": lambda x: x.repeat(*counts), "tile": lambda x: x.tile(counts)}
    return Apply(runs.get(kind) or (lambda x: torch.tile(x, counts)))


@op("map", "same", name=("cat", "dstack", "row_stack"))
def cat_in_space(d: int, x: Shape, y: Shape, name: str) -> nn.Module:
    runs: dict[str, Callable[..., Tensor]] = {
        "cat": lambda x, y: torch.cat([x, y], 2),
        "dstack": lambda x, y: torch.dstack([x, y]),
        "row_stack": lambda x, y: torch.row_stack([x, y])[: len(x)],
    }
    return Apply(runs[name])


@op("map", "same", dim=(0, 1, 2))
def stack_and_sum(d: int, x: Shape, y: Shape, dim: int) -> nn.Module:
    return Apply(lambda x, y: torch.stack([x, y], dim).sum(dim))


@op("map", "same")
def interleave(d: int, x: Shape, y: Shape) -> nn.Module:
    return Apply(lambda x, y: torch.stack([x, y], dim=2).flatten(1, 2))


@op("map", "same", width=WIDTHS, width_b=WIDTHS)
def conv_plus_cat(d: int, x: Shape, y: Shape, width: int, width_b: int) -> nn.Module:
    """A concatenation that is summed with a convolution's output."""
    conv = by_dims("Conv", d)
    layers = {"a": conv(x[1], width, 1), "b": conv(x[1], width_b, 1), "c": conv(x[1], width + width_b, 1)}
    return Apply(lambda m, x, y: torch.cat([m.a(x), m.b(y)], 1) + m.c(x), **layers)


@op("map", "same", width=WIDTHS, width_b=WIDTHS)
def cat_plus_cat(d: int, x: Shape, y: Shape, width: int, width_b: int) -> nn.Module:
    """Two concatenations are summed; their boundaries are elsewhere."""
    if width == width_b:
        return None
    conv = by_dims("Conv", d)
    layers = {
        name: conv(x[1], size, 1)
        for name, size in zip("abcd", (width, width_b, width_b, width), strict=True)
    }  # fmt: skip
    return Apply(lambda m, x, y: torch.cat([m.a(x), m.b(y)], 1) + torch.cat([m.c(x), m.d(y)], 1), **layers)


@op("map", "same", width=WIDTHS, width_b=WIDTHS)
def nested_cats(d: int, x: Shape, y: Shape, width: int, width_b: int) -> nn.Module:
    """A concatenation within another one, summed with a convolution, twice in a row."""
    conv = by_dims("Conv", d)
    layers = {"a": conv(x[1], width, 1), "b": conv(x[1], width_b, 1), "c": conv(x[1], width + width_b + x[1], 1)}

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        inner = torch.cat([m.a(x), m.b(y)], 1)
        return torch.cat([inner, y], 1) + m.c(x)

    return Apply(run, **layers)


@op("map")
def zero_shortcut(d: int, x: Shape) -> nn.Module:
    """ResNet's shortcut A: the missing channels are zeros."""
    return Apply(lambda x: torch.cat([x, torch.zeros_like(x)], 1))


@op("map")
def space_to_channels(d: int, x: Shape) -> nn.Module | None:
    """YOLO's Focus, along the last dim."""
    return Apply(lambda x: torch.cat([x[..., ::2], x[..., 1::2]], 1)) if x[-1] % 2 == 0 else None


@op("map", at=(1, 2, 3), kind=("swap", "overlap", "negative", "three", "difference"))
def reorder_slices(d: int, x: Shape, at: int, kind: str) -> nn.Module | None:
    if at + 1 >= x[1]:
        return None
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "swap": lambda y: torch.cat([y[:, at:], y[:, :at]], 1),
        "overlap": lambda y: torch.cat([y[:, : at + 1], y[:, at:]], 1),
        "negative": lambda y: torch.cat([y[:, -at:], y[:, :-at]], 1),
        "three": lambda y: torch.cat(y.split([at, 1, x[1] - at - 1], 1)[::-1], 1),
        "difference": lambda y: y[:, at:] - y[:, :-at],
    }
    return Apply(runs[kind])


@op("map", kind=("slices", "split", "swap", "where"))
def computed_halves(d: int, x: Shape, kind: str) -> nn.Module | None:
    """Halves whose length is computed from the size."""

    def run(y: Tensor) -> Any:
        half = y.size(1) // 2
        if kind == "split":
            return torch.split(y, [half, y.size(1) - half], 1)
        a, b = y[:, :half], y[:, half:]
        return torch.cat([b, a], 1) if kind == "swap" else torch.where(a > b, a, b) if kind == "where" else (a, b)

    return Apply(run) if x[1] % 2 == 0 else None


@op("map", kind=("values", "amax", "sum", "unbind"))
def maxout(d: int, x: Shape, kind: str) -> nn.Module | None:
    """Pairs of neighbours compete."""

    def run(y: Tensor) -> Tensor:
        pairs = y.view(y.size(0), y.size(1) // 2, 2, *x[2:])
        if kind == "unbind":
            a, b = pairs.unbind(2)
            return torch.maximum(a, b)
        return pairs.max(dim=2).values if kind == "values" else getattr(pairs, kind)(2)

    return Apply(run) if x[1] % 2 == 0 else None


@op("map", "same", width=WIDTHS)
def shared_head(d: int, x: Shape, y: Shape, width: int) -> nn.Module:
    """One layer reads two concatenations."""
    head = by_dims("Conv", d)(2 * x[1], width, 1)
    return Apply(lambda m, x, y: m.head(torch.cat([x, y], 1)) + m.head(torch.cat([y, x], 1)).relu(), head=head)


@op("map", count=divisors, name=("chunk", "torch.chunk", "tensor_split", "torch.tensor_split", "unsafe_chunk",
                                    "torch.unsafe_chunk", "hsplit", "torch.hsplit"))  # fmt: skip
def chunk(d: int, x: Shape, count: int, name: str) -> nn.Module | None:
    if x[1] % count:
        return None
    short = name.rpartition(".")[2]
    if short == "hsplit":
        return Apply(lambda x: torch.hsplit(x, count) if name != short else x.hsplit(count))
    if name.startswith("torch"):
        return Apply(lambda x: getattr(torch, short)(x, count, 1))
    return Apply(lambda x: getattr(x, short)(count, dim=1))


@op("map", count=divisors, name=("split", "unsafe_split", "torch.unsafe_split"))
def split_by_size(d: int, x: Shape, count: int, name: str) -> nn.Module | None:
    if x[1] % count:
        return None
    if name.startswith("torch"):
        return Apply(lambda x: torch.unsafe_split(x, x.shape[1] // count, 1))
    return Apply(lambda x: getattr(x, name)(x.shape[1] // count, 1))


@op("map", first=(1, 2, 3), name=("split", "torch.split", "split_with_sizes", "unsafe_split_with_sizes",
                                      "torch.split_with_sizes", "torch.unsafe_split_with_sizes"))  # fmt: skip
def split_by_list(d: int, x: Shape, first: int, name: str) -> nn.Module | None:
    sizes = [first, x[1] - first]
    if sizes[1] < 1:
        return None
    if name.startswith("torch"):
        return Apply(lambda x: getattr(torch, name.partition(".")[2])(x, sizes, dim=1))
    return Apply(lambda x: getattr(x, name)(sizes, dim=1))


@op("map", kind=("torch.renorm", "renorm", "renorm_"), dim=(0, 1))
def bounded(d: int, x: Shape, kind: str, dim: int) -> nn.Module:
    """Slices that are scaled down to a largest norm."""
    if kind == "torch.renorm":
        return Apply(lambda y: torch.renorm(y, 2, dim, 1.0))
    return Apply(lambda y: getattr(y.clone(), kind)(2, dim, 1.0))


@op("map", name=("torch", "method"), kind=("spectrum", "and back"))
def short_time_spectrum(d: int, x: Shape, name: str, kind: str) -> nn.Module | None:
    """Each channel as a signal of its own."""
    length = math.prod(x[2:])
    if length < 8:
        return None

    def run(y: Tensor) -> Tensor:
        signals, options = y.reshape(-1, length), {"window": torch.ones(4, dtype=y.dtype)}
        if name == "torch":
            z = torch.stft(signals, 4, return_complex=True, **options)
            back = torch.istft(z, 4, length=length, **options)
        else:
            z = signals.stft(4, return_complex=True, **options)
            back = z.istft(4, length=length, **options)
        return back.view_as(y) if kind == "and back" else y * z.abs().mean((1, 2)).view(x[0], -1, *[1] * d)

    return Apply(run)


@op("map", "map", kind=("split", "slice"))
def as_long_as_another(d: int, x: Shape, y: Shape, kind: str) -> nn.Module | None:
    """A convolution writes a piece as wide as another map, and one beside it."""
    if x[2:] != y[2:]:
        return None

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        z, n = m.conv(x), y.shape[1]
        first, rest = z.split((n, 3), 1) if kind == "split" else (z[:, :n], z[:, n:])
        return torch.cat([first * y, rest], 1)

    return Apply(run, conv=by_dims("Conv", d)(x[1], y[1] + 3, 1))


@op("map", count=divisors)
def first_chunk(d: int, x: Shape, count: int) -> nn.Module | None:
    """The other chunks are dropped."""
    return Apply(lambda x: x.chunk(count, 1)[0]) if x[1] % count == 0 else None


@op("map", at=(1, 2, 3), kind=("head", "tail", "both", "narrow"))
def slice_channels(d: int, x: Shape, at: int, kind: str) -> nn.Module | None:
    if at >= x[1]:
        return None
    runs: dict[str, Callable[[Tensor], Any]] = {
        "head": lambda x: x[:, :at],
        "tail": lambda x: x[:, at:],
        "both": lambda x: (x[:, :at], x[:, at:]),
        "narrow": lambda x: x.narrow(1, 0, at),
    }
    return Apply(runs[kind])


@op("map")
def slice_half(d: int, x: Shape) -> nn.Module | None:
    return Apply(lambda x: x[:, : x.shape[1] // 2]) if x[1] % 2 == 0 else None


@op("map")
def every_other(d: int, x: Shape) -> nn.Module | None:
    return Apply(lambda x: (x[:, ::2], x[:, 1::2])) if x[1] % 2 == 0 else None


@op("map", groups=divisors, kind=("literal", "size", "ChannelShuffle", "channel_shuffle", "native"))
def channel_shuffle(d: int, x: Shape, groups: int, kind: str) -> nn.Module | None:
    if x[1] % groups:
        return None
    if kind == "ChannelShuffle":
        return nn.ChannelShuffle(groups)
    if kind == "channel_shuffle":
        return Apply(lambda x: F.channel_shuffle(x, groups))
    if kind == "native":
        return Apply(lambda x: torch.native_channel_shuffle(x.detach(), groups))

    def run(y: Tensor) -> Tensor:
        if kind == "literal":
            return y.view(-1, groups, x[1] // groups, *x[2:]).transpose(1, 2).reshape(-1, x[1], *x[2:])
        n, c = y.size(0), y.size(1)
        return y.view(n, groups, c // groups, *x[2:]).transpose(1, 2).contiguous().view(n, c, *x[2:])

    return Apply(run)


@op("map", kind=("PixelShuffle", "pixel_shuffle"))
def pixel_shuffle(d: int, x: Shape, kind: str) -> nn.Module | None:
    if d != 2 or x[1] % 4:
        return None
    return nn.PixelShuffle(2) if kind == "PixelShuffle" else Apply(lambda x: F.pixel_shuffle(x, 2))


@op("map", kind=("PixelUnshuffle", "pixel_unshuffle", "view"))
def pixel_unshuffle(d: int, x: Shape, kind: str) -> nn.Module | None:
    if d != 2 or x[2] % 2 or x[3] % 2:
        return None
    if kind == "view":

        def run(x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c * 4, h // 2, w // 2)

        return Apply(run)
    return nn.PixelUnshuffle(2) if kind == "PixelUnshuffle" else Apply(lambda x: F.pixel_unshuffle(x, 2))


@op("map", function=(False, True))
def unfold(d: int, x: Shape, function: bool) -> nn.Module | None:
    """Patches of 2 by 2, as [N, C * 4, patches, 1]."""
    if d != 2 or min(x[2:]) < 2:
        return None
    if function:
        return Apply(lambda x: F.unfold(x, 2).unsqueeze(3))
    return Apply(lambda m, x: m.unfold(x).unsqueeze(3), unfold=nn.Unfold(2))


@op("map", function=(False, True))
def fold(d: int, x: Shape, function: bool) -> nn.Module | None:
    """Patches that do not overlap, and back."""
    if d != 2 or x[2] % 2 or x[3] % 2:
        return None
    if function:
        return Apply(lambda y: F.fold(F.unfold(y, 2, stride=2), x[2:], 2, stride=2))
    return Apply(lambda m, y: m.fold(m.unfold(y)), unfold=nn.Unfold(2, stride=2), fold=nn.Fold(x[2:], 2, stride=2))


# other layouts


@op("map", width=WIDTHS)
def channels_last_linear(d: int, x: Shape, width: int) -> nn.Module:
    """ConvNeXt: permute, two linear layers, permute back."""
    there, back = (0, *range(2, d + 2), 1), (0, d + 1, *range(1, d + 1))
    layers = {"up": nn.Linear(x[1], width), "down": nn.Linear(width, x[1])}
    return Apply(lambda m, x: x + m.down(F.gelu(m.up(x.permute(there)))).permute(back), **layers)


@op("map", norm=(False, True), width=WIDTHS)
def tokens(d: int, x: Shape, norm: bool, width: int) -> nn.Module:
    """[N, positions, C] and back."""
    layer = nn.LayerNorm(x[1]) if norm else nn.Linear(x[1], width)

    def run(m: Any, y: Tensor) -> Tensor:
        return m.layer(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape[0], -1, *x[2:])

    return Apply(run, layer=layer)


@op("map", heads=(1, 2), width=WIDTHS, width_v=WIDTHS,
    name=("torch.matmul", "operator.matmul", "matmul", "bmm", "torch.bmm"))  # fmt: skip
def attention(d: int, x: Shape, heads: int, width: int, width_v: int, name: str) -> nn.Module | None:
    if width % heads or width_v % heads or math.prod(x[2:]) > 64 or (heads > 1 and "bmm" in name):
        return None
    widths = {"q": width, "k": width, "v": width_v}
    layers = {part: nn.Linear(x[1], size) for part, size in widths.items()} | {"out": nn.Linear(width_v, x[1])}
    function, short = {"torch": torch, "operator": operator}.get(name.partition(".")[0]), name.rpartition(".")[2]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return getattr(function, short)(a, b) if function else getattr(a, short)(b)

    def run(m: Any, y: Tensor) -> Tensor:
        t = y.flatten(2).transpose(1, 2)
        q, k, v = m.q(t), m.k(t), m.v(t)
        if heads > 1:
            n, p, _ = t.shape
            q, k, v = (z.view(n, p, heads, z.shape[2] // heads).transpose(1, 2) for z in (q, k, v))
        z = product(product(q, k.transpose(-2, -1)).softmax(-1), v)
        if heads > 1:
            z = z.transpose(1, 2).reshape(n, p, -1)
        return y + m.out(z).transpose(1, 2).reshape(y.shape)

    return Apply(run, **layers)


@op("map", heads=(1, 2), width=WIDTHS, width_v=WIDTHS)
def dot_product_attention(d: int, x: Shape, heads: int, width: int, width_v: int) -> nn.Module | None:
    if width % heads or width_v % heads or math.prod(x[2:]) > 64:
        return None
    layers = {name: nn.Linear(x[1], size) for name, size in zip("qkv", (width, width, width_v), strict=True)}

    def run(m: Any, y: Tensor) -> Tensor:
        t = y.flatten(2).transpose(1, 2)
        n, p, _ = t.shape
        q, k, v = (layer(t).view(n, p, heads, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
        z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, p, -1)
        return y + m.out(z).transpose(1, 2).reshape(y.shape)

    return Apply(run, **layers, out=nn.Linear(width_v, x[1]))


@op("map", heads=(1, 2), memory=(False, True))
def multihead_attention(d: int, x: Shape, heads: int, memory: bool) -> nn.Module | None:
    if x[1] % heads or math.prod(x[2:]) > 64:
        return None

    def run(m: Any, y: Tensor) -> Tensor:
        t = y.flatten(2).transpose(1, 2)
        other = t[:, :1] if memory else t
        return y + m.attention(t, other, other, need_weights=False)[0].transpose(1, 2).reshape(y.shape)

    return Apply(run, attention=nn.MultiheadAttention(x[1], heads, batch_first=True))


@op("map", width=WIDTHS, kind=("einsum", "einsum, channels last", "einsum of three", "tensordot", "matmul", "addmm"))
def linear_by_product(d: int, x: Shape, width: int, kind: str) -> nn.Module:
    """A layer of kernel size 1, written as a product with a parameter [width, channels]."""
    runs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "einsum": lambda w, y: torch.einsum("nc...,oc->no...", y, w),
        "einsum, channels last": lambda w, y: torch.einsum("...c,oc->...o", y.movedim(1, -1), w).movedim(-1, 1),
        "einsum of three": lambda w, y: torch.einsum("nc...,oc,n->no...", y, w, y.flatten(1).mean(1)),
        "tensordot": lambda w, y: torch.tensordot(y, w, dims=([1], [1])).movedim(-1, 1),
        "matmul": lambda w, y: torch.matmul(y.movedim(1, -1), w.t()).movedim(-1, 1),
        "addmm": lambda w, y: (
            torch.addmm(w.mean(1), y.movedim(1, -1).reshape(-1, x[1]), w.t()).view(x[0], *x[2:], -1).movedim(-1, 1)
        ),
    }
    return Apply(runs[kind], parameter=(width, x[1]))


@op("map", kind=("einsum", "einsum of a scale", "einsum to a map", "einsum of four", "mv", "mv method", "dot",
                 "dot method", "addmv", "addmv method", "baddbmm", "baddbmm method", "addbmm", "addbmm method",
                 "addmm method", "addmv_ method", "baddbmm_ method", "addbmm_ method", "addmm_ method", "outer",
                 "outer method", "ger", "ger method", "inner", "inner method"))  # fmt: skip
def products(d: int, x: Shape, kind: str) -> nn.Module:
    """Products with a parameter [channels] and with itself, of which the map is scaled."""
    ones = [1] * d

    def run(w: Tensor, y: Tensor) -> Tensor:
        flat = y.flatten(2)  # [samples, channels, positions]
        v = flat.mean(2)
        scale = w.view(-1, *ones)
        square = w[:, None] * w[None, :]  # [channels, channels]
        scores = flat @ flat.transpose(1, 2) * 0.1
        if kind == "einsum":
            return torch.einsum("nc...,nc...->nc...", y, y.relu() * scale)
        if kind == "einsum of a scale":
            return torch.einsum("nc...,c->nc...", y, w)
        if kind == "einsum of four":
            return torch.einsum("nc...,c,nd,dc->nd...", y, w, v, square * 0.1)
        if kind == "einsum to a map":
            return y * torch.einsum("nc...,c->n...", y, w).unsqueeze(1).sigmoid()
        called = kind.partition(" ")[0]
        name = called.rstrip("_")
        given = {"mv": (v, w), "dot": (w, w), "addmv": (w, square, w), "baddbmm": (flat, scores, flat),
                 "addbmm": (square, scores, scores), "addmm": (v, v, square), "outer": (w, w), "ger": (w, w),
                 "inner": (v, square)}[name]  # fmt: skip
        if kind.endswith("method"):
            found = getattr(given[0].clone() if called.endswith("_") else given[0], called)(*given[1:])
        else:
            found = getattr(torch, name)(*given)
        if name == "baddbmm":
            return found.view(y.shape) * scale
        forms: dict[str, Callable[[], Tensor]] = {
            "mv": lambda: found.view(-1, 1, *ones),
            "dot": lambda: found * scale,
            "addmv": lambda: found.view(-1, *ones),
            **dict.fromkeys(("addbmm", "outer", "ger"), lambda: found.mean(1).view(-1, *ones)),
            **dict.fromkeys(("addmm", "inner"), lambda: found[(..., *[None] * d)]),
        }
        return y * forms[name]().sigmoid()

    return Apply(run, parameter=(x[1],))


@op("map", at=(1, 2), kind=("channels", "channels of another", "space", "batch", "everything", "method"))
def written(d: int, x: Shape, at: int, kind: str) -> nn.Module | None:
    """Values that are written into a copy."""
    if at >= x[1]:
        return None

    def run(y: Tensor) -> Tensor:
        z = y.clone()
        if kind == "channels":
            z[:, :at] = 0.5
        elif kind == "channels of another":
            z[:, at:] = y[:, at:].relu()
        elif kind == "space":
            z[..., 0] = y[..., -1] * 2.0
        elif kind == "batch":
            z[:1] = y[1:]
        elif kind == "everything":
            z[...] = y.relu()
        else:
            z.__setitem__((slice(None), slice(0, at)), 0.5)
        return z

    return Apply(run)


@op("map", kind=("squeeze", "torch.squeeze", "unflatten", "torch.unflatten", "swapaxes", "torch.swapaxes", "moveaxis",
                 "torch.moveaxis", "torch.permute", "torch.transpose", "torch.reshape", "view", "mT", "transpose_",
                 "expand", "broadcast_to", "torch.broadcast_to", "t", "torch.t", "squeeze_", "adjoint", "torch.adjoint",
                 "swapdims", "torch.swapdims", "swapdims_", "swapaxes_", "t_", "ravel", "torch.ravel", "Unflatten",
                 "narrow_copy", "torch.narrow_copy", "msort", "torch.msort"))  # fmt: skip
def there_and_back(d: int, x: Shape, kind: str) -> nn.Module:
    """Another form of the same value, and back again."""
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
        "squeeze_": lambda x: x.clone().unsqueeze_(1).squeeze_(1),
        "torch.squeeze": lambda x: torch.squeeze(x.unsqueeze(2), 2),
        "unflatten": lambda x: x.unflatten(1, (1, x.shape[1])).flatten(1, 2),
        "torch.unflatten": lambda x: torch.unflatten(x, 1, (-1, 1)).flatten(1, 2),
        "swapaxes": lambda x: x.swapaxes(1, 2).relu().swapaxes(1, 2),
        "torch.swapaxes": lambda x: torch.swapaxes(torch.swapaxes(x, 1, 2), 1, 2),
        "moveaxis": lambda x: x.moveaxis(1, 0).moveaxis(0, 1),
        "torch.moveaxis": lambda x: torch.moveaxis(torch.moveaxis(x, 1, 0), 0, 1),
        "torch.permute": lambda x: torch.permute(torch.permute(x, (1, 0, *range(2, d + 2))), (1, 0, *range(2, d + 2))),
        "torch.transpose": lambda x: torch.transpose(torch.transpose(x, 0, 1), 0, 1),
        "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], x.shape[1], -1)).view(x.shape),
        "view": lambda x: x.contiguous().view(x.size(0), -1, *x.shape[2:]),
        "mT": lambda x: x.mT.mT,
        "adjoint": lambda x: x.adjoint().adjoint(),
        "torch.adjoint": lambda x: torch.adjoint(torch.adjoint(x)),
        "swapdims": lambda x: x.swapdims(1, 2).swapdims(1, 2),
        "torch.swapdims": lambda x: torch.swapdims(torch.swapdims(x, 0, 1), 0, 1),
        "swapdims_": lambda x: x.clone().swapdims_(1, 2).swapaxes(1, 2),
        "swapaxes_": lambda x: x.clone().swapaxes_(1, 2).swapaxes(1, 2),
        "t_": lambda x: x + x.flatten(2).mean(2).t_().t()[(..., *[None] * d)],
        "ravel": lambda x: x.ravel().view(x.shape),
        "torch.ravel": lambda x: torch.ravel(x).view_as(x),
        "narrow_copy": lambda x: x.narrow_copy(2, 0, x.shape[2]),
        "torch.narrow_copy": lambda x: torch.narrow_copy(x, 0, 0, 1) + x,
        "msort": lambda x: x.msort(),
        "torch.msort": lambda x: torch.msort(x),
        "transpose_": lambda x: x.clone().transpose_(1, 2).transpose(1, 2),
        "expand": lambda x: x.unsqueeze(2).expand(-1, -1, 2, *[-1] * d).sum(2),
        "broadcast_to": lambda x: x + x[:1].broadcast_to(x.shape),
        "torch.broadcast_to": lambda x: x + torch.broadcast_to(x[:1], x.shape),
        "t": lambda x: x + x.flatten(2).mean(2).t().t()[(..., *[None] * d)],
        "torch.t": lambda x: x + torch.t(torch.t(x.flatten(2).mean(2)))[(..., *[None] * d)],
    }
    if kind == "Unflatten":
        return Apply(lambda m, x: m.form(x).flatten(1, 2), form=nn.Unflatten(1, (1, x[1])))
    return Apply(runs[kind])


@op("map")
def class_token(d: int, x: Shape) -> nn.Module | None:
    """ViT: one more position, which is read in the end."""

    def run(token: Tensor, y: Tensor) -> Tensor:
        t = y.flatten(2).transpose(1, 2)
        t = torch.cat([token.expand(t.shape[0], -1, -1), t], dim=1)
        return y + (t[:, 1:] * t[:, :1]).transpose(1, 2).reshape(y.shape)

    return Apply(run, parameter=(1, 1, x[1]))


@op("map", kind=("literal", "sizes", "-1"))
def batched_form(d: int, x: Shape, kind: str) -> nn.Module:
    """The batch joins the space and comes back (windows of Swin, batched patches)."""
    n, c, s = x[0], x[1], x[2:]

    def run(y: Tensor) -> Tensor:
        z = y.movedim(1, -1).reshape(-1, y.shape[1] if kind == "sizes" else c)
        back = (n, *s, c) if kind == "literal" else (y.size(0), *s, y.size(1)) if kind == "sizes" else (n, *s, -1)
        return z.relu().view(*back).movedim(-1, 1)

    return Apply(run)


@op("map", kind=("new", "new_zeros", "new_ones", "new_empty"))
def new_tensor(d: int, x: Shape, kind: str) -> nn.Module:
    """A tensor that forward makes, of the size of another."""
    return Apply(lambda x: x + getattr(x, kind)(x.shape).zero_())


@op("map", kind=("zeros", "ones", "empty", "rand", "randn"))
def created_tensor(d: int, x: Shape, kind: str) -> nn.Module:
    """A tensor that forward makes, of sizes read from another."""

    def run(x: Tensor) -> Tensor:
        return x + getattr(torch, kind)(x.shape[0], x.shape[1], *[1] * d, dtype=torch.float64).zero_()

    return Apply(run)


@op("map", kind=("zeros", "ones", "new_zeros", "full", "torch.full", "new_full", "tensor", "new_tensor", "arange",
                 "linspace"))  # fmt: skip
def created_by_number(d: int, x: Shape, kind: str) -> nn.Module:
    """A tensor that forward makes, of a size that the program spells out."""
    size = (1, x[1], *[1] * d)
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "zeros": lambda y: y + torch.zeros(size, dtype=y.dtype),
        "ones": lambda y: y * torch.ones(*size, dtype=y.dtype),
        "new_zeros": lambda y: y + y.new_zeros(size),
        "torch.full": lambda y: y + torch.full(size, 0.5, dtype=y.dtype),
        "new_full": lambda y: y + y.new_full(size, 0.5),
        "tensor": lambda y: y * torch.tensor(0.5, dtype=y.dtype),
        "new_tensor": lambda y: y * y.new_tensor(0.5),
        "arange": lambda y: y + torch.arange(x[1], dtype=y.dtype).view(-1, *[1] * d),
        "linspace": lambda y: y + torch.linspace(0.0, 1.0, x[1], dtype=y.dtype).view(-1, *[1] * d),
        "full": lambda y: torch.where(y > 0, y, torch.zeros(size, dtype=y.dtype).fill_(0.5)),
    }
    return Apply(runs[kind])


@op("map", name=("mm", "torch.mm"))
def gram(d: int, x: Shape, name: str) -> nn.Module:
    """Scores between the samples of a batch; the channels are summed over."""

    def run(x: Tensor) -> Tensor:
        v = x.flatten(2).mean(2)
        scores = torch.mm(v, v.transpose(0, 1)) if name.startswith("torch") else v.mm(v.transpose(0, 1))
        return x * scores.mean(1)[(..., *[None] * (d + 1))]

    return Apply(run)


# --- the strategy
# -----------------------------------------------------------------------------------------------

Step = tuple[str, tuple[int, ...]]
COMMON = ("conv1", "conv3", "residual", "residual", "batch_norm")


def resolve(
    dims: int, channels: int, space: int, steps: Sequence[Step], returned: int = 0, auxiliary: bool = False
) -> Program:
    """The program that the steps amount to. ``returned``: how many of the last values are outputs themselves, in train
    mode only if ``auxiliary``.
    """
    shapes: list[Shape] = [(2, channels, *[space] * dims)]
    statements: list[Statement] = []
    for name, picks in steps:
        chooser = iter((*picks, *[0] * 8))
        operands = choose_operands(OPERATORS[name].kinds, shapes, dims, chooser)
        if operands is None:
            continue
        options: list[Any] = []
        for choices in OPERATORS[name].options.values():
            fitting = choices(shapes[operands[0]])
            if not fitting:
                break
            options.append(fitting[next(chooser) % len(fitting)])
        if len(options) < len(OPERATORS[name].options):
            continue
        results = result_shapes(OPERATORS[name], dims, [shapes[i] for i in operands], options)
        if results is not None:
            numbers = range(len(shapes), len(shapes) + len(results))
            statements.append(Statement(name, operands, tuple(options), tuple(numbers)))
            shapes += results
    outputs = tuple(range(len(shapes))[max(1, len(shapes) - returned) :]) if returned else ()
    return Program(dims, channels, space, tuple(statements), tuple(shapes), outputs, auxiliary)


def choose_operands(
    kinds: Sequence[str], shapes: Sequence[Shape], dims: int, picks: Iterator[int]
) -> tuple[int, ...] | None:
    """Indices of values of the kinds asked for, different ones where there are any; a pick of 0 is the newest."""
    chosen: list[int] = []
    for kind in kinds:
        first = shapes[chosen[0]] if chosen else ()
        fitting = [
            i
            for i, shape in enumerate(shapes)
            if (kind == "any")
            or (kind == "map" and len(shape) == dims + 2)
            or (kind == "vector" and len(shape) == 2)
            or (kind == "same" and shape == first)
            or (kind == "aligned" and len(shape) == dims + 2 and shape[2:] == first[2:])
            or (kind == "smaller" and len(shape) == len(first) and shape != first and broadcasts(shape, first))
        ]
        others = [i for i in fitting if i not in chosen] or fitting
        if not others:
            return None
        chosen.append(others[-1 - next(picks) % len(others)])
    return tuple(chosen)


def broadcasts(small: Shape, large: Shape) -> bool:
    return all(m in (1, n) for m, n in zip(small, large, strict=True))


def result_shapes(
    made: Operator, dims: int, shapes: Sequence[Shape], options: Sequence[Any], limit: int = MAX_NUMBERS
) -> list[Shape] | None:
    """Shapes of the results; None where the operator does not fit or its results are too large."""
    part = made.build(dims, shapes, options)
    if part is None:
        return None
    with torch.no_grad():
        results = part.double().eval()(*[torch.rand(shape, dtype=torch.float64) for shape in shapes])
    found = [tuple(result.shape) for result in ([results] if isinstance(results, Tensor) else results)]
    return None if any(math.prod(shape) > limit for shape in found) else found


@st.composite
def steps(draw: st.DrawFn, names: Sequence[str] | None = None, most: int = 12) -> list[Step]:
    """Steps from a random number generator, of which hypothesis leaves out some and makes others plain.

    Drawn one by one they would be less varied: hypothesis likes to repeat what it has drawn before.
    """
    random = Random(draw(st.integers(0, 2**32 - 1)))
    drawn = random_steps(random, most, names)
    kept = draw(st.lists(st.sampled_from((False, True, True, True)), min_size=most, max_size=most))
    plain = draw(st.lists(st.sampled_from((True, False, False)), min_size=most, max_size=most))
    return [
        (name, () if is_plain else picks)
        for (name, picks), is_kept, is_plain in zip(drawn, kept, plain, strict=True)
        if is_kept
    ]


def random_steps(random: Random, count: int, names: Sequence[str] | None = None) -> list[Step]:
    weighted = [*COMMON * 5, *(OPERATORS if names is None else names)]
    return [(random.choice(weighted), tuple(random.choices(range(60), k=6))) for _ in range(count)]


@st.composite
def programs(draw: st.DrawFn, names: Sequence[str] | None = None, most: int = 12, outputs: bool = True) -> Program:
    """Programs of at most ``most`` statements, of the named operators (all of them by default)."""
    dims = draw(st.sampled_from((2, 2, 2, 1, 3)))
    channels = draw(st.sampled_from((3, 4)))
    space = draw(st.sampled_from((4, 5, 6) if dims < 3 else (4,)))
    returned = draw(st.sampled_from((0, 0, 0, 1))) if outputs else 0
    first: list[Step] = [("conv1", (0, 0)), ("conv1", (0, 0)), ("conv1", (1, 0))]
    start = first[: draw(st.sampled_from((0, 3, 2, 1)))]
    auxiliary = bool(returned) and draw(st.booleans())
    return resolve(dims, channels, space, start + draw(steps(names, most)), returned, auxiliary)


def sample(count: int, seed: int, names: Sequence[str] | None = None) -> list[Program]:
    """Programs for tests that need many at once."""
    random = Random(seed)
    found = []
    for number in range(count):
        drawn = random_steps(random, 10, names)
        found.append(resolve((2, 2, 1, 3)[number % 4], 4, 4, drawn))
    return found


def every_use(name: str) -> Iterator[Program]:
    """Programs that try all options of one operator, side by side, in each number of dims."""
    before: tuple[list[Step], ...] = (
        [("conv1", (0, 3))],
        [("conv1", (0, 3)), ("conv1", (1, 3))],
        [("conv1", (0, 5)), ("mean_vector", ())],
        [("conv1", (0, 0)), ("adaptive_pool", (0, 1, 1, 0))],
        [("conv1", (0, 0)), ("spatial_gate", ()), ("mean", ())],
    )
    made = OPERATORS[name]
    many = math.prod(len(choices((2, 4, 4, 4))) for choices in made.options.values()) > 80  # spellings of one rule
    for dims in (2,) if many and "name" in made.options else (1, 2, 3):
        seen: set[tuple[Any, ...]] = set()
        for start, first in itertools.product(before, (0, 1)):
            base = resolve(dims, 4, 4, start)
            operands = choose_operands(made.kinds, base.shapes, dims, iter([first, 0, 0]))
            if operands is None:
                continue
            given = [base.shapes[i] for i in operands]
            statements, shapes = [*base.statements], [*base.shapes]
            for options in itertools.product(*[choices(given[0]) for choices in made.options.values()]):
                if options not in seen and (results := result_shapes(made, dims, given, options)) is not None:
                    seen.add(options)
                    numbers = range(len(shapes), len(shapes) + len(results))
                    statements.append(Statement(name, operands, options, tuple(numbers)))
                    shapes += results
            if len(statements) > len(base.statements):
                yield Program(dims, 4, 4, tuple(statements), tuple(shapes))
