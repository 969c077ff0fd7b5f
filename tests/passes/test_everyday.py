"""What everyday code does inside ``forward``: layers made on the way, checks of types and sizes, sizes put together."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import TraceError
from conet_fx.passes.shapes import Shapes
from conet_fx.passes.trace import trace
from conet_fx.passes.verify import counting
from tests.passes.battery import check_everything, outputs
from tests.passes.cases import conv, net
from tests.passes.test_trace import Double

IMAGE = torch.randn(2, 3, 8, 8)


# --- layers --------------------------------------------------------------------------------------------------


def test_layers_without_weights_may_be_made_in_forward() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = nn.Sequential(self.a, nn.ReLU(), nn.InstanceNorm2d(6))(x)
        return self.out(nn.Upsample(scale_factor=2)(nn.MaxPool2d(2)(self.blocks[1:](y))))

    blocks = nn.Sequential(conv(6, 7), conv(6, 7), nn.ReLU())
    plan = check_everything(net(forward, a=conv(3, 6), blocks=blocks, out=conv(7, 2)), IMAGE)
    assert {group.name: group.size for group in plan.free} == {"a": 6, "blocks.1": 7}


@pytest.mark.parametrize("listed", [True, False], ids=["plain list", "made in forward"])
def test_layers_with_weights_that_the_model_does_not_own_are_refused(listed: bool) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        middle = self.layers[0] if listed else nn.Conv2d(6, 6, 1)
        return self.out(middle(self.a(x)))

    model = net(forward, a=conv(3, 6), out=conv(6, 2))
    model.layers = [conv(6, 6)]
    with pytest.raises(TraceError, match=r"the weight of Conv2d at .*test_everyday.py:\d+ is not among .*ModuleList"):
        conet_fx.analyze(model, IMAGE)


# --- questions about values --------------------------------------------------------------------------------------


def test_questions_about_types_are_answered_for_what_a_proxy_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers = types.ModuleType("tests.helpers_of_a_model")
    vars(helpers).update(Tensor=Tensor)
    exec("def is_map(x):\n    return isinstance(x, Tensor) and not callable(x.shape[1])", vars(helpers))
    monkeypatch.setitem(sys.modules, helpers.__name__, helpers)

    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.as_tensor(self.a(x))
        torch._check(y.shape[0] == 2)
        right = torch.jit.isinstance(y, Tensor) and torch.jit.isinstance([y], list[Tensor]) and torch.is_tensor(y)
        if not (right and helpers.is_map(y)) or (not isinstance(y, fx.Proxy) and bool(y.isnan().all())):
            return self.a(x)
        if "Half" in y.type() or 8 not in y.shape or y.shape[0] not in (2, 4):
            return self.a(x)
        limit = torch.finfo(y.dtype).min
        return self.out(y.masked_fill(y > -limit, limit)).double() + torch.as_tensor(y, dtype=torch.float64).mean()

    before = torch.jit.isinstance, torch.is_tensor, torch._check_with, torch.as_tensor
    model = net(forward, a=conv(3, 6), out=conv(6, 5))
    plan = check_everything(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert before == (torch.jit.isinstance, torch.is_tensor, torch._check_with, torch.as_tensor)
    assert not {"isinstance", "callable"} & (vars(helpers).keys() | globals().keys())


def test_a_product_in_place_is_counted() -> None:
    with counting() as counter:
        torch.zeros(2, 3).addmm_(torch.ones(2, 4), torch.ones(4, 3))
        torch.zeros(5, 2, 3).baddbmm_(torch.ones(5, 2, 4), torch.ones(5, 4, 3))
    assert counter.get_total_flops() == 2 * 24 + 2 * 120


def test_numbers_that_python_alone_looks_at_freeze_nothing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2) @ self.b(x).flatten(2).transpose(1, 2)
        if y.numel() * 2 > 2**31 or y.shape[1] - y.shape[2] > 2:
            y = y.contiguous()
        return y.mean((1, 2)) + self.out(x).mean((1, 2, 3))

    plan = check_everything(net(forward, a=conv(3, 6), b=conv(3, 7), out=conv(3, 1)), IMAGE)
    assert {group.name for group in plan.free} == {"a", "b", "out"}


# --- sizes that are put together ----------------------------------------------------------------------------------


BATCH, HEADS, ALL, CLASSES = (2,), (2, 4), (8,), (5,)


def test_heads_as_hugging_face_writes_them() -> None:
    """``x.size()[:-1] + (heads, head_size)``: the numbers in such a tuple are rewritten like those in a call."""

    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (p(tokens) for p in (self.q, self.k, self.v))
        q, k, v = (p.view(p.size()[:-1] + HEADS).permute(0, 2, 1, 3) for p in (q, k, v))
        y = (torch.softmax(q @ k.transpose(-1, -2), -1) @ v).permute(0, 2, 1, 3).contiguous()
        y = self.out(y.view(y.size()[:-2] + ALL))
        return y.reshape(BATCH + tokens.shape[1:2] + CLASSES)

    parts = {name: nn.Linear(3, 8) for name in "qkv"}
    plan = check_everything(net(forward, **parts, out=nn.Linear(8, 5)), IMAGE, resize_linear=True)
    assert {group.name: group.size for group in plan.free} == {"q": 8, "v": 8}


def test_a_slice_from_the_end_by_a_computed_number() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        tokens = torch.cat([y.flatten(2), x.flatten(2)[:, :1].expand(-1, y.shape[1], -1)], 2)
        return self.out(tokens[:, :, -x.shape[2] * x.shape[3] :].view(2, -1, 8, 8))

    plan = check_everything(net(forward, a=conv(3, 6), b=conv(3, 4), out=conv(10, 5)), IMAGE)
    assert {group.name: group.size for group in plan.free} == {"a": 6, "b": 4}


# --- tensors of the model's own ---------------------------------------------------------------------------------


class Decoder(nn.Module):
    """A head as YOLO has: places of the cells by the strides of its levels, which it keeps for the next image."""

    def __init__(self, opaque: bool) -> None:
        super().__init__()
        self.conv = conv(6, 4)
        self.stride, self.places, self.seen, self.opaque = torch.tensor([8.0, 16.0]), torch.empty(0), None, opaque

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.opaque:
            x = Double.apply(x)  # what no graph can hold
        if self.seen != x.shape:
            places = [x.new_full((x.shape[2] * x.shape[3], 1), stride) for stride in self.stride]
            self.places, self.seen = torch.cat(places), x.shape
        return x.flatten(2) * self.places.mean() + torch.full_like(x, self.stride.sum()).flatten(2)


def test_a_tensor_in_a_plain_attribute_that_the_forward_replaces() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.mean = self.mean.type_as(x)
        return self.out(self.a(x - self.mean))

    model = net(forward, a=conv(3, 6), out=conv(6, 5))
    model.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    plan = check_everything(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert model.mean.shape == (1, 3, 1, 1)


def test_a_value_to_fill_with_may_be_a_tensor_of_the_model() -> None:
    model = nn.Sequential(conv(3, 6), Decoder(opaque=False))
    assert not trace(model, IMAGE).pieces
    assert model[1].seen is None
    check_everything(model, IMAGE)


def test_a_module_that_is_one_call_keeps_what_it_had() -> None:
    """It runs on a copy, and where fake tensors cannot give it a number, on meta tensors."""
    model = nn.Sequential(conv(3, 6), conv(6, 6), Decoder(opaque=True))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["0"]
    expected = outputs(model, IMAGE)
    assert model[2].seen == (2, 4, 8, 8)
    model[2].places, model[2].seen = torch.empty(0), None
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.cost().macs == 2 * sum(64 * m.weight.numel() for m in (model[0], model[1], model[2].conv))
    plan.resize({"0": 4})
    assert model[2].seen is None
    assert model[2].places.numel() == 0
    assert all(map(torch.equal, outputs(model, IMAGE), expected))


@pytest.mark.parametrize("shuffle", [torch.channel_shuffle, torch.native_channel_shuffle])
def test_channels_are_shuffled_wherever_they_lie(shuffle: Any) -> None:
    """torch's own shape of it is that of a view, which there is none of where channels come last."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.einsum("nchw,dc->ndhw", self.a(x), self.w.weight)
        return self.out(shuffle(y, 2))

    model = net(forward, a=conv(3, 2), w=nn.Linear(2, 4, bias=False), out=conv(4, 5))
    plan = conet_fx.analyze(model, IMAGE)
    assert outputs(plan.resize({"a": 1}), IMAGE)[0].shape == (2, 5, 8, 8)


