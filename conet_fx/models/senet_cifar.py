"""SENet for 32x32 images (Hu et al., "Squeeze-and-Excitation Networks").

As in the usual variant for CIFAR, the blocks are pre-activated, and neither norm nor activation stands behind the last.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Scales each channel by a number in (0, 1) that the means of all channels give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // REDUCTION)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = functional.adaptive_avg_pool2d(x, 1)
        scale: Tensor = self.excite(functional.relu(self.squeeze(means))).sigmoid()
        return x * scale


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind its norm and activation, and squeeze-excite; beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.excite = SqueezeExcite(channels)
        changes_shape = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        kept = x if self.shortcut is None else self.shortcut(activated)
        joined: Tensor = kept + self.excite(out)
        return joined


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks, the first of which has the stride and takes ``in_channels``."""
    first = PreActivationBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(channels, channels, stride=1) for _ in range(depth - 1)))


class SENetCIFAR(nn.Module):
    """Four stages of ``depths`` blocks; the widths ``width * (1, 2, 4, 8)`` double where the image halves."""

    def __init__(self, depths: tuple[int, int, int, int], num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depths[0], stride=1)
        self.layer2 = _stage(width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], stride=2)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        scores: Tensor = self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return scores


def senet18_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> SENetCIFAR:
    """SENet-18 for 32x32 images: 11.26 million parameters with 10 classes."""
    return SENetCIFAR((2, 2, 2, 2), num_classes, in_channels, width)
