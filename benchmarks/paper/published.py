"""What the paper reports: test top-1 in percent and parameters in millions.

``TABLE`` has figures of the paper's text, ``IMAGENET`` those in the README of https://github.com/mahdihosseini/CONet.
``FIGURE`` and ``RIVALS`` were read off ``images/CIFAR100_accuracy_params_log_with_random.png`` of that repository, at
the centres of the markers (to 0.05 points and 2 % of the parameters); which delta a marker is for follows from the
points that a table has too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Published:
    """One result."""

    top1: float
    params: float


# (data, network, delta); None stands for the network as it was published
Key = tuple[str, str, float | None]

TABLE: Mapping[Key, Published] = {
    ("cifar10", "resnet34_cifar", None): Published(95.56, 21.28),
    ("cifar10", "resnet34_cifar", 0.015): Published(95.59, 5.47),
    ("cifar10", "resnet34_cifar", 0.01): Published(95.74, 10.55),
    ("cifar10", "darts7", None): Published(94.30, 0.20),
    ("cifar10", "darts7", 0.0075): Published(95.87, 2.04),
    ("cifar100", "resnet34_cifar", None): Published(77.88, 21.28),
    ("cifar100", "resnet34_cifar", 0.01): Published(78.43, 15.6),
    ("cifar100", "darts7", None): Published(73.81, 0.25),
    ("cifar100", "darts7", 0.0075): Published(80.12, 2.89),
}

FIGURE: Mapping[Key, Published] = {
    ("cifar100", "resnet34_cifar", 0.015): Published(78.15, 9.35),
    ("cifar100", "darts7", 0.0025): Published(80.75, 6.25),
    ("cifar100", "darts7", 0.005): Published(80.54, 5.06),
    ("cifar100", "darts7", 0.01): Published(79.46, 1.25),
    ("cifar100", "darts7", 0.015): Published(77.38, 0.58),
    ("cifar100", "darts14", None): Published(81.43, 4.02),
    ("cifar100", "darts14", 0.0025): Published(82.40, 12.67),
    ("cifar100", "darts14", 0.005): Published(82.06, 8.23),
    ("cifar100", "darts14", 0.0075): Published(80.67, 3.07),
    ("cifar100", "darts14", 0.01): Published(78.39, 0.91),
    ("cifar100", "darts14", 0.015): Published(76.33, 0.41),
    ("cifar100", "darts_plus7", None): Published(75.17, 0.28),
    ("cifar100", "darts_plus7", 0.0025): Published(81.2, 7.5),
    ("cifar100", "darts_plus7", 0.005): Published(81.02, 5.68),
    ("cifar100", "darts_plus7", 0.0075): Published(80.66, 3.55),
    ("cifar100", "darts_plus7", 0.01): Published(79.87, 2.16),
    ("cifar100", "darts_plus14", None): Published(80.85, 4.41),
    ("cifar100", "darts_plus14", 0.0025): Published(81.47, 8.58),
    ("cifar100", "darts_plus14", 0.005): Published(80.68, 5.47),
    ("cifar100", "darts_plus14", 0.0075): Published(79.46, 2.89),
    ("cifar100", "darts_plus14", 0.01): Published(78.10, 1.61),
    ("cifar100", "darts_plus14", 0.015): Published(76.28, 0.59),
}

# other ways to choose widths, read off the same picture: (data, network, label of ours) -> by parameters
RIVALS: Mapping[tuple[str, str, str], tuple[Published, ...]] = {
    ("cifar100", "darts7", "random"): (
        Published(76.94, 0.67),
        Published(78.70, 1.35),
        Published(79.96, 2.69),
        Published(80.36, 4.70),
    ),
    ("cifar100", "darts7", "scaled"): (
        Published(75.83, 0.46),
        Published(78.79, 1.67),
        Published(80.28, 3.94),
        Published(80.52, 5.76),
        Published(80.67, 6.95),
    ),
}

# (data of the search, network that is trained on ImageNet, delta)
IMAGENET: Mapping[Key, Published] = {
    ("", "darts14_imagenet", None): Published(73.3, 4.7),
    ("cifar10", "darts14_imagenet", 0.0075): Published(67.2, 1.8),
    ("cifar10", "darts14_imagenet", 0.0005): Published(74.0, 4.8),
    ("cifar100", "darts14_imagenet", 0.0005): Published(76.6, 9.0),
}


def sweep(data: str, arch: str, delta: float | None) -> Published | None:
    """What the paper has for this delta, from a table where there is one."""
    return TABLE.get((data, arch, delta)) or FIGURE.get((data, arch, delta))


def curves(data: str, arch: str) -> dict[str, list[Published]]:
    """All that the paper has for a network, by label of ours, ordered by parameters."""
    found = [sweep(*key) for key in {**TABLE, **FIGURE} if key[:2] == (data, arch) and key[2] is not None]
    known = {"found": [each for each in found if each]}
    known |= {label: list(points) for (of, network, label), points in RIVALS.items() if (of, network) == (data, arch)}
    return {label: sorted(points, key=lambda each: each.params) for label, points in known.items() if points}


def advantages(data: str, arch: str, rival: str) -> list[tuple[float, float]]:
    """(million parameters, points of top-1) by which the paper's searched networks lead those of a rival, at each of
    their sizes that the rival's curve spans, on straight lines over the logarithm of the parameters.
    """
    known = curves(data, arch)
    found, others = known.get("found", []), known.get(rival, [])
    logs, tops = [math.log(each.params) for each in others], [each.top1 for each in others]
    spanned = [each for each in found if others and others[0].params <= each.params <= others[-1].params]
    return [(each.params, each.top1 - float(np.interp(math.log(each.params), logs, tops))) for each in spanned]
