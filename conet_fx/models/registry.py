"""From the name of an architecture to a module with fresh weights."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import get_model, list_models  # type: ignore[attr-defined]

from conet_fx.models import darts
from conet_fx.models.mobilenet_cifar import mobilenet_v2_cifar
from conet_fx.models.resnet_cifar import resnet18_cifar, resnet34_cifar, resnet50_cifar
from conet_fx.models.senet_cifar import senet18_cifar
from conet_fx.models.shufflenet_cifar import shufflenet_v2_cifar
from conet_fx.models.vgg_cifar import vgg16_bn_cifar

BUILT_IN: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18_cifar": resnet18_cifar,
    "resnet34_cifar": resnet34_cifar,
    "resnet50_cifar": resnet50_cifar,
    "vgg16_bn_cifar": vgg16_bn_cifar,
    "senet18_cifar": senet18_cifar,
    "mobilenet_v2_cifar": mobilenet_v2_cifar,
    "shufflenet_v2_cifar": shufflenet_v2_cifar,
    "darts7": darts.darts7,
    "darts14": darts.darts14,
    "darts20": darts.darts20,
    "darts_plus7": darts.darts_plus7,
    "darts_plus14": darts.darts_plus14,
    "darts_plus20": darts.darts_plus20,
    "darts14_imagenet": darts.darts14_imagenet,
    "darts_plus14_imagenet": darts.darts_plus14_imagenet,
}

# in training these return auxiliary outputs unless told not to, and they warn unless told how to initialise
TORCHVISION_OPTIONS: Mapping[str, Mapping[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build(arch: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A fresh network that maps images [N, in_channels, H, W] to class scores [N, num_classes].

    Args:
        arch: a built-in name (``resnet34_cifar``), ``torchvision:NAME`` for any of its classification models,
            or ``package.module:factory`` for the user's own: a class or function that is called with those
            of ``num_classes`` and ``in_channels`` that it has as parameters.

    Raises:
        ValueError: there is no such network, or it cannot take that many input channels.
        TypeError: the user's factory is not callable or does not return a module.
    """
    if arch in BUILT_IN:
        return BUILT_IN[arch](num_classes=num_classes, in_channels=in_channels)
    source, colon, name = arch.partition(":")
    if source == "torchvision" and colon:
        return _from_torchvision(name, num_classes, in_channels)
    if colon:
        return _from_factory(source, name, num_classes, in_channels)
    known = [*BUILT_IN, *(f"torchvision:{name}" for name in _torchvision_names())]
    raise ValueError(
        f"unknown architecture {arch!r}{_did_you_mean(arch, known)} "
        f"(known: {', '.join(BUILT_IN)}, torchvision:NAME, package.module:factory)"
    )


def _from_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    if name not in _torchvision_names():
        known = _torchvision_names()
        hint = _did_you_mean(name, known)
        raise ValueError(f"torchvision has no classification model {name!r}{hint} (known: {', '.join(known)})")
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, the data have {in_channels}; "
            "write a factory that replaces its first layer and name it as package.module:factory"
        )
    options = TORCHVISION_OPTIONS.get(name, {})
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _from_factory(module: str, name: str, num_classes: int, in_channels: int) -> nn.Module:
    arch = f"{module}:{name}"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the user's module was found: one of its own imports was not
        raise ValueError(
            f"cannot build {arch!r}: there is no module {error.name!r}; "
            "install it, or put the folder that holds it on PYTHONPATH"
        ) from error
    try:
        factory = getattr(imported, name)
    except AttributeError as error:
        hint = _did_you_mean(name, dir(imported))
        raise ValueError(f"cannot build {arch!r}: {module} has no {name!r}{hint}") from error
    if not callable(factory):
        raise TypeError(f"{arch} must be a class or a function that returns a module, not {factory!r}")
    parameters = list(inspect.signature(factory).parameters.values())
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    offered: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if unknown := [name for name in required if name not in offered]:
        raise TypeError(
            f"{arch} needs {', '.join(unknown)}, and is offered num_classes and in_channels only: name its parameters "
            "so, give the others defaults, or write a function of these two that calls it"
        )
    model = factory(**{key: value for key, value in offered.items() if takes_any or key in named})
    if not isinstance(model, nn.Module):
        raise TypeError(f"{arch} must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _torchvision_names() -> list[str]:
    """Its classification models (the detectors and video networks are in other modules)."""
    return list(list_models(module=models))


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
