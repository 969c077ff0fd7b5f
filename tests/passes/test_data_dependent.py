"""Code that looks at the data in tensors: a module that does is one call, a model that does is refused with advice."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import RecipeError, TraceError
from tests.passes.battery import check_everything
from tests.passes.cases import net

IMAGES = torch.rand(2, 3, 8, 8)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Branch(nn.Module):
    """Convolves all that there is, but who knows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > -1e9 else x


class Numbers(Branch):
    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / (1 + x.abs().max().item() + float(x.detach().numpy().std()))
        return self.conv(x) * scale


class Gradient(Branch):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inside = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.conv(inside).square().sum(), inside)
        return self.conv(x) + gradient


class Selection(Branch):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y - y[y > y.mean()].mean()


def around(middle: nn.Module) -> nn.Module:
    """Convolutions before and after, which change among themselves."""

    def forward(self: Any, x: Tensor) -> Any:
        return self.out(self.b(self.middle(self.edge(self.a(x)))))

    return net(forward, a=conv(3, 6), edge=conv(6, 5), middle=middle, b=conv(5, 7), out=conv(7, 2))


@pytest.mark.parametrize("kind", [Branch, Numbers, Gradient, Selection])
def test_a_module_that_looks_at_data_is_one_call(kind: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    model = around(kind(5))
    state = torch.get_rng_state()
    plan = conet_fx.analyze(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert {group.name: group.size for group in plan.free} == {"a": 6, "b": 7}
    [edge] = [group for group in plan.groups if group.name == "edge"]
    assert re.match(r"middle at .*test_data_dependent.py:\d+ cannot be traced", edge.frozen or "")
    check_everything(model, IMAGES)


def test_a_model_is_traced_in_pieces_where_half_of_it_is_in_such_modules() -> None:
    class Stage(Branch):
        def __init__(self, channels: int, hidden: int) -> None:
            super().__init__(channels)
            self.conv = nn.Sequential(conv(channels, hidden), nn.ReLU(), conv(hidden, channels))  # type: ignore[assignment]

    small, large = (conet_fx.analyze(around(Stage(5, hidden)), IMAGES) for hidden in (4, 40))
    assert small.trace.pieces is None
    assert {group.name for group in small.free} == {"a", "b"}
    assert large.trace.pieces is not None
    assert {group.name for group in large.free} == {"middle.conv.0"}


def test_it_is_saved_without_its_graph(tmp_path: Path) -> None:
    model = around(Selection(5))
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize({"a": 4, "b": 9})
    with pytest.warns(
        UserWarning, match=r"has sizes and weights, but no graph, since module 'middle' is a .*Selection"
    ):
        conet_fx.save(resized, plan, tmp_path)
    with pytest.raises(RecipeError, match=r"no graph, .* code that is no data.*conet_fx.apply\(instance, dir\)"):
        conet_fx.load(tmp_path)
    applied = conet_fx.apply(around(Selection(5)), tmp_path)
    assert torch.equal(applied(IMAGES), resized(IMAGES))
    with pytest.raises(RecipeError, match="does not belong to this"):
        conet_fx.apply(around(nn.Identity()), tmp_path)


def test_a_width_that_its_class_spells_out_is_refused_though_no_graph_tells_it(tmp_path: Path) -> None:
    model = around(Selection(5))
    plan = conet_fx.analyze(model, IMAGES)
    with pytest.warns(UserWarning, match="no graph"):
        conet_fx.save(plan.resize({"b": 9}), plan, tmp_path)
    spelt = net(  # the same names, so that it could be the model
        lambda self, x: self.out(self.b(self.edge(self.a(x))).reshape(-1, 7, 8, 8)),
        **{name: part for name, part in model.named_children() if name != "middle"},
        middle=nn.Sequential(OrderedDict(conv=conv(5, 5))),
    )
    with pytest.raises(RecipeError, match=r"does not run at the sizes .*test_data_dependent.py:\d+"):
        conet_fx.apply(spelt, tmp_path)


def test_its_multiply_adds_count_once() -> None:
    plain, looking = (conet_fx.analyze(around(middle), IMAGES) for middle in (conv(5, 5), Branch(5)))
    assert looking.cost().macs == plain.cost().macs


def test_a_number_that_such_a_module_returns_is_no_constant_of_the_graph() -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.abs().max().item()

    model = net(lambda self, x: self.out(self.a(x) * self.scale(x)), a=conv(3, 6), scale=Scale(), out=conv(6, 2))
    with pytest.raises(TraceError, match="This depends on the data in a tensor"):
        conet_fx.analyze(model, IMAGES)


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (lambda y: y / y.max().item(), "keep numbers in tensors"),
        (lambda y: y * float(y.detach().numpy().mean()), "keep numbers in tensors"),
        (lambda y: y + y.mean((0, 2, 3)).tolist()[0], "keep numbers in tensors"),
        (lambda y: y - y[y > 0].mean(), "masks in torch.where"),
        (lambda y: y + torch.nonzero(y).shape[0], "masks in torch.where"),
        (lambda y: y + torch.autograd.grad(y.sum(), y)[0], "Gradients inside a forward are in no graph"),
        (lambda y: y if y.mean() > 0 else -y, "put this part into a module of its own, which is one call"),
    ],
)
def test_a_model_that_looks_at_data_is_told_what_to_do(step: Callable[[Tensor], Tensor], advice: str) -> None:
    model = net(lambda self, x: self.out(step(self.a(x))), a=conv(3, 6), out=conv(6, 2))
    with pytest.raises(TraceError, match=rf"test_data_dependent.py:\d+.*{advice}"):
        conet_fx.analyze(model, IMAGES)
