"""The built-in data: scikit-learn's handwritten digits, 1797 real images that come with the package."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional
from torch.utils.data import TensorDataset

from conet_fx.data.dataset import DataSet
from conet_fx.data.on_device import Augmentation


def load(image_size: int) -> DataSet:
    """Training and test images; the same fifth is always held out, with every class in it by its share.

    Images are resized bilinearly from 8x8, then normalised by the mean and deviation of the training split.
    """
    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = functional.interpolate(images, size=image_size, mode="bilinear")
    images = (images - images[train].mean()) / images[train].std()
    targets = torch.as_tensor(labels, dtype=torch.int64)
    shape = (1, image_size, image_size)
    shown = TensorDataset(images[train], targets[train])
    return DataSet("digits", shown, TensorDataset(images[test], targets[test]), 10, shape, shown, Augmentation())
