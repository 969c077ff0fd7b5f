"""The primitives of the DARTS search space. All keep the number of channels; stride 2 halves the image, rounded up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


def relu_conv_bn(in_channels: int, channels: int) -> nn.Sequential:
    """A 1x1 convolution from ``in_channels`` to ``channels``."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class FactorizedReduce(nn.Module):
    """Halves the image: one half of the channels reads the even pixels, the other half the odd ones."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels - channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        shifted = functional.pad(x, (-1, 1, -1, 1))  # by one pixel up and left, so that images of odd size work too
        halves: Tensor = self.bn(torch.cat([self.conv1(x), self.conv2(shifted)], dim=1))
        return halves


class Zero(nn.Module):
    """Zeros of the right shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def primitive(name: str, channels: int, stride: int) -> nn.Module:
    """The module of a primitive; ``nn.Identity`` for a skip of stride 1."""
    return _PRIMITIVES[name](channels, stride)


def _skip(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


def _separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """A depthwise convolution, then one across channels."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _sep_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, stride: nn.Sequential(
        *_separable(channels, kernel, stride), *_separable(channels, kernel, stride=1)
    )


def _dil_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, stride: _separable(channels, kernel, stride, dilation=2)


def _conv_7x1_1x7(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), (1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), (stride, 1), padding=(3, 0), bias=False),
        nn.BatchNorm2d(channels),
    )


_PRIMITIVES: Mapping[str, Callable[[int, int], nn.Module]] = {
    "none": lambda channels, stride: Zero(stride),
    "max_pool_3x3": lambda channels, stride: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": _skip,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "sep_conv_7x7": _sep_conv(7),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_7x1_1x7": _conv_7x1_1x7,
}
