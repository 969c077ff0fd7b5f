"""AdaS: the rates by hand, SGD underneath, which parameters train together, and its state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import fx, nn

from conet_fx.probe import LayerMetrics, probe
from conet_fx.search import AdaS


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 8, 3, bias=True),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def gains(**layers: float) -> dict[str, LayerMetrics]:
    """Metrics of layers "1" and "4" with these mean gains, uneven over the two modes."""
    return {
        path.removeprefix("l"): LayerMetrics(0, 0, 0, 0, gain_in=gain + 0.01, gain_out=gain - 0.01)
        for path, gain in layers.items()
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


class TestRates:
    def test_by_hand(self) -> None:
        optimizer = AdaS(net(), lr=0.1, beta=0.8)
        assert optimizer.learning_rates == {"1": 0.1, "4": 0.1}
        optimizer.epoch_end(gains(l1=0.10, l4=0.30))
        assert optimizer.learning_rates == {"1": 0.1, "4": 0.1}  # no velocity yet
        optimizer.epoch_end(gains(l1=0.15, l4=0.25))
        assert optimizer.learning_rates == pytest.approx({"1": 0.08 + 0.05, "4": 0.08 - 0.05})
        optimizer.epoch_end(gains(l1=0.15, l4=0.20))
        assert optimizer.learning_rates["1"] == pytest.approx(0.8 * 0.13)
        assert optimizer.learning_rates["4"] == 1e-20  # 0.8 * 0.03 - 0.05 < 0
        optimizer.epoch_end(gains(l1=0.15, l4=0.21))
        assert optimizer.learning_rates["4"] == pytest.approx(0.01)

    def test_zeta_and_min_lr(self) -> None:
        optimizer = AdaS(net(), lr=0.1, beta=0.5, zeta=2, min_lr=1e-3)
        optimizer.epoch_end(gains(l1=0.1, l4=0.9))
        optimizer.epoch_end(gains(l1=0.2, l4=0.1))
        assert optimizer.learning_rates == pytest.approx({"1": 0.05 + 0.2, "4": 1e-3})

    def test_a_missing_layer_changes_nothing(self) -> None:
        optimizer = AdaS(net())
        optimizer.epoch_end(gains(l1=0.1, l4=0.9))
        with pytest.raises(KeyError, match="4"):
            optimizer.epoch_end(gains(l1=0.5))
        assert optimizer.learning_rates == {"1": 0.1, "4": 0.1}
        assert [group["gain"] for group in optimizer.param_groups[1:]] == pytest.approx([0.1, 0.9])

    def test_with_the_probe(self) -> None:
        model = net()
        optimizer = AdaS(model)
        for _ in range(2):
            train(model, optimizer, 2)
            optimizer.epoch_end(probe(model))
        assert optimizer.learning_rates.keys() == probe(model).keys()


class TestSgd:
    def test_first_epoch_equals_sgd(self) -> None:
        ours, theirs = net(), net()
        sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        train(ours, AdaS(ours, lr=0.05, momentum=0.9, weight_decay=1e-3), 5)
        train(theirs, sgd, 5)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))

    def test_a_layer_trains_with_its_rate(self) -> None:
        model = net()
        optimizer = AdaS(model, momentum=0, weight_decay=0)
        optimizer.epoch_end(gains(l1=0, l4=0))
        optimizer.epoch_end(gains(l1=0.5, l4=-1))
        before = copy.deepcopy(model)
        train(model, optimizer, 1)
        moved = {
            name: not torch.equal(p, q)
            for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True)
        }
        assert moved["1.weight"]
        assert not moved["4.weight"]
        assert not moved["7.weight"]

    def test_hooks_run_once(self) -> None:
        torch.optim.SGD(net().parameters())  # torch wraps its step then
        model, ran = net(), []
        optimizer = AdaS(model)
        optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
        optimizer.register_step_post_hook(lambda *_: ran.append("after"))
        train(model, optimizer, 2)
        assert ran == ["before", "after"] * 2

    def test_closure(self) -> None:
        model = net()
        optimizer, image = AdaS(model), torch.randn(4, 3, 8, 8)

        def closure() -> torch.Tensor:
            loss = model(image).square().mean()
            loss.backward()
            return loss

        before = copy.deepcopy(model)
        assert optimizer.step(closure) == before(image).square().mean()
        assert not torch.equal(model[1].weight, before[1].weight)


class TestAllGroupsTogether:
    """As on a GPU, where that is the only difference."""

    @staticmethod
    def trained(together: bool, momentum: float, weight_decay: float, patch: pytest.MonkeyPatch) -> nn.Module:
        model = net()
        optimizer = AdaS(model, momentum=momentum, weight_decay=weight_decay)
        assert not optimizer._on_a_gpu_and_alike()
        patch.setattr(AdaS, "_on_a_gpu_and_alike", lambda _: together)
        optimizer.step()  # no gradient yet
        optimizer.epoch_end(gains(l1=0.1, l4=0.3))
        model[4].requires_grad_(False)  # its momentum begins later
        train(model, optimizer, 2)
        optimizer.epoch_end(gains(l1=0.15, l4=0.2))
        model[4].requires_grad_(True)
        train(model, optimizer, 2)
        return model

    @pytest.mark.parametrize("momentum", [0, 0.9])
    @pytest.mark.parametrize("weight_decay", [0, 1e-2])
    def test_each_at_its_rate(self, momentum: float, weight_decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            ours = self.trained(True, momentum, weight_decay, patch)
        with monkeypatch.context() as patch:
            theirs = self.trained(False, momentum, weight_decay, patch)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @pytest.mark.parametrize("setting", [None, "dampening", "nesterov", "maximize", "fused"])
    def test_on_a_gpu(self, setting: str | None) -> None:
        model = net().cuda()
        optimizer = AdaS(model)
        assert optimizer._on_a_gpu_and_alike()
        if setting:
            optimizer.param_groups[1][setting] = True
            assert not optimizer._on_a_gpu_and_alike()
        model(torch.randn(4, 3, 8, 8, device="cuda")).square().mean().backward()
        for _ in range(2):
            optimizer.step()
        assert all(value["momentum_buffer"].is_cuda for value in optimizer.state.values())


class TestGroups:
    def test_others_follow_the_measured_conv_before_them(self) -> None:
        model = net()
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = {g["layer"]: [names[p] for p in g["params"]] for g in AdaS(model).param_groups}
        assert groups == {
            None: ["0.weight", "0.bias"],
            "1": ["1.weight", "1.bias", "2.weight", "2.bias", "3.weight"],
            "4": ["4.weight", "7.weight", "7.bias"],
        }

    def test_shared_modules_and_parameters_once(self) -> None:
        class Shared(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Conv2d(4, 4, 3)
                self.b = nn.Conv2d(4, 4, 3)
                self.b.weight = self.a.weight
                self.c = self.a

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.c(self.b(self.a(x)))

        traced = fx.symbolic_trace(Shared())
        optimizer = AdaS(traced)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
        optimizer.epoch_end(probe(traced))
        optimizer.epoch_end(probe(traced))

    def test_frozen_parameters_are_left_out(self) -> None:
        model = net()
        model[1].requires_grad_(False)
        optimizer = AdaS(model)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) - 2

    def test_a_model_without_convs_is_plain_sgd(self) -> None:
        optimizer = AdaS(nn.Linear(3, 3), lr=0.1)
        optimizer.epoch_end({})
        assert optimizer.learning_rates == {}
        assert optimizer.param_groups[0]["lr"] == 0.1


def test_state_round_trip() -> None:
    first, second = net(), net()
    one = AdaS(first)
    train(first, one, 3)
    one.epoch_end(gains(l1=0.1, l4=0.3))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": one.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["model"])
    two = AdaS(second, lr=0.7)
    two.load_state_dict(saved["optimizer"])
    for optimizer, model in ((one, first), (two, second)):
        optimizer.epoch_end(gains(l1=0.15, l4=0.25))
        train(model, optimizer, 2)
    assert one.learning_rates == two.learning_rates == pytest.approx({"1": 0.13, "4": 0.03})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("setting", "value"), [("lr", 0), ("momentum", 1), ("beta", 1), ("beta", -0.1), ("zeta", 0), ("min_lr", 0)]
)
def test_bad_settings(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        AdaS(net(), **{setting: value})


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="empty"):
        AdaS(nn.ReLU())
