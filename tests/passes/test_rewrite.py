"""What a rewrite cannot keep is said, not hidden."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import conet_fx
from tests.passes.cases import net
from tests.test_recipe import LEAVES


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


class PaddedEmbedding(nn.Module):
    """A position embedding under channels that are padded: its positions never move."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv1d(3, 4, 1), nn.Conv1d(4, 4, 1), nn.Conv1d(6, 5, 1)
        self.position = nn.Parameter(torch.randn(1, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.out(nn.functional.pad(y + self.position + self.b(y), (0, 0, 0, 2)))


def test_an_axis_that_keeps_its_size_is_inherited_whole() -> None:
    model, x = PaddedEmbedding().double(), torch.randn(2, 3, 4).double()
    grown = conet_fx.analyze(model, x).resize({"a": 6}, init="inherit")
    torch.testing.assert_close(grown(x), model(x))
    assert torch.equal(grown.position[:, :4], model.position)


@pytest.mark.parametrize("leaf", [leaf for leaf, _ in LEAVES if hasattr(leaf, "reset_parameters")], ids=str)
def test_layers_of_torch_reset_all_their_tensors(leaf: nn.Module) -> None:
    """Fresh weights are left to them alone."""
    leaf = copy.deepcopy(leaf)
    own = [t for t in (*leaf._parameters.values(), *leaf._buffers.values()) if t is not None]
    with torch.no_grad():
        for tensor in own:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -7)
    leaf.reset_parameters()
    assert not any(bool((tensor.isnan() | (tensor == -7)).any()) for tensor in own)


BATCHES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "size": lambda token, x: token.expand(x.size(0), -1).unsqueeze(1),
    "shape": lambda token, x: token.expand(x.shape[0], 1, -1),
    "a list": lambda token, x: token.expand((x.shape[0], -1)).unsqueeze(1),
    "broadcast_to": lambda token, x: torch.broadcast_to(token, (x.shape[0], 1, token.shape[0])),
    "repeat": lambda token, x: token.repeat(x.size(0), 1, 1),
    "zeros": lambda token, x: token + x.new_zeros(x.size(0), 1, x.shape[2]),
    "ones": lambda token, x: token * torch.ones(x.shape[0], 1, 1),
}


@pytest.mark.parametrize("spelling", BATCHES)
def test_a_number_that_the_graph_computes_is_not_spelled_out(spelling: str) -> None:
    """A class token comes to as many samples as there are, not to those of the example."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).transpose(1, 2)
        return self.out(torch.cat((BATCHES[spelling](self.token, y), y), 1))

    model = net(forward, conv=nn.Conv1d(3, 4, 1), token=nn.Parameter(torch.rand(4)), out=nn.Linear(4, 2))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 5))
    x = torch.rand(3, 3, 5)
    assert torch.equal(plan.resize({}, init="inherit")(x), model(x))
    assert plan.resize({"conv": 6})(x).shape == (3, 6, 2)


LENGTHS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "new_zeros": lambda y: y.new_zeros(y.shape),
    "zeros": lambda y: torch.zeros(*y.shape),
    "new": lambda y: y.new(y.shape).zero_(),
    "expand": lambda y: torch.zeros(1, 1, 1, 1).expand(y.shape),
    "repeat": lambda y: torch.zeros(1, 1, 1, 1).repeat(y.shape),
    "literals": lambda y: y.new_zeros(2, 4, 5, 5),
}


@pytest.mark.parametrize("spelling", LENGTHS)
def test_lengths_given_for_other_dims_do_not_compete_with_the_channels(spelling: str) -> None:
    """The samples and the space of a tensor made by its lengths never change, so a view need not choose."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = y + LENGTHS[spelling](y)
        return self.out(z.reshape(-1, 1, *y.shape[2:]).relu().view(z.shape))

    model = net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), out=nn.Conv2d(4, 2, 1))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 5, 5))
    assert [group.name for group in plan.free] == ["conv"], plan.explain()
    assert plan.resize({"conv": 7})(torch.rand(2, 3, 5, 5)).shape == (2, 2, 5, 5)


def test_the_constructor_of_old_code_takes_a_size_or_data() -> None:
    """``x.new(x.size())`` of variational autoencoders, from before torch 0.4; ``x.new([2.0])`` holds a 2."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.conv(x).chunk(2, 1)
        noise = variance.data.new(variance.size()).normal_()
        z = noise.mul((variance * 0.5).exp()).add_(mean) * mean.new([2.0]) + mean.new(1, 4, 1).fill_(0.5)
        return self.out(z)

    model = net(forward, conv=nn.Conv1d(3, 8, 1), out=nn.Conv1d(4, 2, 1))
    x = torch.rand(3, 3, 5)
    plan = conet_fx.analyze(model, x)
    assert [(group.name, group.size, group.quantum) for group in plan.free] == [("conv", 8, 2)]
    outputs = []
    for network in (model, plan.resize({}, init="inherit")):
        torch.manual_seed(0)
        outputs.append(network(x))
    assert torch.equal(*outputs)
    assert plan.resize({"conv": 14})(x).shape == (3, 2, 5)


def test_lists_that_old_code_makes_a_tensor_of_are_data() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.out(y * y.new([y.size(1), 1.0, 2.0, 3.0])[:, None])

    model = net(forward, conv=nn.Conv1d(3, 4, 1), out=nn.Conv1d(4, 2, 1))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 5))
    assert "meets channels of a fixed number" in (plan.group("conv").frozen or "")


def test_a_tensor_that_old_code_makes_of_another_is_not_followed() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.out(y) * y.new(y).mean((1, 2))[:, None, None]

    model = net(forward, conv=nn.Conv1d(3, 4, 1), out=nn.Conv1d(4, 2, 1))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 5))
    assert "it is given a tensor" in (plan.group("conv").frozen or "")


def test_parameters_that_are_no_floats_are_kept() -> None:
    """Tables of integers, which no normal distribution gives."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(x) + self.table.abs().sum())

    table = nn.Parameter(torch.arange(4), requires_grad=False)
    model = net(forward, conv=nn.Conv2d(3, 4, 1), table=table, out=nn.Conv2d(4, 2, 1))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 5, 5))
    assert plan.resize({"conv": 6}).table.tolist() == [0, 1, 2, 3]


def test_complex_parameters_are_drawn_with_the_spread_of_both_parts() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.fft.ifft(torch.fft.fft(self.conv(x)) * self.factors).real)

    factors = nn.Parameter(torch.complex(torch.randn(400, 1) + 1, torch.randn(400, 1) + 1) * 3)
    model = net(forward, conv=nn.Conv1d(3, 400, 1), factors=factors, out=nn.Conv1d(400, 2, 1))
    new = conet_fx.analyze(model, torch.rand(2, 3, 5)).resize({"conv": 600}).factors.detach()
    assert (new.shape, new.dtype) == ((600, 1), torch.complex64)
    for part in (new.real, new.imag):
        assert float(part.mean()) == pytest.approx(3, abs=0.5)
        assert float(part.std()) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("init", ["reset", "inherit"])
def test_weights_with_the_channels_last_stay_so(init: Any) -> None:
    model = torchvision.models.resnet18(num_classes=4)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        plan = conet_fx.analyze(model.to(memory_format=memory_format), torch.zeros(1, 3, 64, 64))
        resized = plan.resize({group.name: group.size // 2 for group in plan.free}, init=init)
        convs = [module for module in resized.modules() if isinstance(module, nn.Conv2d)]
        assert {conv.weight.stride()[1] == 1 for conv in convs if conv.kernel_size != (1, 1)} == {
            memory_format is torch.channels_last
        }
