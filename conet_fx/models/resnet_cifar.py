"""ResNet for 32x32 images (He et al., "Deep Residual Learning for Image Recognition", as in the CONet paper).

It differs from torchvision's in the stem alone: one 3x3 convolution of stride 1 and no pooling.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, beside a shortcut; four times wider outside than inside."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


Block = type[BasicBlock] | type[Bottleneck]


def _stage(block: Block, in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks, the first of which has the stride and takes ``in_channels``."""
    first = block(in_channels, channels, stride)
    rest = [block(block.expansion * channels, channels, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


class ResNetCIFAR(nn.Module):
    """Four stages of ``depths`` blocks; the widths ``width * (1, 2, 4, 8)`` double where the image halves."""

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        width: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, block.expansion * width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(block, block.expansion * 2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(block, block.expansion * 4 * width, 8 * width, depths[3], stride=2)
        self.fc = nn.Linear(block.expansion * 8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = functional.adaptive_avg_pool2d(out, 1).flatten(1)
        scores: Tensor = self.fc(out)
        return scores


def resnet18_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> ResNetCIFAR:
    """ResNet-18 for 32x32 images."""
    return ResNetCIFAR(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width)


def resnet34_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> ResNetCIFAR:
    """ResNet-34 for 32x32 images: 21.28 million parameters with 10 classes."""
    return ResNetCIFAR(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, width)


def resnet50_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> ResNetCIFAR:
    """ResNet-50 for 32x32 images."""
    return ResNetCIFAR(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width)
