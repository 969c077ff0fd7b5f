"""Networks by name, and the networks of the paper that torchvision lacks."""

from conet_fx.models.registry import build
from conet_fx.models.resnet_cifar import resnet18_cifar, resnet34_cifar, resnet50_cifar

__all__ = ["build", "resnet18_cifar", "resnet34_cifar", "resnet50_cifar"]
