"""The state of an optimiser goes where the weights go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

import conet_fx
from conet_fx.errors import ResizeError
from tests.tiny import Branching

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4


class Net(nn.Module):
    """A residual sum, a grouped and a depthwise convolution, a concatenation, tied weights and a part unused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.twin = nn.Conv2d(8, 8, 3, padding=1)
        self.twin.weight = self.branch.weight
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.side = nn.Conv2d(8, 6, 3)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Linear(18 * 9, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = F.relu(x + self.branch(x) + self.twin(x))
        x = self.depthwise(x)
        x = torch.cat([self.grouped(x), self.side(x) * self.scale], 1)
        return self.head(F.max_pool2d(x, 2).flatten(1))


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "plain": lambda p: SGD(p, 0.05),
    "adam": lambda p: Adam(p, 1e-3, amsgrad=True),
    "adamw": lambda p: AdamW(p, torch.tensor(1e-3), weight_decay=0.1, foreach=False),
    "fused": lambda p: AdamW(p, 1e-3, fused=True),
    "rmsprop": lambda p: RMSprop(p, 1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: Adagrad(p, 1e-2),
    "nadam": lambda p: NAdam(p, 1e-3),
}


def parts(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups, of which the second has a rate of its own."""
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    return [{"params": others}, {"params": biases, "lr": 0.01, "tag": "biases"}]


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(make: Callable[[Any], Optimizer]) -> tuple[Net, Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = make(parts(model))
    train(model, optimizer, 3)
    return model, optimizer


def by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_bit_for_bit_at_the_same_sizes(kind: str) -> None:
    model, optimizer = trained(OPTIMIZERS[kind])
    before = copy.deepcopy(optimizer.state_dict())
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize(plan.sizes, init="inherit")
    after = conet_fx.resize_optimizer(optimizer, plan, resized)
    assert type(after) is type(optimizer)
    assert str(before) == str(optimizer.state_dict())
    for old, new in zip(optimizer.param_groups, after.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {k: v for k, v in new.items() if k != "params"}
        assert [tuple(p.shape) for p in new["params"]] == [
            tuple(p.shape) for p in old["params"] if p is not model.unused.weight and p is not model.unused.bias
        ]
    assert train(resized, after, 3) == train(model, optimizer, 3)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resized.state_dict().items())


def test_the_state_is_cut_like_the_weights() -> None:
    """A state that equals the weights goes on to equal them, wherever a weight is not new."""
    model, optimizer = trained(OPTIMIZERS["momentum"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter in optimizer.state:
                optimizer.state[parameter]["momentum_buffer"].copy_(parameter)
    plan = conet_fx.analyze(model, IMAGES)
    assert {group.name for group in plan.free} == {"stem", "grouped", "side"}
    for sizes in ({"stem": 4, "grouped": 6, "side": 3}, {"stem": 4}, {"side": 2}):
        resized = plan.resize(sizes, init="inherit")
        state = by_name(resized, conet_fx.resize_optimizer(optimizer, plan, resized))
        assert len(state) == len(list(resized.parameters()))
        for name, parameter in resized.named_parameters():
            assert torch.equal(state[name]["momentum_buffer"], parameter), name


def test_new_entries_are_zero_and_old_ones_stay() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    for values in optimizer.state.values():
        for value in values.values():
            if value.ndim:
                value.fill_(1.0)
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize({"stem": 10, "grouped": 16, "side": 7}, init="inherit")
    after = conet_fx.resize_optimizer(optimizer, plan, resized)
    old, new = by_name(model, optimizer), by_name(resized, after)
    for name, parameter in resized.named_parameters():
        assert new[name].keys() == old[name].keys()
        assert new[name]["step"] == 3
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            value = new[name][key]
            assert value.shape == parameter.shape
            assert set(value.unique().tolist()) <= {0.0, 1.0}
            if name != "grouped.weight":  # two of ten inputs change their block
                assert int(value.sum()) == old[name][key].numel(), name
    fresh = resized.meta["conet_fx"]["kept"]["stem", "out"] < 0
    assert int(fresh.sum()) == 2
    assert new["stem.weight"]["exp_avg"][fresh].count_nonzero() == 0
    assert all(loss < 10 for loss in train(resized, after, 2))


def test_rows_and_columns_of_adafactor_follow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    optimizer = Adafactor(model.parameters(), 0.01)
    x = torch.randn(3, 5)
    for _ in range(2):
        model(x).square().sum().backward()
        optimizer.step()
    plan = conet_fx.analyze(model, x, resize_linear=True)
    resized = plan.resize({"0": 4}, init="inherit")
    kept = resized.meta["conet_fx"]["kept"]["0", "out"]
    after = conet_fx.resize_optimizer(optimizer, plan, resized)
    old, new = by_name(model, optimizer)["0.weight"], by_name(resized, after)["0.weight"]
    assert torch.equal(new["row_var"], old["row_var"][kept])
    assert torch.equal(new["col_var"], old["col_var"])
    resized(x).square().sum().backward()
    after.step()


def test_names_of_parameters_stay_with_them() -> None:
    model = Net()
    optimizer = SGD(model.named_parameters(), 0.1)
    plan = conet_fx.analyze(model, IMAGES)
    after = conet_fx.resize_optimizer(optimizer, plan, plan.resize({"stem": 4}, init="inherit"))
    names = after.param_groups[0]["param_names"]
    assert "unused.weight" not in names
    assert len(names) == len(after.param_groups[0]["params"])


def test_schedulers_and_state_dicts_work_with_the_new_one() -> None:
    model, optimizer = trained(OPTIMIZERS["momentum"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    train(model, optimizer, 1)
    schedule.step()
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize({"stem": 4}, init="inherit")
    after = conet_fx.resize_optimizer(optimizer, plan, resized)
    again = torch.optim.lr_scheduler.StepLR(after, 2, gamma=0.1, last_epoch=schedule.last_epoch)
    train(resized, after, 1)
    again.step()
    assert [group["lr"] for group in after.param_groups] == pytest.approx([0.005, 0.001])
    other = OPTIMIZERS["momentum"](parts(resized))
    other.load_state_dict(after.state_dict())


def test_models_traced_in_pieces() -> None:
    torch.manual_seed(0)
    model = Branching(Net())
    optimizer = Adam(model.parameters(), 1e-3)
    train(model, optimizer, 2)
    plan = conet_fx.analyze(model, IMAGES)
    assert plan.trace.pieces is not None
    resized = plan.resize({"net.side": 3}, init="inherit")
    after = conet_fx.resize_optimizer(optimizer, plan, resized)
    assert by_name(resized, after)["net.side.weight"]["exp_avg"].shape == (3, 8, 3, 3)
    train(resized, after, 1)


def test_what_cannot_follow_is_refused() -> None:
    model, optimizer = trained(OPTIMIZERS["momentum"])
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize({"stem": 4}, init="inherit")
    with pytest.raises(ResizeError, match=r"has not inherited its weights.*init=\"inherit\""):
        conet_fx.resize_optimizer(optimizer, plan, plan.resize({"stem": 4}))
    with pytest.raises(ResizeError, match=r"parameter group 0 .* shape \(6, 1, 1\) that is not one of the model"):
        conet_fx.resize_optimizer(trained(OPTIMIZERS["plain"])[1], plan, resized)
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    foreign = conet_fx.analyze(other, IMAGES)
    with pytest.raises(ResizeError, match=r"has no parameter '0.weight': it was made from another plan"):
        conet_fx.resize_optimizer(SGD(other.parameters(), 0.1), foreign, resized)
    for values in optimizer.state.values():
        values["history"] = [torch.zeros(3)]
    with pytest.raises(ResizeError, match=r"SGD keeps 'history' of '.*' as a list, .* start a new optimizer"):
        conet_fx.resize_optimizer(optimizer, plan, resized)
    with pytest.raises(ResizeError, match="LBFGS keeps tensors in its attribute '_params'"):
        conet_fx.resize_optimizer(torch.optim.LBFGS(model.parameters()), plan, resized)