@pytest.mark.parametrize("how", ["layer", "function", "transposed", "weights"])
def test_a_convolution_of_channels_last_is_known_to_give_such(how: str) -> None:
    """Meta tensors say otherwise, and so Python would take another way."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = x if how == "weights" else x.movedim(1, -1).contiguous().movedim(-1, 1)
        match how:
            case "function":
                y = F.conv2d(x, self.a.weight)
            case "transposed":
                y = F.conv_transpose2d(x, self.a.weight.transpose(0, 1))
            case _:
                y = self.a(x)
        return self.out(y if y.is_contiguous() else -y)

    model = net(forward, a=conv(3, 6), out=conv(6, 2))
    model.a.bias = None
    if how == "weights":
        model.to(memory_format=torch.channels_last)
    check_everything(model, IMAGE)
    plain = net(lambda self, x: self.out(self.a(x)), **dict(model.named_children()))
    assert not torch.equal(model(IMAGE), plain(IMAGE))


def test_a_shape_does_not_depend_on_what_is_filled_in() -> None:
    fill = torch.zeros((), dtype=torch.int64, device="meta")
    shapes = Shapes(torch.device("cpu"))
    assert shapes.run(torch.full, ((2, 3), fill), {}).dtype == torch.int64
    assert shapes.run(torch.full, ((2, 3),), {"fill_value": fill}).shape == (2, 3)
    assert F.relu(shapes.run("new_full", (torch.empty(1, device="meta"), (4,), fill), {})).dtype == torch.float32


@functools.lru_cache
def table_of_positions(length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device).float()


class WithTable(nn.Module):
    """One call, which does not run on meta tensors, and takes a table from a cache."""

    def forward(self, x: Tensor) -> Tensor:
        table = table_of_positions(int(x.shape[3]), x.device)
        return Double.apply(x) * (table + torch.tensor(1.0, device="cpu").expand(x.shape[3]).to(x.device))


def test_no_fake_tensor_stays_in_a_cache() -> None:
    table_of_positions.cache_clear()
    model = nn.Sequential(conv(3, 6), WithTable())
    conet_fx.analyze(model, IMAGE)
    assert type(table_of_positions(8, IMAGE.device)) is Tensor
    table_of_positions.cache_clear()
    Shapes(torch.device("cpu"), ("fake",)).run(model[1], (torch.empty(2, 3, 8, 8, device="meta"),), {})
    assert type(table_of_positions(8, IMAGE.device)) is Tensor
