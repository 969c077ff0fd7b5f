"""apply: the user's class either computes what the recipe does, or is refused at once, with the line to change."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import conet_fx
from conet_fx import recipe
from conet_fx.errors import RecipeError

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A part that gets 6 channels and returns them, with ``body`` in between."""

    def __init__(self, body: Callable[[Block, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.rand(6, 1, 1))
        self.body = body
        vars(self).update(attributes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x + self.bias)


class Net(nn.Module):
    def __init__(self, body: Callable[[Block, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.block = Block(body, **attributes)
        self.head = nn.LazyConv2d(4, 1)
        self(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


def saved(model: nn.Module, folder: Path, example: Any = X, **sizes: int) -> torch.fx.GraphModule:
    """The network, resized and written to ``folder``."""
    torch.manual_seed(0)
    plan = conet_fx.analyze(model, example)
    resized = plan.resize(sizes or {"stem": 4})
    conet_fx.save(resized, plan, folder)
    return resized


def run(module: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return pytree.tree_leaves(module(*args, **kwargs))


def same(ours: nn.Module, theirs: nn.Module, *args: Any, **kwargs: Any) -> bool:
    pairs = zip(run(ours, *args, **kwargs), run(theirs, *args, **kwargs), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


SPELT: dict[str, tuple[Callable[[Block, Tensor], Tensor], str]] = {
    "view": (lambda net, x: x.view(x.shape[0], 6, -1).unflatten(2, (6, 6)), "6 where the recipe has 4, in view"),
    "reshape": (lambda net, x: x.reshape(-1, 6, 6, 6), "6 where the recipe has 4, in reshape"),
    "a product": (lambda net, x: x.mean(3).reshape(-1, 36).unflatten(1, (-1, 6, 1)), "36 where .* 24, in reshape"),
    "expand": (lambda net, x: x + net.bias.mean(0).expand(6, 1, 1) * x, "6 where the recipe has 4, in expand"),
    "zeros": (lambda net, x: x + torch.zeros(1, 6, 1, 1), "6 where the recipe has 4, in a tensor that"),
    "a list of parts": (lambda net, x: torch.cat(torch.split(x, [3, 3], 1), 1), "3 where the recipe has 4, in split"),
    "parts": (lambda net, x: torch.cat(x.split(3, 1)[::-1], 1), "3 where the recipe has 2, in split"),
    "a slice": (lambda net, x: torch.cat([x[:, 3:], x[:, :3]], 1), "3 where the recipe has 4, in getitem"),
    "arithmetic": (
        lambda net, x: x.view(-1, net.half + 3, 6, 6),
        r"6 \(from block.half\) where the recipe has 4, in view",
    ),
    "two uses": (lambda net, x: F.adaptive_avg_pool2d(x.view(-1, net.both, 6, 6), net.both), r"6 \(block.both\) where"),
    "a property": (lambda net, x: x.view(x.size(0), len(net.four) + 2, 6, 6), "6 where the recipe has 4, in view"),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", SPELT)
def test_a_width_that_is_spelt_out_is_refused_with_its_line(kind: str, training: bool, tmp_path: Path) -> None:
    body, message = SPELT[kind]
    model = Net(body, half=3, four="four", both=6).train(training)
    saved(model, tmp_path)
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    line = inspect.getsourcelines(body)[1]
    with pytest.raises(RecipeError, match=rf"{message}.* at {re.escape(__file__)}:{line} \(module 'block'\)") as caught:
        conet_fx.apply(model, tmp_path)
    assert "Write x.shape[1] (or the like) in place of the number, or use conet_fx.load" in str(caught.value)
    assert before == {path: vars(module) for path, module in model.named_modules()}


@pytest.mark.parametrize("kind", SPELT)
def test_a_width_that_stays_may_be_spelt_out(kind: str, tmp_path: Path) -> None:
    model = Net(SPELT[kind][0], half=3, four="four", both=6)
    present = {group.name: group.size for group in conet_fx.analyze(model, X).free}
    resized = saved(model, tmp_path, **present)
    assert same(conet_fx.apply(model, tmp_path), resized, X)


def test_an_attribute_that_is_a_width_and_nothing_else_is_set(tmp_path: Path) -> None:
    model = Net(
        lambda net, x: F.adaptive_avg_pool2d(x.reshape(-1, net.width, net.high, 6), net.high) + net.flag,
        **{"width": 6, "high": 6, "unused": 6, "flag": True},
    )
    resized = saved(model, tmp_path)
    applied = conet_fx.apply(model, tmp_path)
    assert same(applied, resized, X)
    block = applied.block
    assert (block.width, block.high, block.unused, model.block.width) == (4, 6, 6, 6)
    assert type(block.width) is type(block.high) is int
    again = conet_fx.apply(applied, tmp_path)  # it has the sizes already
    assert same(again, resized, X)


def test_widths_in_tuples_and_what_is_computed_from_attributes(tmp_path: Path) -> None:
    def body(net: Block, x: Tensor) -> Tensor:
        first, second = x.split(net.parts, 1)
        x = torch.cat([second, first], 1).view(net.shape)
        x = x.reshape(-1, net.width * 36).reshape(-1, net.width, 6, 6)
        return x.reshape(-1, net.half * 2, 6, 6).reshape(-1, 2 * (net.double // net.two // 2), 6, 6)

    class Parted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.more, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(6, 4, 1)
            self.block = Block(body, parts=[4, 2], shape=(2, 6, 6, 6), width=6, half=3, double=12, two=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(torch.cat([self.stem(x), self.more(x)], 1)))

    model = Parted()
    resized = saved(model, tmp_path, stem=7, more=1)
    applied = conet_fx.apply(model, tmp_path)
    assert same(applied, resized, X)
    assert (applied.block.parts, applied.block.shape, applied.block.width) == ([7, 1], (2, 8, 6, 6), 8)
    assert (applied.block.half, applied.block.double, applied.block.two) == (4, 16, 2)
    assert (model.block.parts, model.block.shape, model.block.width) == ([4, 2], (2, 6, 6, 6), 6)
    assert {type(width) for width in (*applied.block.parts, *applied.block.shape)} == {int}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_attribute_is_set_where_the_other_mode_takes_another_path(training: bool, tmp_path: Path) -> None:
    def body(net: Block, x: Tensor) -> Tensor:
        x = x.reshape(-1, net.width, 6, 6)
        return F.relu(x) * 2 if net.training else x[:, : net.width] + x

    model = Net(body, width=6).train(training)
    resized = saved(model, tmp_path)
    applied = conet_fx.apply(model, tmp_path)
    assert applied.block.width == 4
    assert same(applied, resized, X)

    def breaks(net: Block, x: Tensor) -> Tensor:
        x = x.reshape(-1, net.width, 6, 6)
        return F.relu(x) * 2 if net.training == training else x + torch.ones(1, 6, 1, 1)

    model = Net(breaks, width=6).train(training)
    saved(model, tmp_path / "other")
    with pytest.raises(RecipeError, match=r"6 \(block.width\) where the recipe has 4"):
        conet_fx.apply(model, tmp_path / "other")


def test_one_attribute_of_two_groups_is_not_guessed(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
            self.head = nn.Conv2d(6, 2, 1)
            self.width = 6

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).reshape(-1, self.width, 6, 6)
            return self.head(self.second(x).reshape(-1, self.width, 6, 6))

    saved(Two(), tmp_path, first=4, second=8)
    with pytest.raises(RecipeError, match=r"6 \(width\) where the recipe has 4.*\(the model itself\); .* has 8"):
        conet_fx.apply(Two(), tmp_path)
    model = Two()
    resized = saved(model, tmp_path, first=4, second=4)
    assert same(conet_fx.apply(model, tmp_path), resized, X)


def test_a_number_computed_from_a_size_is_refused(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x) / math.sqrt(self.stem.out_channels))

    saved(Scaled(), tmp_path)
    with pytest.raises(RecipeError, match=r"2\.0 where the recipe has 2\.449.*, in truediv"):
        conet_fx.apply(Scaled(), tmp_path)


FOLLOWS: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "symbols": lambda net, x: x.view(x.shape[0], x.shape[1], -1).unflatten(2, (6, 6)),
    "the rest": lambda net, x: x.reshape(2, -1, 6, 6),
    "beyond the end": lambda net, x: x[:, :64],
    "from the end": lambda net, x: x * x[:, -1:],
    "in place": lambda net, x: _cleared(x),
    "one part": lambda net, x: x.split(64, 1)[0],
    "a parameter": lambda net, x: x * torch.ones(net.bias.shape[0], 1, 1),
    "of its mode": lambda net, x: F.dropout(x, 0.5, training=net.training),
}


def _cleared(x: Tensor) -> Tensor:
    x = x * 1
    x[:, -2:] = 0.0
    return x


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", FOLLOWS)
def test_what_follows_by_itself_is_applied(kind: str, training: bool, tmp_path: Path) -> None:
    model = Net(FOLLOWS[kind]).train(training)
    resized = saved(model, tmp_path)
    assert same(conet_fx.apply(model, tmp_path), resized, X)


class Inputs(nn.Module):
    """Several inputs, nested ones, one by keyword, and an option; a width as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.width = 6

    def forward(self, x: Tensor, more: dict[str, list[Tensor]], *, gain: Tensor, twice: bool = False) -> Tensor:
        x = self.stem(x) + self.stem(more["a"][0]) * gain
        return self.head((x * 2 if twice else x).reshape(-1, self.width, *x.shape[2:]))


def test_every_kind_of_input_is_known(tmp_path: Path) -> None:
    example = {"x": X, "more": {"a": [X]}, "gain": torch.ones(1, dtype=torch.float32), "twice": True}
    model = Inputs()
    resized = saved(model, tmp_path, example)
    call = recipe.read(tmp_path).call
    assert call is not None
    assert call.kwargs["twice"] is True
    assert same(conet_fx.apply(model, tmp_path), model_of(resized), *(X, {"a": [X]}), gain=torch.ones(1))
    assert conet_fx.apply(model, tmp_path).width == 4


def model_of(resized: nn.Module) -> nn.Module:
    """A resized network, called as its class, with ``twice`` at its default."""

    class Halved(nn.Module):
        def forward(self, x: Tensor, more: Any, gain: Tensor) -> Tensor:
            stem, head = resized.stem, resized.head
            return head(stem(x) + stem(more["a"][0]) * gain)

    return Halved()


def test_positional_inputs_and_weights_of_another_type(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return self.head((self.stem(x) + others[0]).view(-1, 6, 6, 6))

    plan = conet_fx.analyze(Pair(), (X, torch.ones(1)))
    for dtype in (torch.float32, torch.bfloat16):
        conet_fx.save(plan.resize({"stem": 4}).to(dtype), plan, tmp_path)
        with pytest.raises(RecipeError, match="6 where the recipe has 4"):
            conet_fx.apply(Pair(), tmp_path)
    conet_fx.save(plan.resize({"stem": 6}).to(torch.bfloat16), plan, tmp_path)
    assert conet_fx.apply(Pair(), tmp_path).stem.weight.dtype is torch.bfloat16


def test_hooks_and_state_see_nothing_of_the_check(tmp_path: Path) -> None:
    model = Net(lambda net, x: x.view(-1, net.width, 6, 6), width=6)
    resized = saved(model, tmp_path)
    calls: list[int] = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    model.block.register_forward_pre_hook(lambda *_: calls.append(2))
    state = torch.random.get_rng_state()
    applied = conet_fx.apply(model, tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not calls
    assert same(applied, resized, X)
    assert calls == [1, 2]


class Auxiliary(nn.Module):
    """A second head in train mode, whose code has a width that the recipe of the other mode knows nothing of."""

    def __init__(self, drop: float = 0.1) -> None:
        super().__init__()
        self.stem, self.head, self.aux = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)
        self.drop = drop

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(self.stem(x), self.drop, training=self.training)
        if self.training:
            return self.head(x), self.aux(x.view(-1, 6, 6, 6))
        return self.head(x)


@pytest.mark.parametrize("traced", [True, False])
def test_a_width_that_one_mode_alone_spells_out_counts(traced: bool, tmp_path: Path) -> None:
    saved(Auxiliary().train(traced), tmp_path)
    for mode in (True, False):
        with pytest.raises(RecipeError, match="6 where the recipe has 4, in view"):
            conet_fx.apply(Auxiliary(drop=0.3).train(mode), tmp_path)  # with a rate of its own


class Branching(nn.Module):
    """Takes another path at other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.stem.out_channels != 6:
            raise ValueError("six channels")
        return self.head(x)


def test_a_forward_that_refuses_a_width_is_refused(tmp_path: Path) -> None:
    saved(Branching(), tmp_path)
    with pytest.raises(RecipeError, match=rf"does not run at the sizes .*six channels \({re.escape(__file__)}:\d+\)"):
        conet_fx.apply(Branching(), tmp_path)


class Asserting(nn.Module):
    """As diffusers does: a layer knows its width, and asks each input for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.channels, self.out_channels, self.heads = 6, 6, 6

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        x = self.conv(x)
        if x.shape[1] != self.out_channels:
            raise ValueError("another width")
        return x


def test_a_width_that_an_assertion_compares_is_set(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Asserting(), nn.Conv2d(6, 2, 1))
    resized = saved(model, tmp_path, **{"0": 4, "1.conv": 8})
    applied = conet_fx.apply(model, tmp_path)
    assert same(applied, resized, X)
    assert (applied[1].channels, applied[1].out_channels, applied[1].heads) == (4, 8, 6)  # nobody looks at the last
    assert model[1].channels == 6


def test_numbers_in_the_text_of_an_assertion_are_no_widths(tmp_path: Path) -> None:
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.width, self.size = nn.Conv2d(3, 8, 1), 8, 6
            self.out = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Any:
            n, _, height, _ = x.shape
            torch._assert(height == self.size, f"{height} where {self.size} was expected, {self.width} channels")
            return self.out(self.conv(x).reshape(n, self.width, -1).unflatten(2, (self.size, self.size)))

    resized = saved(Told(), tmp_path, conv=5)
    applied = conet_fx.apply(Told(), tmp_path)
    assert same(applied, resized, X)
    assert applied.width == 5


def test_a_recipe_of_a_loaded_network_is_checked_too(tmp_path: Path) -> None:
    model = Net(SPELT["view"][0])
    saved(model, tmp_path / "first")
    loaded = conet_fx.load(tmp_path / "first")
    plan = conet_fx.analyze(loaded, X)
    conet_fx.save(plan.resize({"stem": 5}), plan, tmp_path / "second", model_id=recipe.identify(model))
    with pytest.raises(RecipeError, match="6 where the recipe has 5, in view"):
        conet_fx.apply(model, tmp_path / "second")


def test_a_recipe_without_inputs_is_applied_unchecked(tmp_path: Path) -> None:
    model = Net(SPELT["view"][0])
    plan = conet_fx.analyze(model, X)
    recipe.save(plan.resize({"stem": 4}), tmp_path, model_id=recipe.identify(model))
    assert recipe.read(tmp_path).call is None
    assert conet_fx.apply(model, tmp_path).stem.out_channels == 4
