"""Copies of modules without deepcopy, and results that are remembered: as if neither were there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conet_fx
from conet_fx.passes.nodes import copies
from conet_fx.passes.shapes import Shapes


def copied(model: nn.Module) -> Any:
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, copies(model, {id(t): copy.deepcopy(t) for t in tensors}))


class Block(nn.Module):
    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.seen, self.activation, self.kind = seen, torch.relu, nn.ReLU
        self.same = nn.Sequential(self.conv)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        seen = [1]
        self.blocks = nn.ModuleList([Block(seen), Block(seen), nn.Sequential()])
        self.table = {"conv": self.blocks[0].conv}  # not plain: deepcopy copies this one
        self.back = (self,)
        self.register_parameter("none", None)
        self.register_buffer("steps", torch.zeros(2), persistent=False)


def test_a_copy_shares_within_itself_what_the_original_shares_and_nothing_with_it() -> None:
    net = Net().eval()
    twin = copied(net)
    assert twin.blocks[0].seen is twin.blocks[1].seen is not net.blocks[0].seen
    assert twin.table["conv"] is twin.blocks[0].conv is twin.blocks[0].same[0]
    assert twin.back[0] is twin
    assert twin.none is None
    assert "steps" not in twin.state_dict()
    assert {name: type(part) for name, part in twin.named_modules()} == {
        name: type(part) for name, part in net.named_modules()
    }
    own, others = ({id(part) for part in m.modules()} | {id(t) for t in m.parameters()} for m in (net, twin))
    assert not own & others
    for name, part in net.named_modules():
        other = twin.get_submodule(name)
        assert vars(part).keys() == vars(other).keys()
        shared = [
            key
            for key, value in vars(part).items()
            if isinstance(value, (dict, list, set)) and vars(other)[key] is value
        ]
        assert not shared
        assert part.extra_repr() == other.extra_repr()
    twin.blocks[0].conv.register_forward_hook(lambda *_: None)
    assert not net.blocks[0].conv._forward_hooks


def test_hooks_and_classes_that_say_how_they_are_copied() -> None:
    class Own(nn.Sequential):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return nn.Identity()

    class Forgetful(nn.Module):
        cache = 0

        def __getstate__(self) -> dict[str, Any]:
            return {**vars(self), "cache": 0}

    hooked, forgetful = nn.Sequential(nn.ReLU()), Forgetful()
    forgetful.cache = 1
    hooked.register_forward_hook(print)
    twin = copied(nn.Sequential(Own(nn.ReLU()), hooked, forgetful))
    assert type(twin[0]) is nn.Identity
    assert list(twin[1]._forward_hooks.values()) == [print]
    assert (twin[2].cache, forgetful.cache) == (0, 1)


def test_what_is_remembered_tells_numbers_of_several_types_apart() -> None:
    class Numbers(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return (
                x * 1,
                x * 1.0,
                x * True,
                x[:1],
                x[1:],
                x[::2],
                x.sum(0),
                x.sum(0, keepdim=True),
                x.add_(1),
                x.to(torch.int8),
            )

    x = torch.ones(4, 3, dtype=torch.int64)
    module = conet_fx.analyze(Numbers(), x).trace.graph_module
    values = module.graph.output_node().meta["val"]
    for told, real in zip(values, Numbers()(x.clone()), strict=True):
        assert (told.shape, told.dtype, told.stride()) == (real.shape, real.dtype, real.stride())


def test_what_depends_on_more_than_shapes_is_run_each_time() -> None:
    shapes, x, ran = Shapes(torch.device("cpu")), torch.empty(2, 3, device="meta"), []

    def own(x: Tensor) -> Tensor:
        ran.append(x)
        return x

    for _ in range(2):
        shapes.run(own, (x,), {})
    assert len(ran) == 2
    layer = nn.ReLU()
    layer.forward = own  # type: ignore[method-assign]
    for _ in range(2):
        shapes.run(layer, (x,), {})
    assert len(ran) == 4
    found: list[int] = []
    for _ in range(2):
        shapes.run("append", (found, 1), {})
    assert found == [1, 1]
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert shapes.run(torch.zeros, (2,), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(dtype)
    assert shapes.run(torch.zeros, (2,), {}).dtype == dtype


@pytest.mark.parametrize("target", [torch.relu, "relu", nn.ReLU()])
def test_what_torch_gives_is_remembered(target: Any) -> None:
    shapes = Shapes(torch.device("cpu"))
    first, second = (shapes.run(target, (torch.empty(2, 3, device="meta"),), {}) for _ in range(2))
    assert first is second
    assert shapes.run(target, (torch.empty(3, 2, device="meta"),), {}) is not first
