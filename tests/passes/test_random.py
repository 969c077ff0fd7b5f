"""Random numbers in a forward: a resized network draws them anew, and no graph holds one outcome."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import random as hidden
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import TraceError
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    """A residual block that in train mode uses ``draw(x, branch(x))``."""

    def __init__(self, draw: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch = conv(6, 6, 3)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.draw(x, y) if self.training else x + y


def model_of(draw: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.block(self.a(x)))

    return net(forward, a=conv(3, 6), block=Block(draw), out=conv(6, 5)).train()


def outcomes(module: nn.Module) -> list[Tensor]:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    return [module(IMAGE).detach() for _ in range(8)]


FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rand": lambda x, y: x + y * (torch.rand(1) < 0.5),
    "rand of a size": lambda x, y: x + y * (torch.rand(x.shape[0], 1, 1, 1) < 0.5),
    "randn": lambda x, y: x + y * torch.randn(1, 1, 8, 8),
    "bernoulli": lambda x, y: x + y * torch.bernoulli(torch.tensor(0.5)),
    "randint": lambda x, y: x + y * torch.randint(0, 5, (1,)),
    "randperm": lambda x, y: x + y[torch.randperm(2)],
    "normal": lambda x, y: x + y + torch.normal(0.0, 1.0, (1,)),
    "randn_like": lambda x, y: x + y * torch.randn_like(torch.ones(8)),
}


@pytest.mark.parametrize("kind", FACTORS)
def test_factors_are_drawn_anew(kind: str) -> None:
    model = model_of(FACTORS[kind])
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    expected, got = outcomes(model), outcomes(plan.resize({}, init="inherit"))
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert any(not torch.equal(got[0], other) for other in got[1:])
    plan.resize({"a": 4})(IMAGE)


@pytest.mark.parametrize("kind", ["randint", "randperm", "normal", "bernoulli"])
def test_recipes_hold_them(kind: str, tmp_path: Path) -> None:
    plan = conet_fx.analyze(model_of(FACTORS[kind]), IMAGE)
    network = plan.resize({"a": 4})
    conet_fx.save(network, plan, tmp_path)
    loaded = outcomes(conet_fx.load(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(loaded, outcomes(network), strict=True))


BRANCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "random at": lambda x, y: x if random.random() < 0.5 else x + y,
    "choice at": lambda x, y: random.choice([x, x + y]),
    "rand at": lambda x, y: x if np.random.rand() < 0.5 else x + y,
    "default_rng at": lambda x, y: x if np.random.default_rng().random() < 0.5 else x + y,
    "depends on the data": lambda x, y: x if torch.rand(1) < 0.5 else x + y,
    "item at": lambda x, y: x if torch.rand(1).item() < 0.5 else x + y,
}


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_makes_its_module_one_call(kind: str) -> None:
    model = model_of(BRANCHES[kind])
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.group("a").frozen is not None
    assert kind in plan.group("a").frozen
    expected, got = outcomes(model), outcomes(plan.resize({}, init="inherit"))
    if kind != "default_rng at":
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert any(not torch.equal(got[0], other) for other in got[1:])
    assert [group.name for group in conet_fx.analyze(model.eval(), IMAGE).free] == ["a"]


@pytest.mark.parametrize("name", FACTORS)
def test_what_is_unpickled_draws_anew(name: str) -> None:
    """torch.fx pickles code, and traces it when it is loaded."""
    model = model_of(FACTORS[name])
    resized = conet_fx.analyze(model, IMAGE).resize({}, init="inherit")
    for _ in range(2):
        file = io.BytesIO()
        torch.save(resized, file)
        file.seek(0)
        resized = torch.load(file, weights_only=False)
    for ours, theirs in zip(outcomes(resized), outcomes(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, y: x if hidden() < 0.5 else x + y,
        lambda x, y: x + y * torch.empty(1).uniform_(),
        lambda x, y: x + y * F.dropout(torch.ones(8)),
    ],
)
def test_what_draws_behind_other_names_is_refused(draw: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match="draws random numbers in Python"):
        conet_fx.analyze(model_of(draw), IMAGE)


def test_the_functions_are_put_back() -> None:
    before = torch.rand, random.random, np.random.rand, random.getstate()
    conet_fx.analyze(model_of(FACTORS["rand"]), IMAGE)
    assert (torch.rand, random.random, np.random.rand, random.getstate()) == before


def test_other_threads_draw_as_ever() -> None:
    """They may draw at any moment: a loader that prepares the next batch does."""
    ended = threading.Event()
    found: list[Any] = []

    def prepare() -> None:
        while not ended.is_set():
            found[:] = random.random(), np.random.rand(), torch.rand(1)

    def draw(x: Tensor, y: Tensor) -> Tensor:
        time.sleep(0.05)
        return x + y

    thread = threading.Thread(target=prepare)
    thread.start()
    try:
        plan = conet_fx.analyze(model_of(draw), IMAGE)
    finally:
        ended.set()
        thread.join()
    assert [group.name for group in plan.free] == ["a"]
    assert isinstance(found[0], float)
    assert type(found[2]) is Tensor
