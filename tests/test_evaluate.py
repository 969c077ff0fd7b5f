"""The networks that a search is compared with."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

import conet_fx
from conet_fx.data import DataSet
from conet_fx.evaluate import EvaluationConfig, evaluate, rivals, uniform_sizes
from conet_fx.models import build
from tests.tiny import TinyNet, tiny_data


@pytest.fixture(scope="module")
def resnet() -> conet_fx.ChannelPlan:
    return conet_fx.analyze(build("resnet18_cifar", 10, 1), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("params", [60_000, 270_000, 3_000_000])
def test_uniform_width_has_as_many_parameters(resnet: conet_fx.ChannelPlan, params: int) -> None:
    sizes = uniform_sizes(resnet, params)
    assert len(set(sizes.values())) == 1
    width = next(iter(sizes.values()))
    near = abs(resnet.cost(sizes).params - params)
    for other in (width - 1, width + 1):
        assert near <= abs(resnet.cost(dict.fromkeys(sizes, other)).params - params)


def test_uniform_width_respects_quanta() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 1), torch.nn.Conv2d(12, 12, 1, groups=3), torch.nn.Conv2d(12, 2, 1)
    )
    plan = conet_fx.analyze(net, torch.zeros(1, 1, 4, 4))
    sizes = uniform_sizes(plan, 1000)
    plan.resize(sizes)
    assert all(size % 3 == 0 for size in sizes.values())


def test_rivals_are_found_start_and_uniform(resnet: conet_fx.ChannelPlan) -> None:
    found = {group.name: 20 for group in resnet.free}
    networks = rivals(resnet, found)
    assert list(networks) == ["found", "start", "uniform"]
    assert networks["start"] == {group.name: group.size for group in resnet.free}
    assert networks["uniform"] == found


def test_evaluation_trains_each_seed_and_repeats() -> None:
    plan = conet_fx.analyze(TinyNet(), torch.zeros(2, 1, 6, 6))
    data = DataSet("stripes", tiny_data(), tiny_data(samples=48), 3, (1, 6, 6))
    config = EvaluationConfig(epochs=20, seeds=(0, 1), lr=0.1)
    fabric = Fabric(accelerator="cpu")
    state = torch.get_rng_state()
    record, network = evaluate("start", plan.sizes, plan, data, config, fabric, batch_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert record == evaluate("start", plan.sizes, plan, data, config, fabric, batch_size=32)[0]
    assert len(record.accuracies) == 2
    assert record.params == sum(p.numel() for p in network.parameters())
    images, labels = data.test.tensors  # type: ignore[attr-defined]
    accuracy = float((network.eval()(images).argmax(1) == labels).float().mean())
    assert accuracy == pytest.approx(record.accuracies[0])
    assert accuracy > 0.8


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"lr": 0.0}, {"momentum": 1.0}])
def test_refuses_settings(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        EvaluationConfig(**setting)  # type: ignore[arg-type]
