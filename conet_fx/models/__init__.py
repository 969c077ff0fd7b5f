"""Networks by name, and the networks of the paper that torchvision lacks."""

from conet_fx.models import genotypes
from conet_fx.models.darts import (
    DARTS,
    darts7,
    darts14,
    darts14_imagenet,
    darts20,
    darts_plus7,
    darts_plus14,
    darts_plus14_imagenet,
    darts_plus20,
    set_drop_path,
)
from conet_fx.models.genotypes import Genotype
from conet_fx.models.mobilenet_cifar import mobilenet_v2_cifar
from conet_fx.models.registry import build
from conet_fx.models.resnet_cifar import resnet18_cifar, resnet34_cifar, resnet50_cifar
from conet_fx.models.senet_cifar import senet18_cifar
from conet_fx.models.shufflenet_cifar import shufflenet_v2_cifar
from conet_fx.models.vgg_cifar import vgg16_bn_cifar

__all__ = [
    "DARTS",
    "Genotype",
    "build",
    "darts7",
    "darts14",
    "darts14_imagenet",
    "darts20",
    "darts_plus7",
    "darts_plus14",
    "darts_plus14_imagenet",
    "darts_plus20",
    "genotypes",
    "mobilenet_v2_cifar",
    "resnet18_cifar",
    "resnet34_cifar",
    "resnet50_cifar",
    "senet18_cifar",
    "set_drop_path",
    "shufflenet_v2_cifar",
    "vgg16_bn_cifar",
]
