"""Colour images through torchvision: CIFAR, ImageNet, and folders of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision import transforms as untyped_transforms

from conet_fx.data.dataset import DataSet
from conet_fx.data.on_device import Augmentation

transforms: Any = untyped_transforms
Transform = Callable[[Image.Image], Tensor]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and deviation of the training images' red, green and blue, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


CIFAR = {
    "cifar10": (datasets.CIFAR10, Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    "cifar100": (datasets.CIFAR100, Statistics((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
}
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cifar(name: str, root: Path, image_size: int, download: bool) -> DataSet:
    """CIFAR-10 or CIFAR-100 as torchvision stores it under ``root``."""
    kind, statistics = CIFAR[name]
    if not download and not (root / kind.base_folder).is_dir():
        raise FileNotFoundError(
            f"no {name} in {root.absolute()}: looked for the folder {kind.base_folder}; "
            "name the folder that holds it with --root DIR, or fetch it (170 MB) with --download"
        )
    augment, plain = _small(image_size, statistics)
    try:
        train = kind(root, train=True, transform=augment, download=download)
        test = kind(root, train=False, transform=plain)
        still = kind(root, train=True, transform=plain)
    except RuntimeError as error:  # torchvision's word for a file that is missing or whose checksum is wrong
        raise FileNotFoundError(
            f"{name} in {(root / kind.base_folder).absolute()} is incomplete or damaged: "
            "delete that folder and fetch it again with --download"
        ) from error
    except URLError as error:
        raise FileNotFoundError(
            f"could not fetch {name} ({error.reason}); "
            f"bring {kind.url} by other means and unpack it in {root.absolute()}"
        ) from error
    shape = (3, image_size, image_size)
    return DataSet(name, train, test, len(train.classes), shape, still, _augmentation(image_size, statistics))


def imagenet(root: Path, image_size: int) -> DataSet:
    """ImageNet-1k, unpacked by torchvision or still in the archives that torchvision unpacks."""
    augment, plain = _large(image_size, IMAGENET)
    try:
        train = datasets.ImageNet(root, "train", transform=augment)
        test = datasets.ImageNet(root, "val", transform=plain)
    except (RuntimeError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"no imagenet in {root.absolute()}: looked for meta.bin, train/ and val/, or for the archives "
            "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; "
            "get them from image-net.org (it asks for an account) and name their folder with --root DIR; "
            "already sorted into train/CLASS and val/CLASS? then use folder:DIR"
        ) from error
    return DataSet("imagenet", train, test, len(train.classes), (3, image_size, image_size))


def folder(name: str, path: Path, image_size: int | None) -> DataSet:
    """Images sorted into ``path/train/CLASS`` and ``path/test/CLASS`` (or ``path/val/CLASS``)."""
    held_out = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if not (path / "train").is_dir() or held_out is None:
        raise FileNotFoundError(
            f"no image folders in {path.absolute()}: looked for train/ and for test/ or val/, "
            "each with one folder of images a class; check the path in folder:PATH (it starts at --root DIR)"
        )
    train, test = datasets.ImageFolder(path / "train"), datasets.ImageFolder(held_out)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{path / 'train'} and {held_out} must have the same classes; only one has {odd}")
    if image_size is None:
        with Image.open(train.samples[0][0]) as image:
            image_size = min(*image.size, 224)
    shape = (3, image_size, image_size)
    if image_size > 64:
        train.transform, test.transform = _large(image_size, IMAGENET)
        return DataSet(name, train, test, len(train.classes), shape)
    train.transform, test.transform = _small(image_size, IMAGENET)
    still = datasets.ImageFolder(path / "train", test.transform)
    return DataSet(name, train, test, len(train.classes), shape, still, _augmentation(image_size, IMAGENET))


def _augmentation(size: int, statistics: Statistics) -> Augmentation:
    """What :func:`_small` does to the training images; it pads with black."""
    black = tuple(-mean / deviation for mean, deviation in zip(statistics.mean, statistics.deviation, strict=True))
    return Augmentation(pad=size // 8, flip=True, fill=black)


def _small(size: int, statistics: Statistics) -> tuple[Transform, Transform]:
    """CIFAR's recipe: pad by 1/8, crop at random, flip; the test images are only resized."""
    fit = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
    ]  # neither touches an image that has this size already
    augment = [transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip()]
    end = _to_tensor(statistics)
    return transforms.Compose([*fit, *augment, *end]), transforms.Compose([*fit, *end])


def _large(size: int, statistics: Statistics) -> tuple[Transform, Transform]:
    """ImageNet's recipe: random resized crop, flip; the test images are resized to 8/7 and cut centrally."""
    augment = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    fit = [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)]
    end = _to_tensor(statistics)
    return transforms.Compose([*augment, *end]), transforms.Compose([*fit, *end])


def _to_tensor(statistics: Statistics) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(statistics.mean, statistics.deviation)]
