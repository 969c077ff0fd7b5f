"""Networks of DARTS cells (Liu et al., "DARTS: Differentiable Architecture Search"): DARTS, DARTS+, NASNet, AmoebaNet.

The widths are the published ones: one number, doubled where the image halves. A plan finds the channel groups, and
``plan.resize`` gives any other widths.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from conet_fx.models.darts_operations import FactorizedReduce, primitive, relu_conv_bn
from conet_fx.models.genotypes import DARTS_PLUS_CIFAR100, DARTS_V2, Edge, Genotype

STEM_MULTIPLIER = 3


def set_drop_path(model: nn.Module, probability: float) -> None:
    """From now on drop each path of ``model`` with ``probability``: a schedule calls this before every epoch.

    Sets every ``torchvision.ops.StochasticDepth`` in it, also in a ``GraphModule`` that was traced or resized.

    Raises ``ValueError`` for a probability outside [0, 1) and for a model in which no path can be dropped.
    """
    _check_probability(probability)
    paths = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not paths:
        raise ValueError(f"{type(model).__name__} has no torchvision.ops.StochasticDepth: no path of it can be dropped")
    for path in paths:
        path.p = probability


def _check_probability(probability: float) -> None:
    if not 0 <= probability < 1:
        raise ValueError(f"the probability of a drop is {probability!r}: write a number in [0, 1)")


class Cell(nn.Module):
    """Nodes that are sums of two edges each; the output is a concatenation of nodes."""

    def __init__(
        self,
        edges: tuple[Edge, ...],
        concat: tuple[int, ...],
        in_channels: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
        drop_path: float,
    ) -> None:
        """``in_channels``: of the last output but one and of the last. ``after_reduction``: the former is twice as wide
        and high as the latter.
        """
        super().__init__()
        before, last = in_channels
        self.preprocess0 = FactorizedReduce(before, channels) if after_reduction else relu_conv_bn(before, channels)
        self.preprocess1 = relu_conv_bn(last, channels)
        self.edges = nn.ModuleList(
            _droppable(primitive(name, channels, stride=2 if reduction and source < 2 else 1), drop_path)
            for name, source in edges
        )
        self.sources = tuple(source for _, source in edges)
        self.concat = concat
        self.out_channels = len(concat) * channels

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        nodes = [self.preprocess0(before), self.preprocess1(last)]
        for first in range(0, len(self.edges), 2):
            left, right = (self.edges[edge](nodes[self.sources[edge]]) for edge in (first, first + 1))
            nodes.append(left + right)
        return torch.cat([nodes[index] for index in self.concat], dim=1)


def _droppable(operation: nn.Module, probability: float) -> nn.Module:
    """``operation``, dropped in training for some of the samples; identities always stay."""
    if isinstance(operation, nn.Identity):
        return operation
    return nn.Sequential(operation, StochasticDepth(probability, mode="row"))


class AuxiliaryHead(nn.Module):
    """A second classifier. With features of 8x8 and ``stride`` 3, or 7x7 and 2, it pools to 2x2 as published."""

    def __init__(self, in_channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride)
        self.conv1 = nn.Conv2d(in_channels, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(functional.relu(x))
        out = functional.relu(self.bn1(self.conv1(out)))
        out = functional.relu(self.bn2(self.conv2(out)))
        scores: Tensor = self.classifier(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return scores


class DARTS(nn.Module):
    """``cells`` cells in a row; the cells at one and two thirds are the reduction cells.

    Args:
        genotype: the two cells, say ``genotypes.DARTS_V2``.
        width: channels of each node in the first cells. The reduction cells double it.
        stem: ``"cifar"`` keeps the size of the image, ``"imagenet"`` halves it three times.
        auxiliary: a second classifier behind the second reduction cell. In training, and only then, the network
            returns (scores, auxiliary scores). It takes images of at least 24 pixels with the stem ``"cifar"``.
        drop_path: the probability to drop an operation for a sample, in training; :func:`set_drop_path` changes it.

    Raises ``ValueError`` for fewer than 3 cells, a width below 2, an unknown stem, a ``drop_path`` outside [0, 1).
    """

    def __init__(
        self,
        genotype: Genotype,
        cells: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 36,
        stem: Literal["cifar", "imagenet"] = "cifar",
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if cells < 3:
            raise ValueError(f"cells={cells}: a network has at least 3, of which two are reduction cells")
        if width < 2:
            raise ValueError(f"width={width}: a reduction writes half the channels with each of two layers, write >= 2")
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"unknown stem {stem!r} (known: 'cifar', 'imagenet')")
        _check_probability(drop_path)
        self.stem, self.second_stem, channels = _stem(stem, in_channels, width)
        self.reductions = (cells // 3, 2 * cells // 3)
        after_reduction = self.second_stem is not None
        before, last = channels, channels
        self.cells = nn.ModuleList()
        for index in range(cells):
            reduction = index in self.reductions
            if reduction:
                width *= 2
            cell = Cell(
                genotype.reduce if reduction else genotype.normal,
                genotype.reduce_concat if reduction else genotype.normal_concat,
                (before, last),
                width,
                reduction=reduction,
                after_reduction=after_reduction,
                drop_path=drop_path,
            )
            self.cells.append(cell)
            before, last, after_reduction = last, cell.out_channels, reduction
            if auxiliary and index == self.reductions[1]:
                auxiliary_channels = cell.out_channels
        self.auxiliary_head = (
            AuxiliaryHead(auxiliary_channels, num_classes, stride=3 if stem == "cifar" else 2) if auxiliary else None
        )
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]; with the auxiliary ones in training."""
        before = last = self.stem(x)
        if self.second_stem is not None:
            last = self.second_stem(before)
        auxiliary = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            if self.auxiliary_head is not None and index == self.reductions[1] and self.training:
                auxiliary = self.auxiliary_head(last)
        scores: Tensor = self.classifier(functional.adaptive_avg_pool2d(last, 1).flatten(1))
        return scores if auxiliary is None else (scores, auxiliary)


