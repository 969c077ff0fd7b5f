"""A classification task, whatever it is made from."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor
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

    def with_cutout(self, size: int) -> DataSet:
        """The same task, a square of ``size`` pixels cut out of each training image, another one each time; 0: none.

        Raises ValueError for a size below 0.
        """
        if size < 0:
            raise ValueError(f"cutout={size!r}: write the side of a square in pixels, or 0 for none")
        if not size:
            return self
        augmentation = self.augmentation and dataclasses.replace(self.augmentation, cutout=size)
        return dataclasses.replace(self, train=_Cut(self.train, Augmentation(cutout=size)), augmentation=augmentation)


class _Cut(Dataset[Any]):
    """The samples of another data set, cut; draws from torch's global generator, as torchvision's transforms do."""

    def __init__(self, whole: Dataset[Any], cut: Augmentation) -> None:
        self._whole, self._cut = whole, cut

    def __len__(self) -> int:
        return len(self._whole)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, label = self._whole[index]
        return self._cut(image[None], None)[0], label
