"""What a search and an evaluation have in common: a network and a data set."""

from __future__ import annotations

import dataclasses

from jsonargparse.typing import NonNegativeInt, PositiveInt

from conet_fx import data
from conet_fx.data import DataSet


@dataclasses.dataclass(frozen=True)
class Job:
    """Which network on which data.

    Args:
        arch: a built-in name (resnet18_cifar, darts7 ...), torchvision:NAME or module:factory.
        data: digits, cifar10, cifar100, imagenet or folder:PATH.
        root: where the data set lies.
        download: fetch the data set if it is not there.
        image_size: side of the images, pixels.
        batch_size: samples in a batch, >= 1.
        workers: processes that load data, >= 0.
        data_on_device: keep the training images on the device and augment them there; not for images above 64 pixels.
    """

    arch: str
    data: str
    root: str | None = None
    download: bool = False
    image_size: int | None = None
    batch_size: PositiveInt = 128
    workers: NonNegativeInt = 0
    data_on_device: bool = False

    def dataset(self) -> DataSet:
        """The data set, read from disk."""
        return data.load(self.data, root=self.root, image_size=self.image_size, download=self.download)
