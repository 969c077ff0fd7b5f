"""From a name to a data set, and from a data set to its two loaders."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from conet_fx.data import digits, images
from conet_fx.data.dataset import DataSet
from conet_fx.data.on_device import OnDevice

NAMES = ("digits", "cifar10", "cifar100", "imagenet", "folder:PATH")


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    download: bool = False,
) -> DataSet:
    """The data set called ``name``; images are normalised float tensors, the training images are augmented.

    =========== ========== ===============================================================================
    name        image_size images
    =========== ========== ===============================================================================
    digits      32         scikit-learn's 8x8 grey digits (``image_size=8``: as they are), not augmented
    cifar10     32         padded by 1/8, cropped at random, flipped; the same for ``cifar100``
    imagenet    224        random resized crop, flipped; tests see the central crop of an image 8/7 as big
    folder:PATH see below  ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*`` (or ``PATH/val/CLASS/*``)
    =========== ========== ===============================================================================

    A folder's images are treated like CIFAR's up to 64 pixels and like ImageNet's above, with ImageNet's
    statistics. Its ``image_size`` is by default the shorter side of the first training image, at most 224.

    Args:
        root: where the data lie, ``data`` by default; a relative ``folder:PATH`` starts there, if given.
        image_size: height and width of the images handed out.
        download: let torchvision fetch what is missing (CIFAR only). Nothing is downloaded otherwise.

    Raises:
        ValueError: the name is unknown, or a folder does not hold two matching splits.
        FileNotFoundError: the data are not there; says what was looked for and what to do.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, not {image_size}")
    if name == "digits":
        return digits.load(image_size or 32)
    if name.startswith("folder:"):
        folder = Path(root or "", name.removeprefix("folder:"))
        return images.folder(name, folder, image_size)
    if name in images.CIFAR:
        return images.cifar(name, Path(root or "data"), image_size or 32, download)
    if name == "imagenet":
        return images.imagenet(Path(root or "data"), image_size or 224)
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown data set {name!r}{hint} (known: {', '.join(NAMES)})")


def loaders(
    dataset: DataSet,
    batch_size: int,
    seed: int,
    workers: int = 0,
    *,
    device: torch.device | None = None,
    part: tuple[int, int] = (0, 1),
) -> tuple[DataLoader[Any] | OnDevice, DataLoader[Any]]:
    """The (training, test) loaders of batches (images, class indices).

    A generator of its own shuffles the training set: the same ``seed`` gives the same batches epoch by epoch,
    whatever else draws random numbers. It seeds the workers too, and so their augmentation; without workers
    augmentation draws from torch's global generator. A last training batch of one image is left out: batch
    norm cannot train on it.

    With a ``device`` all training images are kept there and augmented there, as :class:`OnDevice` does, which shares
    them out to ``part`` (rank, world).

    Raises ValueError for a ``device`` and a data set that cannot be augmented there.
    """
    size = len(dataset.train)  # type: ignore[arg-type]
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
    }
    test: DataLoader[Any] = DataLoader(dataset.test, generator=torch.Generator().manual_seed(seed), **common)
    if device is not None:
        if dataset.still is None or dataset.augmentation is None:
            raise ValueError(
                f"{dataset.name} cannot be kept on the device: its images are cut from larger ones anew each epoch; "
                "leave data_on_device out, and use workers"
            )
        return OnDevice(dataset.still, dataset.augmentation, batch_size, seed, device, part), test
    train: DataLoader[Any] = DataLoader(
        dataset.train,
        shuffle=True,
        drop_last=size > batch_size and size % batch_size == 1,
        generator=torch.Generator().manual_seed(seed),
        **common,
    )
    return train, test
