"""The networks that a search is compared with."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning_fabric import Fabric

import conet_fx
from conet_fx.data import DataSet
from conet_fx.data.on_device import Augmentation
from conet_fx.errors import SearchError
from conet_fx.evaluate import evaluate, rivals, uniform_sizes
from conet_fx.final import EvaluationConfig, FinalTraining
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


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"lr": 0.0}, {"momentum": 1.0}, {"drop_path": 1.0}]
)
def test_refuses_settings(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        EvaluationConfig(**setting)  # type: ignore[arg-type]


class TwoHeads(torch.nn.Module):
    """In training a second output of the same classes, from half way; a path that may be dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.path = torchvision.ops.StochasticDepth(0.7, "row")
        self.head, self.early = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x).relu()
        y = x + self.path(self.second(x).relu())
        scores: torch.Tensor = self.head(y.mean((2, 3)))
        return (scores, self.early(x.mean((2, 3)))) if self.training else scores


def test_auxiliary_heads_learn_and_paths_are_dropped() -> None:
    plan = conet_fx.analyze(TwoHeads().train(), torch.zeros(2, 1, 6, 6))
    data = DataSet("stripes", tiny_data(), tiny_data(samples=48), 3, (1, 6, 6))
    config = EvaluationConfig(
        epochs=4, seeds=(0,), lr=0.05, drop_path=0.5, label_smoothing=0.1, clip_norm=5.0, cutout=2, batch_size=16
    )
    record, network = evaluate("start", plan.sizes, plan, data, config, Fabric(accelerator="cpu"))
    assert network is not None
    assert network.get_submodule("path").p == 0.5 * 3 / 4
    wanted = "batch 16, label smoothing 0.1, gradients of norm <= 5, cutout 2, drop path 0.5"
    assert record.recipe.endswith(wanted)
    torch.manual_seed(0)
    fresh = plan.resize(plan.sizes)
    assert not torch.equal(network.early.weight, fresh.early.weight)
    without = dataclasses.replace(config, auxiliary=0.0)
    _, other = evaluate("start", plan.sizes, plan, data, without, Fabric(accelerator="cpu"))
    assert other is not None
    assert not torch.equal(network.early.bias, other.early.bias)


def test_the_loss_weighs_auxiliary_heads() -> None:
    scores, early, target = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    cross_entropy = torch.nn.functional.cross_entropy
    wanted = cross_entropy(scores, target) + 0.4 * cross_entropy(early, target)
    assert torch.equal(EvaluationConfig().loss((scores, early), target), wanted)
    assert torch.equal(EvaluationConfig().loss((scores, None), target), cross_entropy(scores, target))
    smooth = EvaluationConfig(label_smoothing=0.1)
    assert torch.equal(smooth.loss(scores, target), cross_entropy(scores, target, label_smoothing=0.1))


def test_the_schedule_is_the_papers_in_proportion() -> None:
    config = EvaluationConfig(drop_path=0.2)
    rates = [config.lr_in(epoch) for epoch in range(1, 251)]
    assert rates == [0.1 * 0.5 ** ((epoch - 1) // 25) for epoch in range(1, 251)]
    assert (config.drop_path_in(1), config.drop_path_in(126)) == (0, 0.1)


def test_drop_path_needs_paths_to_drop() -> None:
    plan = conet_fx.analyze(TinyNet(), torch.zeros(2, 1, 6, 6))
    data = DataSet("stripes", tiny_data(), tiny_data(samples=48), 3, (1, 6, 6))
    with pytest.raises(SearchError, match="StochasticDepth"):
        evaluate("start", plan.sizes, plan, data, EvaluationConfig(drop_path=0.2), Fabric(accelerator="cpu"))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_training_that_was_cut_off_goes_on_with_the_same_bits(tmp_path: Path, on_device: bool) -> None:
    plan = conet_fx.analyze(TinyNet(), torch.zeros(2, 1, 6, 6))
    data = DataSet("stripes", tiny_data(), tiny_data(samples=48), 3, (1, 6, 6), tiny_data(), Augmentation(pad=1))
    config = EvaluationConfig(epochs=4, seeds=(3,), lr=0.1, cutout=3)

    def trained(folder: Path | None, train: DataSet = data) -> dict[str, torch.Tensor]:
        fabric = Fabric(accelerator="cpu")
        options: dict[str, Any] = {"batch_size": 32, "on_device": on_device, "run_dir": folder}
        _, network = evaluate("x", plan.sizes, plan, train, config, fabric, **options, checkpoint_seconds=0)
        assert network is not None
        return network.state_dict()

    whole, epochs = trained(None), []
    run = FinalTraining.run

    def cut(self: FinalTraining, after_step: Any) -> None:
        def count(ended: bool) -> None:
            after_step(ended)
            epochs.append(ended)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        run(self, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinalTraining, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
        gone_on = trained(tmp_path)
    assert len(epochs) == 4
    assert whole.keys() == gone_on.keys()
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_signal_lets_the_epoch_end_and_is_obeyed(tmp_path: Path) -> None:
    plan = conet_fx.analyze(TinyNet(), torch.zeros(2, 1, 6, 6))

    class Interrupting(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return tiny_data()[index]

    data = DataSet("stripes", Interrupting(), tiny_data(samples=48), 3, (1, 6, 6))
    data = dataclasses.replace(data, train=torch.utils.data.Subset(data.train, [0] * 1 + [1]))
    config, fabric = EvaluationConfig(epochs=2, seeds=(0,)), Fabric(accelerator="cpu")
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the second one acts as it always does
    try:
        with pytest.raises(SystemExit, match="143"):
            evaluate("x", plan.sizes, plan, data, config, fabric, run_dir=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(list((tmp_path / "checkpoints").glob("*.json"))) == 1


def test_cut_images_differ_each_time_and_have_a_square_of_zeros() -> None:
    ones = torch.utils.data.TensorDataset(torch.ones(4, 2, 8, 8), torch.arange(4))
    whole = DataSet("ones", ones, ones, 4, (2, 8, 8), ones, Augmentation())
    assert whole.with_cutout(0) is whole
    data = whole.with_cutout(4)
    torch.manual_seed(0)
    images = torch.stack([data.train[0][0] for _ in range(200)])
    assert data.train[3][1] == 3
    assert data.augmentation is not None
    batch = data.augmentation(torch.ones(200, 2, 8, 8), torch.Generator().manual_seed(0))
    for cut in (images, batch):
        assert torch.equal(cut[:, 0], cut[:, 1])
        holes = (cut[:, 0] == 0).sum((1, 2))
        assert holes.max() == 16
        assert holes.min() == 4  # centred on a corner: what is left of it
        assert len({image.numpy().tobytes() for image in cut}) > 20
        for image in cut[:, 0]:
            rows, columns = (image == 0).any(1).sum(), (image == 0).any(0).sum()
            assert rows * columns == (image == 0).sum()
    with pytest.raises(ValueError, match="cutout"):
        whole.with_cutout(-1)
