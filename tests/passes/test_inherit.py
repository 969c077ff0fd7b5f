"""What ``init="inherit"`` promises of weights and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from tests.passes.cases import conv, net

IMAGE = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Sum(nn.Module):
    """One group with three writers: two convolutions and a transposed one, added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(3, 4, 3, padding=1)
        self.c = nn.ConvTranspose2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.a(x) + self.b(x) + self.c(x)).relu())


def test_the_norm_counts_all_writers() -> None:
    """Each writer alone would keep another channel than all three together."""
    model = Sum()
    strengths = {"a": [5.0, 0, 3, 0], "b": [0.0, 5, 3, 0], "c": [0.0, 0, 3, 4.9]}
    with torch.no_grad():
        for name, values in strengths.items():
            weight = model.get_submodule(name).weight
            channels_first = weight.transpose(0, 1) if name == "c" else weight
            each = channels_first[0].numel()
            for channel, strength in enumerate(values):
                channels_first[channel] = strength / each**0.5
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.group("a").writers == ("a", "b", "c")

    def kept(size: int) -> list[int]:
        return plan.resize({"a": size}, init="inherit").meta["conet_fx"]["kept"]["head", "in"].tolist()

    assert kept(1) == [2]  # root(27) against 5, 5 and 4.9
    assert kept(3) == [0, 1, 2]


def test_statistics_follow_the_channels() -> None:
    model = Sum()
    for _ in range(3):
        model(torch.randn(8, 3, 6, 6) + 1)
    for size in (2, 6):
        resized = conet_fx.analyze(model, IMAGE).resize({"a": size}, init="inherit")
        kept = resized.meta["conet_fx"]["kept"]["head", "in"]
        stays = kept >= 0
        for name in ("running_mean", "running_var", "weight", "bias"):
            old, new = getattr(model.norm, name), getattr(resized.get_submodule("norm"), name)
            assert torch.equal(new[stays], old[kept[stays]])
        assert int(resized.get_submodule("norm").num_batches_tracked) == 3


def test_growing_keeps_the_function_and_shrinking_masks_it() -> None:
    torch.manual_seed(0)
    model = Sum().double()
    x = IMAGE.double()
    model(x)
    model.eval()
    plan = conet_fx.analyze(model, x)
    for size in (5, 9):
        grown = plan.resize({"a": size}, init="inherit")
        assert torch.allclose(grown(x), model(x), rtol=1e-12, atol=1e-12)
    shrunk = plan.resize({"a": 2}, init="inherit")
    kept = shrunk.meta["conet_fx"]["kept"]["head", "in"].tolist()
    with torch.no_grad():
        for channel in {*range(4)} - {*kept}:
            model.head.weight[:, channel] = 0
    assert torch.allclose(shrunk(x), model(x), rtol=1e-12, atol=1e-12)


class Normalised(nn.Module):
    """A layer norm over the channels by hand, and a convolution whose weights are standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = (x - x.mean(1, keepdim=True)) * (x.var(dim=1, keepdim=True) + 1e-6).rsqrt()
        kernel = self.kernel - self.kernel.mean((1, 2, 3), keepdim=True)
        return self.head(nn.functional.conv2d(x, kernel))


def test_channels_stay_apart_where_they_are_reduced() -> None:
    model = Normalised()
    with torch.no_grad():
        model.a.weight *= torch.tensor([1.0, 9, 1, 5]).reshape(4, 1, 1, 1) / model.a.weight.norm(dim=1, keepdim=True)
    resized = conet_fx.analyze(model, IMAGE).resize({"a": 2}, init="inherit")
    kept = resized.meta["conet_fx"]["kept"]
    assert kept["a", "out"].tolist() == kept["kernel", "1"].tolist() == [1, 3]
    assert torch.equal(resized.get_parameter("kernel"), model.kernel[:, [1, 3]])


@pytest.mark.parametrize(
    "compare",
    [
        lambda y, z: F.cosine_similarity(y, z, dim=1).mean(),
        lambda y, z: F.pairwise_distance(y.flatten(2).mT, z.flatten(2).mT).mean(),
        lambda y, z: F.mse_loss(y, z),
        lambda y, z: torch.cdist(y.flatten(2).mT, z.flatten(2).mT).mean(),
        lambda y, z: torch.softmax(y.flatten(2).mT @ z.flatten(2), -1).square().sum(),
        lambda y, z: torch.einsum("nchw,nchw->n", y, z).mean(),
        lambda y, z: F.max_unpool2d(z, F.max_pool2d_with_indices(y, 1)[1], 1).mean(),
    ],
    ids=["cosine", "distance", "mse", "cdist", "attention", "einsum", "unpool"],
)
def test_channels_that_are_compared_with_each_other_go_together(compare: Callable[[Any, Any], Any]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        return self.out(y) * compare(y, z) + self.last(z)

    torch.manual_seed(0)
    model = net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 2), last=conv(6, 2))
    plan = conet_fx.analyze(model, torch.rand(2, 3, 4, 4))
    resized = plan.resize({"a": 3}, init="inherit")
    kept = [int((model.a.weight == row).flatten(1).all(1).nonzero()) for row in resized.a.weight]
    assert torch.equal(resized.b.weight, model.b.weight[kept])
    assert torch.equal(resized.last.weight, model.last.weight[:, kept])


@pytest.mark.parametrize("normalised", [False, True])
def test_channels_that_come_to_another_block_are_told_also_beside_mixed_ones(normalised: bool) -> None:
    """``b`` moves into the first block of ``g`` as ``a`` shrinks, whatever happens to ``c`` beside it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.g(torch.cat([self.a(x), self.b(x), self.c(x)], 1)))

    c = conv(3, 4)
    if normalised:
        c = nn.utils.parametrizations.spectral_norm(c)
    model = net(forward, a=conv(3, 4), b=conv(3, 4), c=c, g=conv(12, 4, groups=2), out=conv(4, 5))
    plan = conet_fx.analyze(model, IMAGE)
    assert bool(plan.group("c").mixed_by) is normalised
    with pytest.warns(UserWarning, match=r"g inherits only \d+ of \d+ input channels"):
        plan.resize({"a": 8}, init="inherit")
