"""einops, which many hand-written attention blocks use: its functions and layers are looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import einops
import pytest
import torch
from einops.layers.torch import Rearrange, Reduce
from torch import Tensor, nn

from tests.passes.battery import check_everything
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


def attention(self: Any, x: Tensor) -> Tensor:
    y = einops.rearrange(self.a(x), "b c h w -> b (h w) c")
    q, k, v = (einops.rearrange(z, "b n (h d) -> b h n d", h=2) for z in self.qkv(y).chunk(3, dim=-1))
    z = (q @ k.transpose(-1, -2)).softmax(-1) @ v
    return self.out(einops.rearrange(z, "b h n d -> b n (h d)"))


CASES: dict[str, tuple[Callable[..., Tensor], dict[str, nn.Module], dict[str, tuple[int, int]]]] = {
    "attention": (
        attention,
        {"a": conv(3, 8), "qkv": nn.Linear(8, 24), "out": nn.Linear(8, 2)},
        {"a": (8, 1), "qkv": (24, 6)},
    ),
    "patches": (
        lambda self, x: self.out(self.r(self.a(x))),
        {"a": conv(3, 8), "r": Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2), "out": nn.Linear(32, 2)},
        {"a": (8, 1)},
    ),
    "mean": (
        lambda self, x: self.out(einops.reduce(self.a(x), "b c h w -> b c", "mean")),
        {"a": conv(3, 8), "out": nn.Linear(8, 2)},
        {"a": (8, 1)},
    ),
    "maximum": (
        lambda self, x: self.out(self.r(self.a(x))),
        {"a": conv(3, 8), "r": Reduce("b c h w -> b c", "max"), "out": nn.Linear(8, 2)},
        {"a": (8, 1)},
    ),
    "copies": (
        lambda self, x: self.out(einops.repeat(self.a(x), "b c h w -> b (c r) h w", r=2)),
        {"a": conv(3, 8), "out": conv(16, 2)},
        {"a": (8, 1)},
    ),
    "shuffle": (
        lambda self, x: self.out(einops.rearrange(self.a(x), "b (g c) h w -> b (c g) h w", g=2)),
        {"a": conv(3, 8), "out": conv(8, 2)},
        {"a": (8, 2)},
    ),
    "products": (
        lambda self, x: self.out(einops.einsum(self.a(x), self.b(x), "b c h w, b d h w -> b d h c")),
        {"a": conv(3, 8), "b": conv(3, 4), "out": nn.Linear(8, 2)},
        {"a": (8, 1)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_einops(name: str) -> None:
    forward, parts, free = CASES[name]
    plan = check_everything(net(forward, **parts), IMAGE, resize_linear=True)
    assert {group.name: (group.size, group.quantum) for group in plan.free} == free
    assert not plan.facts.unknown


def test_einops_goes_on_as_before() -> None:
    backends = einops._backends
    known, reconstruct = dict(backends._type2backend), einops.einops._reconstruct_from_shape
    forward, parts, _ = CASES["shuffle"]
    check_everything(net(forward, **parts), IMAGE)
    assert {kind for kind in backends._type2backend if kind is not Tensor} == {
        kind for kind in known if kind is not Tensor
    }
    assert einops.einops._reconstruct_from_shape is reconstruct
