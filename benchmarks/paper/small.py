"""A network that two CPU cores can train many times."""

from __future__ import annotations

from conet_fx.models import DARTS
from conet_fx.models.genotypes import DARTS_V2


def darts4(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> DARTS:
    """Four of the cells that DARTS-7 has seven of: normal, reduction, reduction, normal."""
    return DARTS(DARTS_V2, 4, num_classes, in_channels, width)
