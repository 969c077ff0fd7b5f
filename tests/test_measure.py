"""What is measured of a network, and that it stays as it is. No figure of time is judged."""

from __future__ import annotations

import copy
import io
import time
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from torch import Tensor, nn

import conet_fx
from conet_fx.measure import NOT_TRACKED
from conet_fx.recipe.build import named_tensors
from tests.tiny import Branching


class Net(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu_().mean((2, 3)))) * gain


IMAGE = torch.randn(2, 3, 8, 8)


def test_figures() -> None:
    found = conet_fx.measure(Net(), IMAGE, batch_sizes=(1, 3), repeats=5, warm_up=2)
    assert found.parameters == 3 * 6 * 9 + 12 + 28
    assert found.macs == 3 * 6 * 9 * 36 + 24
    assert found.device == "cpu"
    assert found.threads == torch.get_num_threads()
    assert found.no_memory == NOT_TRACKED
    assert [latency.batch_size for latency in found.latencies] == [1, 3]
    for latency in found.latencies:
        assert 0 < latency.low <= latency.median <= latency.high
        assert (latency.repeats, latency.warm_up, latency.peak_memory) == (5, 2, None)
        assert latency.throughput == pytest.approx(1000 * latency.batch_size / latency.median)
    with pytest.raises(AttributeError):
        found.macs = 1  # type: ignore[misc]


def test_multiply_adds_are_those_of_the_plan() -> None:
    """Also inside of fused attention, recurrent layers and deformable convolutions, which torch does not count."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
            self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
            self.deformable = torchvision.ops.DeformConv2d(3, 4, 3)

        def forward(self, x: Tensor, image: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
            x = self.lstm(x)[0]
            return self.attention(x, x, x, need_weights=False)[0], self.deformable(image, offset)

    example = (torch.randn(1, 5, 8), torch.randn(1, 3, 6, 6), torch.randn(1, 18, 4, 4))
    for model, inputs in ((Fused().eval(), example), (torchvision.models.vit_b_16(image_size=32).eval(), IMAGE[:1])):
        inputs = torch.randn(1, 3, 32, 32) if isinstance(inputs, Tensor) else inputs
        cost = conet_fx.analyze(model, inputs).cost()
        found = conet_fx.measure(model, inputs, batch_sizes=(1,), repeats=1, warm_up=0)
        assert (found.parameters, found.macs) == (cost.params, cost.macs)


def test_side_by_side() -> None:
    model = Net()
    plan = conet_fx.analyze(model, IMAGE)
    found = conet_fx.compare({"before": model, "after": plan.resize({"conv": 3})}, IMAGE, (1, 4), repeats=3)
    assert found["after"].macs * 2 == found["before"].macs
    text = str(found)
    for part in ("before", "after", "5,856", "2,928 x0.50", "ms, batch of 1", "ms, batch of 4", NOT_TRACKED):
        assert part in text
    assert "\x1b" not in text
    assert "peak MiB" not in text
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(found)
    assert "before" in console.export_text()
    assert "ms, batch of 1" in str(found["before"])


def test_turns_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the machine slow meanwhile makes all networks slow: the runs alternate."""
    calls: list[str] = []

    class Logged(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            calls.append(f"{self.name}{len(x)}")
            return x

    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) ** 2 / 1000)
    found = conet_fx.compare({"a": Logged("a"), "b": Logged("b")}, IMAGE, (2,), repeats=3, warm_up=1)
    assert calls == ["a1", "b1", "a2", "b2", *["a2", "b2"] * 3]
    assert found["a"].latencies[0].median == pytest.approx(9)  # of 1, 9 and 17 ms
    assert found["a"].latencies[0].low == pytest.approx(5)
    assert found["b"].latencies[0].high == pytest.approx(17)


def test_inputs_of_all_forms() -> None:
    shapes: list[Any] = []

    class Two(nn.Module):
        def forward(self, a: Tensor, *, masks: dict[str, Tensor], scale: Tensor, flag: bool = True) -> Tensor:
            shapes.append((tuple(a.shape), tuple(masks["m"].shape), tuple(scale.shape), flag))
            return a

    example = {"a": torch.randn(2, 3), "masks": {"m": torch.ones(2, 5)}, "scale": torch.ones(()), "flag": False}
    conet_fx.measure(Two(), example, (5,), repeats=1, warm_up=0)
    assert shapes[-1] == ((5, 3), (5, 5), (), False)
    last = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)

    class Strides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shapes.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    conet_fx.measure(Strides(), last, (3,), repeats=1, warm_up=0)
    assert shapes[-1] is True


def test_nothing_changes() -> None:
    torch.manual_seed(0)
    model = Net()
    model.head.eval()
    hooked: list[int] = []
    model.conv.register_forward_hook(lambda *_: hooked.append(1))
    model(IMAGE).sum().backward()
    before = {name: tensor.clone() for name, tensor in named_tensors(model)}
    grads = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    modes, hooks, random = [m.training for m in model.modules()], len(model.conv._forward_hooks), torch.get_rng_state()
    image = IMAGE.clone()
    conet_fx.measure(model, IMAGE, (1, 2), repeats=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(model))
    kept = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(map(torch.equal, kept, grads))
    assert modes == [m.training for m in model.modules()]
    assert hooks == len(model.conv._forward_hooks)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(image, IMAGE)
    assert torch.is_grad_enabled()


def test_models_traced_in_pieces_and_copies() -> None:
    plan = conet_fx.analyze(Branching(Net()), IMAGE)
    resized = plan.resize({"net.conv": 3})
    assert conet_fx.measure(resized, IMAGE, (1,), repeats=1).macs == 2928
    assert (
        conet_fx.measure(copy.deepcopy(resized), IMAGE, (1,), repeats=1).parameters == plan.cost({"net.conv": 3}).params
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": (0,)}, r"batch size 0 is 0: write an integer >= 1"),
        ({"batch_sizes": (1.5,)}, r"batch size 1.5 is 1.5"),
        ({"batch_sizes": ()}, "there is nothing to measure"),
        ({"repeats": 0}, "repeats is 0"),
        ({"warm_up": -1}, "warm_up is -1: write an integer >= 0"),
        ({"device": "meta"}, "device 'meta' cannot be measured"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conet_fx.measure(Net(), IMAGE, **arguments)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        conet_fx.measure("model", IMAGE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"do not fit Net\.forward"):
        conet_fx.measure(Net(), (IMAGE, 1.0, 2.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_a_gpu() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
    image = torch.randn(2, 3, 64, 64)
    ballast = torch.empty(2**28, device="cuda")
    found = conet_fx.measure(model, image, (1, 16), device="cuda")
    small, large = (latency.peak_memory or 0 for latency in found.latencies)
    activations = 64 * 64 * 64 * 4
    assert activations <= small < 64 * activations
    assert 16 * activations <= large < ballast.nbytes
    assert found.no_memory is None
    assert found.threads is None
    assert next(model.parameters()).device.type == "cpu"
    assert "peak MiB, batch of 16" in str(found)
