"""Image classification data by name: the built-in digits, CIFAR, ImageNet, or a folder of images."""

from conet_fx.data.dataset import DataSet
from conet_fx.data.load import load, loaders
from conet_fx.data.on_device import Augmentation, OnDevice

__all__ = ["Augmentation", "DataSet", "OnDevice", "load", "loaders"]
