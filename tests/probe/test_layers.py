"""Which layers of a network are measured, and by which weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import conet_fx
from conet_fx.probe import layer_metrics, probe, probed_layers

IMAGE = torch.randn(2, 3, 6, 6)


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 for each output channel."""

    def standard(self) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return (self.weight - mean) / self.weight.std((1, 2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standard(), self.bias, self.stride, self.padding)


class Bare(nn.Module):
    """Functions with a parameter: transposed, depending on the input, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 2, 2))
        self.experts = nn.Parameter(torch.randn(2, 6, 8, 1, 1))
        self.head = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.up)
        chosen = (self.experts * x.mean().sigmoid()).sum(0)
        return F.linear(F.conv2d(y, chosen).mean((2, 3)), self.head)


def resized(model: nn.Module) -> torch.fx.GraphModule:
    plan = conet_fx.analyze(model, IMAGE)
    return plan.resize({group.name: group.size + 2 for group in plan.free})


def test_a_weight_that_the_graph_computes_is_measured_as_it_is_used() -> None:
    torch.manual_seed(0)
    network = resized(nn.Sequential(Standardised(3, 16, 3), nn.ReLU(), Standardised(16, 8, 1), nn.Conv2d(8, 4, 1)))
    found = probed_layers(network)
    assert found.keys() == {"0", "2", "3"}
    own = Standardised(3, 18, 3)
    own.load_state_dict(network.get_submodule("0").state_dict())
    assert torch.equal(found["0"].weight, own.standard())
    assert probe(network)["0"] == layer_metrics(own.standard())
    assert not found["0"].weight.requires_grad
    assert [tuple(p.shape) for p in found["0"].parameters] == [(18, 3, 3, 3)]


def test_weight_norm_is_measured_with_its_scales() -> None:
    network = resized(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 4, 1)))
    g, v = (network.get_parameter(f"0.parametrizations.weight.original{i}") for i in (0, 1))
    with torch.no_grad():
        g.copy_(torch.linspace(0.1, 3, len(g))[:, None, None, None])
    assert probe(network)["0"] == layer_metrics(torch._weight_norm(v, g, 0))


@pytest.mark.parametrize("network", [
    lambda: resized(nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1))),
    lambda: resized(nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1))),
    lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1)),
], ids=["by a hook", "parametrized", "not resized"])  # fmt: skip
def test_measuring_leaves_the_buffers_of_spectral_norm_alone(network: Any) -> None:
    network = network()  # in train mode, where each call improves the singular vectors
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert probe(network).keys() == {"0", "2"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("put", [
    nn.utils.weight_norm,
    spectral_norm,
    lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3),
    lambda layer: prune.l1_unstructured(layer, "bias", amount=1),
], ids=["weight norm", "spectral norm", "mask", "mask of the bias"])  # fmt: skip
def test_weights_that_hooks_compute_are_those_of_now(put: Any) -> None:
    torch.manual_seed(0)
    layer = put(nn.Conv2d(3, 8, 3)).eval()
    network = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(torch.linspace(0.5, 2.0, 8).reshape(-1, *[1] * (parameter.ndim - 1)))
    before = probe(network)["0"]
    network(torch.rand(1, 3, 8, 8))  # the hook computes the weight
    assert before == probe(network)["0"] == layer_metrics(layer.weight.detach())


def test_bare_parameters() -> None:
    network = resized(Bare())
    found = probed_layers(network)
    assert found.keys() == {"up"}  # not the weight that depends on the input, nor that of a linear function
    assert found["up"].transposed
    assert probe(network)["up"] == layer_metrics(network.get_parameter("up"), transposed=True)
    assert probed_layers(network, linear=True).keys() == {"up", "head"}
    assert probed_layers(Bare()) == {}


@pytest.mark.parametrize("linear", [False, True])
def test_modules_are_measured_as_before(linear: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 4))
    assert list(probed_layers(network, linear=linear)) == ["0", "3"][: 1 + linear]
