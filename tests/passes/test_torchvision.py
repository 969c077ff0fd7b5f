"""The networks that the paper and its peers are judged on: group counts, each derived by hand, and the battery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as zoo
import torchvision.models.swin_transformer as swin
from torch import nn

import conet_fx
from tests.passes.battery import check_everything

# name -> (free groups, how one counts them)
GOLDEN: dict[str, int] = {
    # 4 stages, each with one residual stream (the stem shares that of stage 1), and the inner width of 8 basic blocks
    "resnet18": 4 + 8,
    # as above with 3 + 4 + 6 + 3 = 16 blocks
    "resnet34": 4 + 16,
    # the stem (a bottleneck stage has a projection in its first block, so the stem is alone), 4 streams, 16 blocks with
    # two inner widths each
    "resnet50": 1 + 4 + 2 * 16,
    # the same: a grouped convolution has free widths before and behind it
    "resnext50_32x4d": 1 + 4 + 2 * 16,
    # 13 convolutions in a row; the hidden linear layers stay
    "vgg16_bn": 13,
    # the stem with its depthwise layer, the expansions of 16 of 17 blocks (the first does not expand), one stream in
    # each of 7 stages, the last convolution
    "mobilenet_v2": 1 + 16 + 7 + 1,
    # the stem, 3 transitions, and two convolutions in each of 6 + 12 + 24 + 16 = 58 layers: cats keep all of them free
    "densenet121": 1 + 3 + 2 * 58,
    # 3 convolutions of the stem, and 6 in each of 9 inception blocks (1x1, 2 of 3x3, 2 of 5x5, 1 behind the pool)
    "googlenet": 3 + 6 * 9,
    # the stem, the last convolution, and 3 stages (4 + 8 + 4 blocks). A stage begins with two branches, of which the
    # second has a free inner width; their outputs are the two rows of a shuffle, which must be equally long, and so are
    # the two halves that the next block cuts: one passes, one is convolved and joins it again as a row of a shuffle. So
    # all outputs of a stage are one group, beside 1 inner width in each block: 1 + 4, 1 + 8, 1 + 4. Nothing finer is
    # possible: with rows of other lengths the shuffle would exchange other channels.
    "shufflenet_v2_x1_0": 1 + 1 + 5 + 9 + 5,
    # the stem, the last convolution, 7 streams, the expansions of 15 of 16 blocks, and the squeeze of all 16 blocks
    "efficientnet_b0": 1 + 1 + 7 + 15 + 16,
    # the stem, 4 streams, and in each of 1 + 3 + 6 + 6 = 16 blocks: the width before and behind the grouped convolution
    # (the latter is also that of squeeze-excite) and the squeeze
    "regnet_y_400mf": 1 + 4 + 3 * 16,
}


# with resize_linear=True
GOLDEN_LINEAR: dict[str, int] = {
    # the residual stream, which patches, class token, positions and attention share, and the MLP of 12 blocks
    "vit_b_16": 1 + 12,
    # 4 stages, each with one stream (the width of its attention too), and the MLP of 2 + 2 + 6 + 2 = 12 blocks
    "swin_t": 4 + 12,
    # the same, and the inner width of the MLP that computes the positions of each of the 12 blocks
    "swin_v2_t": 4 + 12 + 12,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    maker: Callable[..., nn.Module] = getattr(zoo, name)
    return maker(weights=None, num_classes=10, **options).eval()


@pytest.mark.parametrize("name", GOLDEN)
def test_number_of_groups(name: str) -> None:
    plan = conet_fx.analyze(build(name), torch.randn(1, 3, 64, 64))
    assert len(plan.free) == GOLDEN[name], plan.explain()
    assert not plan.facts.unknown
    # what is frozen: the output, and hidden linear layers (vgg16_bn)
    assert len(plan.groups) - len(plan.free) == (3 if name == "vgg16_bn" else 1), plan.explain()


@pytest.mark.parametrize("name", GOLDEN_LINEAR)
def test_number_of_groups_with_linear_layers(name: str) -> None:
    size = 224 if name.startswith("vit") else 64
    plan = conet_fx.analyze(build(name), torch.randn(1, 3, size, size), resize_linear=True)
    assert len(plan.free) == GOLDEN_LINEAR[name], plan.explain()
    assert not plan.facts.unknown
    heads = 12 if name == "swin_v2_t" else 0  # the positions of Swin V2 are one number for each head
    assert len(plan.groups) - len(plan.free) == 1 + heads, plan.explain()


def test_battery_vision_transformer() -> None:
    torch.manual_seed(0)
    model = zoo.VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    check_everything(model, torch.randn(2, 3, 32, 32), seeds=[0], resize_linear=True)


@pytest.mark.parametrize("training", [False, True])
def test_vision_transformer_runs_fused_and_taken_apart(training: bool) -> None:
    """The fast path of torch gives what the formula gives, at other sizes too."""
    torch.manual_seed(0)
    model = zoo.VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=5)
    x = torch.randn(2, 3, 32, 32)
    plan = conet_fx.analyze(model.train(training), x, resize_linear=True)
    resized = plan.resize({"conv_proj": 24, plan.free[1].name: 20}, init_fn=_random)
    with torch.no_grad():
        fused = resized.eval()(x)
    torch.testing.assert_close(resized(x), fused)  # with gradients there is no fast path
    assert float(fused.std()) > 0
    resized.train()(x).sum().backward()
    assert all(p.grad is not None for p in resized.parameters())


def _random(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("version", [1, 2])
def test_battery_swin(version: int) -> None:
    torch.manual_seed(0)
    blocks = [swin.SwinTransformerBlock, swin.SwinTransformerBlockV2][version - 1]
    merging = [swin.PatchMerging, swin.PatchMergingV2][version - 1]
    model = zoo.SwinTransformer(
        [2, 2], 8, depths=[2, 2], num_heads=[2, 4], window_size=[3, 3], stochastic_depth_prob=0.0, num_classes=5,
        block=blocks, downsample_layer=merging,
    ).eval()  # fmt: skip
    check_everything(model, torch.randn(2, 3, 16, 16), seeds=[0], alone=False, resize_linear=True)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("resnet34", 32),
        ("resnet50", 32),
        ("resnext50_32x4d", 32),
        ("mobilenet_v2", 64),
        ("densenet121", 64),
        ("googlenet", 64),
        ("shufflenet_v2_x1_0", 64),
        ("efficientnet_b0", 64),
        ("regnet_y_400mf", 64),
    ],
)
def test_battery(name: str, size: int) -> None:
    check_everything(build(name), torch.randn(2, 3, size, size), seeds=[0], alone=False)


def test_battery_vgg() -> None:
    model = build("vgg16_bn")
    assert isinstance(model, zoo.VGG)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    check_everything(model, torch.randn(2, 3, 32, 32), seeds=[0], alone=False)
