"""ShuffleNetV2 for 32x32 images (Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN
Architecture Design").

As in the usual variant for CIFAR, the stem keeps the size of the image and nothing is pooled before the first stage.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM, HEAD = 24, 1024
DEPTHS = (4, 8, 4)


class Branch(nn.Module):
    """A 1x1, a depthwise 3x3 and a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(self.bn3(self.conv3(out)))


class Block(nn.Module):
    """One half of the channels passes through a branch, then the halves are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = Branch(channels // 2, channels // 2, stride=1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        out: Tensor = self.shuffle(torch.cat([kept, self.branch(changed)], dim=1))
        return out


class DownBlock(nn.Module):
    """All channels pass through both branches, of stride 2: a depthwise 3x3 and a 1x1 convolution, and the long one."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.branch = Branch(in_channels, half, stride=2)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = functional.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        out: Tensor = self.shuffle(torch.cat([left, self.branch(x)], dim=1))
        return out


class ShuffleNetV2CIFAR(nn.Module):
    """Three stages of 4, 8 and 4 blocks with channels ``width * (1, 2, 4)``; ``width`` is even."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width={width}: the channels are cut in halves, write an even number >= 2")
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, width, DEPTHS[0])
        self.layer2 = _stage(width, 2 * width, DEPTHS[1])
        self.layer3 = _stage(2 * width, 4 * width, DEPTHS[2])
        self.conv2 = nn.Conv2d(4 * width, HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD)
        self.fc = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = functional.relu(self.bn2(self.conv2(out)))
        scores: Tensor = self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return scores


def _stage(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(in_channels, channels), *(Block(channels) for _ in range(depth - 1)))


def shufflenet_v2_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 116) -> ShuffleNetV2CIFAR:
    """ShuffleNetV2 x1.0 for 32x32 images: 1.26 million parameters with 10 classes.

    Raises ``ValueError`` for a width that is not even.
    """
    return ShuffleNetV2CIFAR(num_classes, in_channels, width)
