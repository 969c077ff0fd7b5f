"""Architectures by name: built in, torchvision's, and the user's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conet_fx.models import build


def test_built_in() -> None:
    with torch.device("meta"):
        model = build("resnet18_cifar", num_classes=5, in_channels=1)
    assert model.get_submodule("conv1").in_channels == 1
    assert model.get_submodule("fc").out_features == 5


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "inception_v3"])
def test_torchvision(name: str) -> None:
    with torch.device("meta"):
        model = build(f"torchvision:{name}", num_classes=5)
        scores = model.train()(torch.randn(2, 3, 96, 96))
    assert scores.shape == (2, 5), "one tensor, also in training"


@pytest.mark.parametrize(
    ("name", "in_channels", "out_channels"), [("both", 2, 4), ("anything", 2, 4), ("neither", 1, 5)]
)
def test_factory_gets_what_it_takes(name: str, in_channels: int, out_channels: int) -> None:
    model = build(f"tests.models.factories:{name}", num_classes=4, in_channels=2)
    assert isinstance(model, nn.Conv2d)
    assert (model.in_channels, model.out_channels) == (in_channels, out_channels)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet34", r"unknown architecture 'resnet34', did you mean 'resnet34_cifar'.*torchvision:NAME"),
        ("resnext", r"unknown architecture 'resnext'.*known: resnet18_cifar, resnet34_cifar"),
        ("torchvision:resnet19", r"no classification model 'resnet19', did you mean 'resnet1[08]'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification model"),
        ("nowhere.at_all:net", r"no module 'nowhere'.*PYTHONPATH"),
        ("tests.models.factory:net", r"no module 'tests.models.factory'"),
        ("tests.models.factories:bath", r"has no 'bath', did you mean 'both'"),
    ],
)
def test_unknown_names(arch: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arch, num_classes=10)


def test_torchvision_takes_three_channels() -> None:
    with pytest.raises(ValueError, match=r"torchvision:resnet18 takes images of 3 channels, the data have 1"):
        build("torchvision:resnet18", num_classes=10, in_channels=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NOT_CALLABLE", "must be a class or a function"),
        ("nothing", "must return a torch.nn.Module, not NoneType"),
        ("others", "factories:others needs classes, width, and is offered num_classes and in_channels only"),
    ],
)
def test_not_a_factory(name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build(f"tests.models.factories:{name}", num_classes=10)


def test_an_import_error_inside_the_users_module_is_theirs_to_see() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        build("tests.models.broken_import:net", num_classes=10)
