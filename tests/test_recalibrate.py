"""Batch norm statistics, estimated anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import conet_fx
from conet_fx.recipe.build import named_tensors


class Net(nn.Module):
    """A norm that runs twice, one as a function, one without statistics, one that never runs; dropout."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Conv2d(6, 5, 1)
        self.register_buffer("mean", torch.full((5,), float("nan")))
        self.register_buffer("var", torch.ones(5))
        self.batch_only = nn.BatchNorm2d(5, track_running_stats=False)
        self.idle = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.norm(self.conv(x)).relu()))
        return self.batch_only(F.batch_norm(self.last(x), self.mean, self.var, training=self.training))


IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
LOADER = DataLoader(TensorDataset(IMAGES, torch.zeros(20)), batch_size=6, shuffle=True)


def snapshot(module: nn.Module) -> dict[str, Any]:
    modes = {f"mode {path}": part.training for path, part in module.named_modules()}
    return {name: tensor.clone() for name, tensor in named_tensors(module)} | modes


def changed(module: nn.Module, before: dict[str, Any]) -> set[str]:
    after = snapshot(module)
    assert after.keys() == before.keys()
    return {
        name for name, value in after.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(before[name]))
    }


def test_the_statistics_are_those_of_torch() -> None:
    """``update_bn`` of torch does the same where there is no dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(6)).double()
    theirs = copy.deepcopy(model)
    batches = list(IMAGES.double().split(6))
    update_bn(batches, theirs)
    assert conet_fx.recalibrate_bn(model, batches) == 4
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert model[1].momentum == 0.3


@pytest.mark.parametrize("graph", [False, True])
def test_only_statistics_change(graph: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = Net()
    model.eval()
    model.drop.train()
    model.conv.weight.requires_grad_(False)
    if graph:
        model = conet_fx.analyze(model, IMAGES[:2]).resize({"conv": 4}, init="inherit")
    before, random = snapshot(model), torch.get_rng_state()
    assert conet_fx.recalibrate_bn(model, LOADER, batches=3) == 3
    assert torch.equal(random, torch.get_rng_state())
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "mean", "var"}
    assert changed(model, before) == statistics
    assert int(model.get_submodule("norm").num_batches_tracked) == 6
    assert bool(model.get_buffer("mean").isfinite().all())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_parameter("conv.weight").requires_grad


def test_inputs_of_all_forms() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.norm(a + b)

    model, x = Two(), torch.randn(5, 3)
    found = []
    for batch in ([(x, x), 0], [{"a": x, "b": x}, 0], {"a": x, "b": x}):
        conet_fx.recalibrate_bn(model, [batch])
        found.append(model.norm.running_mean.clone())
    assert torch.allclose(found[0], 2 * x.mean(0))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_cannot_be_done_leaves_everything() -> None:
    torch.manual_seed(0)
    model = Net()
    model.mean.zero_()
    before = snapshot(model)
    for loader, message in (
        ([], "loader is empty"),
        ([torch.randn(6, 3, 8, 8), torch.randn(6, 4, 8, 8)], "expected input"),
        ([0], "a batch must be an input of tensors"),
        ([[]], "a batch must be an input of tensors"),
        (IMAGES, "loader must be an iterable of batches"),
    ):
        with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
            conet_fx.recalibrate_bn(model, loader)
        assert changed(model, before) == set()
    with pytest.raises(ValueError, match="no batch norm with running statistics ran in this Conv2d"):
        conet_fx.recalibrate_bn(nn.Conv2d(3, 3, 1), [IMAGES])
    with pytest.raises(ValueError, match="batches=0"):
        conet_fx.recalibrate_bn(model, LOADER, batches=0)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not str"):
        conet_fx.recalibrate_bn("model", LOADER)  # type: ignore[arg-type]
