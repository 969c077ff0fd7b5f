"""VGG for 32x32 images (Simonyan and Zisserman, "Very Deep Convolutional Networks"), with batch norms.

As usual for small images, one linear layer classifies. The convolutions have no bias: the batch norms have one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


class VGGCIFAR(nn.Module):
    """Stages of ``depths`` 3x3 convolutions, each with a pooling behind; the widths are ``width * (1, 2, 4, 8, 8)``."""

    def __init__(self, depths: tuple[int, int, int, int, int], num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(depths, in_channels, width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_channels(width, len(depths) - 1), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, num_classes] of images [N, in_channels, H, W]."""
        scores: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return scores


def _layers(depths: tuple[int, ...], in_channels: int, width: int) -> Iterator[nn.Module]:
    for stage, depth in enumerate(depths):
        channels = _channels(width, stage)
        for _ in range(depth):
            yield nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(channels)
            yield nn.ReLU()
            in_channels = channels
        yield nn.MaxPool2d(2)


def _channels(width: int, stage: int) -> int:
    return width * (1, 2, 4, 8, 8)[stage]


def vgg16_bn_cifar(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> VGGCIFAR:
    """VGG-16 for 32x32 images: 14.72 million parameters with 10 classes."""
    return VGGCIFAR((2, 2, 3, 3, 3), num_classes, in_channels, width)
