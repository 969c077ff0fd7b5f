"""Image classification data by name: the built-in digits, CIFAR, ImageNet, or a folder of images."""

from conet_fx.data.load import DataSet, load, loaders

__all__ = ["DataSet", "load", "loaders"]
