"""The CIFAR ResNets against their published sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from conet_fx.models import resnet18_cifar, resnet34_cifar, resnet50_cifar

Factory = Callable[..., nn.Module]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("factory", "classes", "expected"),
    [
        (resnet18_cifar, 10, 11_173_962),
        (resnet34_cifar, 10, 21_282_122),  # 21.28 M in the paper
        (resnet34_cifar, 100, 21_328_292),
        (resnet50_cifar, 10, 23_520_842),
    ],
)
def test_published_parameters(factory: Factory, classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(factory(num_classes=classes)) == expected


@pytest.mark.parametrize(("factory", "depth"), [(resnet18_cifar, 18), (resnet34_cifar, 34), (resnet50_cifar, 50)])
def test_the_name_counts_the_layers(factory: Factory, depth: int) -> None:
    with torch.device("meta"):
        model = factory()
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(layers) == depth


@pytest.mark.parametrize("factory", [resnet18_cifar, resnet34_cifar, resnet50_cifar])
def test_runs_traces_and_trains_at_any_width(factory: Factory) -> None:
    model = factory(num_classes=7, in_channels=1, width=4)
    images = torch.randn(2, 1, 32, 32)
    scores = model(images)
    assert scores.shape == (2, 7)
    traced = fx.symbolic_trace(model.eval())
    torch.testing.assert_close(traced(images), model(images))
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_image_halves_thrice() -> None:
    model = resnet18_cifar(width=4)
    x = torch.randn(2, 3, 32, 32)
    features = model.layer4(model.layer3(model.layer2(model.layer1(model.conv1(x)))))
    assert features.shape == (2, 32, 4, 4)
