"""Spectral norm: its vectors follow the weight, and the resized network improves them as the model does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrizations import spectral_norm

import conet_fx
from tests.passes.cases import conv

IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)


class Critic(nn.Module):
    """A discriminator whose layers keep their largest singular value at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.a = spectral_norm(conv(3, 8, 3))
        self.b = spectral_norm(nn.ConvTranspose2d(8, 12, 3))
        self.head = spectral_norm(nn.Linear(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        out: Tensor = self.head(y.mean((2, 3)))
        return out


@pytest.fixture
def critic() -> nn.Module:
    torch.manual_seed(0)
    return Critic().double()


def vectors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if name.endswith(("_u", "_v"))}


def weights(network: fx.GraphModule) -> list[Tensor]:
    """The weights that an eval pass uses, as matrices of one row for each output."""
    found: list[Tensor] = []

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n.op == "call_module":
                found.append(value.movedim(self.fetch_attr(str(n.target)).dim, 0).flatten(1))
            return value

    Watching(network.eval()).run(IMAGE)
    return found


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_has_both_modes(critic: nn.Module, training: bool) -> None:
    plan = conet_fx.analyze(critic.train(training), IMAGE)
    assert not plan.trace.one_mode
    network = plan.resize({"a": 5, "b": 20})
    before = vectors(network)
    network.eval()(IMAGE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vectors(network).items())
    network.train()(IMAGE)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in vectors(network).items())


def test_fresh_weights_have_fitting_vectors(critic: nn.Module) -> None:
    network = conet_fx.analyze(critic, IMAGE).resize({"a": 20, "b": 30})
    for matrix in weights(network):
        assert float(torch.linalg.matrix_norm(matrix.detach(), 2)) == pytest.approx(1, abs=0.1)


def test_growing_keeps_the_function(critic: nn.Module) -> None:
    critic.eval()
    network = conet_fx.analyze(critic, IMAGE).resize({"a": 11, "b": 17}, init="inherit")
    torch.testing.assert_close(network(IMAGE), critic(IMAGE), rtol=0, atol=1e-12)
    network.train()
    for _ in range(30):
        network(IMAGE)
    for matrix in weights(network):  # new channels count from the next power iteration on
        assert float(torch.linalg.matrix_norm(matrix.detach(), 2)) == pytest.approx(1, abs=0.05)


def test_shrinking_takes_the_entries_of_the_channels_that_stay(critic: nn.Module) -> None:
    network = conet_fx.analyze(critic, IMAGE).resize({"a": 5, "b": 7}, init="inherit")
    kept = network.meta["conet_fx"]["kept"]
    path = "b.parametrizations.weight.0"
    old, new = (dict(module.named_buffers()) for module in (critic, network))
    rows = kept["b.parametrizations.weight.original", "1"]
    columns = kept["b.parametrizations.weight.original", "0"]
    assert torch.equal(new[f"{path}._u"], old[f"{path}._u"][rows])
    assert torch.equal(new[f"{path}._v"], old[f"{path}._v"].reshape(8, 9)[columns].flatten())


def test_it_trains_as_the_model(critic: nn.Module) -> None:
    twin = copy.deepcopy(critic)
    network = conet_fx.analyze(critic, IMAGE).resize({}, init="inherit")
    for model in (twin, network):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(IMAGE).square().sum().backward()
            optimizer.step()
    states = twin.state_dict(), network.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("training", [True, False])
def test_saved_loaded_applied(critic: nn.Module, training: bool, tmp_path: Path) -> None:
    plan = conet_fx.analyze(critic.train(training), IMAGE)
    network = plan.resize({"a": 5, "b": 20})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    conet_fx.save(network, plan, tmp_path)
    for other in (conet_fx.load(tmp_path), conet_fx.apply(Critic().double(), tmp_path)):
        state = other.state_dict()
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) for name in before)
        assert torch.equal(other.eval()(IMAGE), network.eval()(IMAGE))
    applied = conet_fx.apply(Critic().double(), tmp_path)
    assert isinstance(applied, Critic)
    assert (applied.a.out_channels, applied.b.in_channels, applied.b.out_channels) == (5, 5, 20)


def test_a_recipe_cannot_ask_for_endless_iterations(critic: nn.Module, tmp_path: Path) -> None:
    critic.a.parametrizations.weight[0].n_power_iterations = 10**9  # type: ignore[union-attr,index]
    plan = conet_fx.analyze(critic.eval(), IMAGE)
    with pytest.raises(conet_fx.RecipeError, match="more than 1000 power iterations"):
        conet_fx.save(plan.trace.graph_module, plan, tmp_path)
