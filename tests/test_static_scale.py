"""static_scale(): Eq. 4 on a trained baseline."""

from __future__ import annotations

import copy

import pytest
import torch

import conet_fx
from tests.tiny import TinyNet, tiny_loader

SETTINGS = {"epochs_per_trial": 8, "lr": 0.1, "scheduler": "none", "accelerator": "cpu", "progress": False}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_sizes_are_those_of_equation_4(scale: float) -> None:
    model = TinyNet(width=16)
    before = copy.deepcopy(model.state_dict())
    result = conet_fx.static_scale(model, tiny_loader(), scale, **SETTINGS)
    layers = result.history[0].epochs[-1].layers
    used = {"a": max(layers["a"].rank_out, layers["c"].rank_out), "b": layers["b"].rank_out}
    assert max(used.values()) > 0
    assert result.sizes == {name: max(round(16 * (rank + (1 - scale) * (1 - rank))), 1) for name, rank in used.items()}
    assert result.cost.params == sum(p.numel() for p in result.model.parameters())
    assert result.model(torch.randn(2, 1, 6, 6)).shape == (2, 3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert conet_fx.search.static_sizes(result.plan, layers, scale) == {**result.sizes, "head": 3}


def test_the_baseline_may_have_another_width() -> None:
    result = conet_fx.static_scale(TinyNet(), tiny_loader(), 0.5, initial_channels=12, **SETTINGS)
    assert result.history[0].sizes == {"a": 12, "b": 12}
    assert 6 <= min(result.sizes.values()) <= max(result.sizes.values()) <= 12


@pytest.mark.parametrize("scale", [-0.1, 1.5, float("nan")])
def test_scales_out_of_range(scale: float) -> None:
    with pytest.raises(ValueError, match=r"write a number in \[0, 1\]"):
        conet_fx.static_scale(TinyNet(), tiny_loader(), scale)
