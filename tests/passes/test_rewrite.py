"""What a rewrite cannot keep is said, not hidden."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import conet_fx


class TwoOrders(nn.Module):
    """A value joined with itself in another order of channels: no channel can be told from the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.out = nn.Linear(6 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.out(y.flatten(1) + y.permute(0, 2, 3, 1).flatten(1))


def test_channels_that_cannot_be_inherited_are_told() -> None:
    plan = conet_fx.analyze(TwoOrders(), torch.zeros(2, 3, 2, 2))
    for size in (4, 9):
        with pytest.warns(UserWarning, match=r"out inherits only 0 of \d+ input channels"):
            resized = plan.resize({"conv": size}, init="inherit")
        assert resized(torch.zeros(2, 3, 2, 2)).shape == (2, 5)


def test_fresh_weights_and_present_sizes_need_no_warning() -> None:
    plan = conet_fx.analyze(TwoOrders(), torch.zeros(2, 3, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.resize({"conv": 4})
        plan.resize({}, init="inherit")
