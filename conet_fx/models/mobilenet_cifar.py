"""MobileNetV2 for 32x32 images (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks").

As in the usual variant for CIFAR, the stem and the second stage keep the size of the image, the activations are plain
ReLUs, every block expands by a convolution, and a block of stride 1 that changes the channels has a convolution as its
shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

# expansion, channels at full width, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; beside a shortcut where the image keeps its size."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        expanded = expansion * in_channels
        self.expand = nn.Conv2d(in_channels, expanded, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(expanded)
        self.filter = nn.Conv2d(expanded, expanded, 3, stride, padding=1, groups=expanded, bias=False)
        self.bn2 = nn.BatchNorm2d(expanded)
        self.project = nn.Conv2d(expanded, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.expand(x)))
        out = functional.relu(self.bn2(self.filter(out)))
        out = self.bn3(self.project(out))
        result: Tensor = out if self.shortcut is None else out + self.shortcut(x)
        return result


def _shortcut(in_channels: int, channels: int) -> nn.Module:
    if in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


class MobileNetV2CIFAR(nn.Module):
    """Seven stages of inverted residuals; all channels are the published ones times ``width``, at least 1."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, round(width * channels))

        self.conv1 = nn.Conv2d(in_channels, scaled(STEM), 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(scaled(STEM))
        blocks, last = nn.Sequential(), scaled(STEM)
        for expansion, channels, depth, stride in STAGES:
            for index in range(depth):
                blocks.append(InvertedResidual(last, scaled(channels), expansion, stride if index == 0 else 1))
                last = scaled(channels)
        self.blocks = blocks
        self.conv2 = nn.Conv2d(last, scaled(HEAD), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(scaled(HEAD))
        self.fc = nn.Linear(scaled(HEAD), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(self.blocks(out))))
        scores: Tensor = self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return scores


def mobilenet_v2_cifar(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> MobileNetV2CIFAR:
    """MobileNetV2 for 32x32 images: 2.30 million parameters with 10 classes."""
    return MobileNetV2CIFAR(num_classes, in_channels, width)
