"""What the paper reports: test top-1 in percent and parameters in millions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published result."""

    top1: float
    params: float


# (data, network, delta); None stands for the network as it was published
SWEEP: Mapping[tuple[str, str, float | None], Figure] = {
    ("cifar10", "resnet34_cifar", None): Figure(95.56, 21.28),
    ("cifar10", "resnet34_cifar", 0.015): Figure(95.59, 5.47),
    ("cifar10", "resnet34_cifar", 0.01): Figure(95.74, 10.55),
    ("cifar10", "darts7", None): Figure(94.30, 0.20),
    ("cifar10", "darts7", 0.0075): Figure(95.87, 2.04),
    ("cifar100", "resnet34_cifar", None): Figure(77.88, 21.28),
    ("cifar100", "resnet34_cifar", 0.01): Figure(78.43, 15.6),
    ("cifar100", "darts7", None): Figure(73.81, 0.25),
    ("cifar100", "darts7", 0.0075): Figure(80.12, 2.89),
}
