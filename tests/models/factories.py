"""Networks of a user, for the tests of the registry."""

from typing import Any

from torch import nn

NOT_CALLABLE = 3


def both(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Conv2d(in_channels, num_classes, 1)


def neither(width: int = 5) -> nn.Module:
    return nn.Conv2d(1, width, 1)


def anything(**options: Any) -> nn.Module:
    return nn.Conv2d(options["in_channels"], options["num_classes"], 1)


def others(classes: int, width: int, in_channels: int, depth: int = 1) -> nn.Module:
    return nn.Conv2d(in_channels, classes * width * depth, 1)


def nothing() -> None:
    return None
