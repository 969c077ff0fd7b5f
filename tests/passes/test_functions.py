"""Custom autograd functions: their channels are followed through the forward, their backward stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import RecipeError
from conet_fx.passes.functions import INSIDE, applied
from conet_fx.probe import layer_metrics, probe
from tests.passes.battery import check_everything
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


class Swish(torch.autograd.Function):
    """Saves its input in place of two results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * gate * (1 + x * (1 - gate))


class Norm(torch.autograd.Function):
    """A layer norm over the channels, as networks for image restoration have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        _, channels, _, _ = x.size()
        centred = x - x.mean(1, keepdim=True)
        normal = centred / (centred.pow(2).mean(1, keepdim=True) + eps).sqrt()
        ctx.save_for_backward(normal, weight)
        return weight.view(1, channels, 1, 1) * normal

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normal, weight = ctx.saved_tensors
        return gradient * weight[:, None, None], (gradient * normal).sum((0, 2, 3)), None


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -gradient * ctx.factor, None


class Sign(torch.autograd.Function):
    """The newer form, with a setup_context of its own; the gradient passes straight through."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Both(torch.autograd.Function):
    """Two results, one of which has the channels of both operands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return Reversed.apply(x, 1.0) + y, torch.cat([x, y], 1)

    @staticmethod
    def backward(ctx: Any, total: Tensor, joined: Tensor) -> tuple[Tensor, Tensor]:
        half = joined.shape[1] // 2
        return total + joined[:, :half], total + joined[:, half:]


class Halves(torch.autograd.Function):
    """Spells out half of 8 channels, in code that no rewrite can reach."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 2, 4, *x.shape[2:]).sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.cat([gradient, gradient], 1)


class Filled(torch.autograd.Function):
    """Writes into its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def everything() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = Swish.apply(Norm.apply(self.a(x), self.scale, 1e-6))
        total, joined = Both.apply(self.b(y), self.c(y))
        z = F.conv2d(self.d(Reversed.apply(joined, 0.5)), Sign.apply(self.e.weight))
        return self.out(z + total)

    parts = {"a": conv(3, 8, 3), "scale": nn.Parameter(torch.rand(8)), "b": conv(8, 6), "c": conv(8, 6)}
    return net(forward, **parts, d=conv(12, 7), e=nn.Conv2d(7, 6, 1, bias=False), out=conv(6, 4))


def test_channels_are_followed_through_the_forward() -> None:
    plan = check_everything(everything(), IMAGE)
    assert {group.name: group.writers for group in plan.free} == {"a": ("a",), "b": ("b", "c", "e"), "d": ("d",)}
    assert {group.name for group in plan.free if group.mixed_by} == {"a"}
    assert not plan.facts.unknown


def test_a_resized_network_calls_the_functions_alone_and_keeps_their_backward() -> None:
    torch.manual_seed(0)
    model = everything()
    plan = conet_fx.analyze(model, IMAGE)
    same = plan.resize({}, init="inherit")
    targets = [node.target for node in same.graph.nodes]
    assert {applied(function) for function in (Swish, Norm, Both, Reversed, Sign)} <= set(targets)
    assert torch.sigmoid not in targets
    assert not any(INSIDE in node.meta or "follows" in node.kwargs for node in same.graph.nodes)
    for module in (model, same):
        module(IMAGE).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in same.named_parameters()}
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters())
    smaller = plan.resize({"a": 5, "b": 2, "d": 3})
    smaller(IMAGE).sum().backward()
    assert probe(smaller)["e"] == layer_metrics(smaller.get_parameter("e.weight").sign())
    assert conet_fx.analyze(smaller, IMAGE).sizes == {"a": 5, "b": 2, "d": 3, "out": 4}
    assert torch.equal(copy.deepcopy(smaller)(IMAGE), smaller(IMAGE))
    assert torch.equal(torch.compile(smaller, backend="eager")(IMAGE), smaller(IMAGE))


def test_a_number_that_a_forward_spells_out_is_frozen() -> None:
    model = net(lambda self, x: self.out(Halves.apply(self.b(self.a(x)))), a=conv(3, 6), b=conv(6, 8), out=conv(4, 5))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert "the forward of a torch.autograd.Function spells it out: reshape" in str(plan.group("b").frozen)


def test_a_function_of_what_was_made_without_gradients() -> None:
    """What cuts it off is shared by the function and by operators behind it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x)
        return self.out(Swish.apply(y) + y)

    plan = check_everything(net(forward, a=conv(3, 6), out=conv(6, 5)), IMAGE)
    assert [group.name for group in plan.free] == ["a"]


def test_a_function_that_writes_into_its_input_is_not_followed() -> None:
    model = net(lambda self, x: self.out(self.odd(self.a(x))), a=conv(3, 6), out=conv(6, 5))
    model.odd = net(lambda self, x: Filled.apply(x * 1))
    assert "it writes into its inputs" in str(conet_fx.analyze(model, IMAGE).group("a").frozen)


def test_a_recipe_holds_all_but_the_graph(tmp_path: Path) -> None:
    plan = conet_fx.analyze(everything(), IMAGE)
    resized = plan.resize({"a": 5, "b": 4, "d": 3})
    with pytest.warns(UserWarning, match=r"no graph, since node .norm. calls .*Norm, a torch.autograd.Function"):
        conet_fx.save(resized, plan, tmp_path)
    with pytest.raises(RecipeError, match="the recipe has no graph"):
        conet_fx.load(tmp_path)
    assert torch.equal(conet_fx.apply(everything(), tmp_path)(IMAGE), resized(IMAGE))
    with pytest.raises(RecipeError, match=r"Norm, a torch.autograd.Function"):
        conet_fx.export(resized, tmp_path / "net.py")