def _stem(kind: str, in_channels: int, width: int) -> tuple[nn.Module, nn.Module | None, int]:
    """The stem, the second stem if there are two (each gives one input of the first cell), and their channels."""
    if kind == "cifar":
        channels = STEM_MULTIPLIER * width
        return nn.Sequential(*_conv_bn(in_channels, channels, stride=1)), None, channels
    first = nn.Sequential(
        *_conv_bn(in_channels, width // 2, stride=2), nn.ReLU(), *_conv_bn(width // 2, width, stride=2)
    )
    second = nn.Sequential(nn.ReLU(), *_conv_bn(width, width, stride=2))
    return first, second, width


def _conv_bn(in_channels: int, channels: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels)


def darts7(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS-7 of the CONet paper: 7 cells, for 32x32 images."""
    return DARTS(DARTS_V2, 7, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts14(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS-14 of the CONet paper: 14 cells, for 32x32 images."""
    return DARTS(DARTS_V2, 14, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts20(
    num_classes: int = 10, in_channels: int = 3, width: int = 36, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS for 32x32 images as published: 20 cells, 3.35 million parameters with 10 classes."""
    return DARTS(DARTS_V2, 20, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts_plus7(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS+-7 of the CONet paper: 7 cells, for 32x32 images."""
    return DARTS(DARTS_PLUS_CIFAR100, 7, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts_plus14(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS+-14 of the CONet paper: 14 cells, for 32x32 images."""
    return DARTS(DARTS_PLUS_CIFAR100, 14, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts_plus20(
    num_classes: int = 10, in_channels: int = 3, width: int = 36, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS+ for 32x32 images: 20 cells."""
    return DARTS(DARTS_PLUS_CIFAR100, 20, num_classes, in_channels, width, "cifar", auxiliary, drop_path)


def darts14_imagenet(
    num_classes: int = 1000, in_channels: int = 3, width: int = 48, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS for 224x224 images as published: 14 cells."""
    return DARTS(DARTS_V2, 14, num_classes, in_channels, width, "imagenet", auxiliary, drop_path)


def darts_plus14_imagenet(
    num_classes: int = 1000, in_channels: int = 3, width: int = 48, auxiliary: bool = False, drop_path: float = 0.0
) -> DARTS:
    """DARTS+ for 224x224 images: 14 cells."""
    return DARTS(DARTS_PLUS_CIFAR100, 14, num_classes, in_channels, width, "imagenet", auxiliary, drop_path)
