"""A classification task, whatever it is made from."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.utils.data import Dataset

from conet_fx.data.on_device import Augmentation


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A classification task: ``train`` and ``test`` give (image [C, H, W], class index).

    ``still`` are the training images without augmentation, which ``augmentation`` does to batches; None where the
    images of an epoch cannot be made from images of one size.
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    classes: int
    shape: tuple[int, int, int]
    still: Dataset[Any] | None = None
    augmentation: Augmentation | None = None
