"""The networks of the paper: channel groups and parameters, derived by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import conet_fx
from conet_fx import models
from conet_fx.models import DARTS, Genotype, genotypes

IMAGES = torch.zeros(2, 3, 32, 32)

# (independent, tied): free groups, the classifier's output not counted.
GROUPS = {
    # stem + block 1 of stage 1 share the sum of the stage: 4 sums, and one inner width for each of 16 blocks
    "resnet34_cifar": (20, 20),
    # 13 convolutions in a row
    "vgg16_bn_cifar": (13, 13),
    # ResNet-18 has 4 sums + 8 inner widths = 12; each of 8 squeeze-excites adds its hidden width
    "senet18_cifar": (20, 20),
    # each of 17 blocks has an expanded width; the outputs of each of 7 stages are one sum, also where the first block
    # strides and has no shortcut, since the next one adds to it; stem and head: 17 + 7 + 2
    "mobilenet_v2_cifar": (26, 26),
    # each of 16 blocks has an inner width; the shuffled halves of each of 3 stages are cut in two again, so that all
    # are as large; stem and head: 16 + 3 + 2
    "shufflenet_v2_cifar": (21, 21),
    # DARTS_V2. Normal cell: node 4 is sep_conv(1) + input 0, node 5 is input 0 + dil_conv(node 2), so both are tied to
    # preprocess0; nodes 2 and 3 are sums of their own; preprocess1; 5 inner widths of the 5 separable convolutions:
    # 1 + 2 + 1 + 5 = 9. Reduction cell: pools and identities alone, so all nodes and both inputs are 1.
    # DARTS-7: stem + 5 normal cells * 9 + 2 reduction cells = 48. Two cells follow a reduction, where preprocess0 is a
    # concatenation of two halves, one group more each when they are independent: 50.
    "darts7": (50, 48),
    # stem + 12 normal cells * 9 + 2 reduction cells = 111, and 2 halves
    "darts14": (113, 111),
    # DARTS_PLUS_CIFAR100. Normal cell: 6 separable convolutions have 6 inner widths; node 2 = input 0 + sep(1) and node
    # 3 = input 0 + sep(2) are preprocess0; nodes 4 and 5 are sums of their own; preprocess1: 6 + 1 + 2 + 1 = 10.
    # Reduction cell: everything meets the pooled preprocess0 or is it, except preprocess1, which a factorized reduction
    # reads: 2. Tied: 1 + 5 * 10 + 2 * 2 = 55; four factorized reductions (2 in cells behind a reduction, 2 in the
    # reduction cells) have halves: 59.
    "darts_plus7": (59, 55),
}


@pytest.mark.parametrize("arch", list(GROUPS))
def test_free_groups(arch: str) -> None:
    model = models.build(arch, 10).eval()
    plans = [conet_fx.analyze(model, IMAGES, tie_concat=tie) for tie in (False, True)]
    assert tuple(len(plan.free) for plan in plans) == GROUPS[arch]


@pytest.mark.parametrize(("arch", "params"), [("darts7", 126_922), ("darts14", 291_114), ("darts_plus7", 148_650)])
def test_parameters_with_every_channel_at_32(arch: str, params: int) -> None:
    plan = conet_fx.analyze(models.build(arch, 10).eval(), IMAGES, tie_concat=True)
    # a group that a factorized reduction begins is as large as one half
    sizes = {group.name: 16 if group.name.endswith("conv1") else 32 for group in plan.free}
    assert plan.cost(sizes).params == params
    assert sum(parameter.numel() for parameter in plan.resize(sizes).parameters()) == params


@pytest.mark.parametrize(
    ("arch", "params"),
    [
        ("vgg16_bn_cifar", 14_724_042),
        ("senet18_cifar", 11_260_354),
        ("mobilenet_v2_cifar", 2_296_922),
        ("shufflenet_v2_cifar", 1_263_854),
        ("darts7", 222_650),
        ("darts20", 3_349_342),
    ],
)
def test_published_parameters(arch: str, params: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in models.build(arch, 10).parameters()) == params


@pytest.mark.parametrize(
    "arch", ["vgg16_bn_cifar", "senet18_cifar", "mobilenet_v2_cifar", "shufflenet_v2_cifar", "darts7", "darts_plus7"]
)
def test_runs_at_other_sizes(arch: str) -> None:
    plan = conet_fx.analyze(models.build(arch, 7, 1), torch.zeros(2, 1, 32, 32))
    sizes = {group.name: group.nearest(4 + 3 * (number % 4), 1) for number, group in enumerate(plan.free)}
    network = plan.resize(sizes).train()
    network(torch.randn(2, 1, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert sum(parameter.numel() for parameter in network.parameters()) == plan.cost(sizes).params


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_auxiliary_head_and_drop_path(stem: str) -> None:
    model = DARTS(genotypes.DARTS_V2, 3, 5, width=4, stem=stem, auxiliary=True, drop_path=0.5)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32 if stem == "cifar" else 224, 32 if stem == "cifar" else 224)
    scores, auxiliary = model(images)
    assert scores.shape == auxiliary.shape == (2, 5)
    assert not torch.equal(model(images)[0], scores), "other paths are dropped"
    models.set_drop_path(model, 0.0)
    paths = [module.p for module in model.modules() if hasattr(module, "p") and hasattr(module, "mode")]
    assert paths
    assert set(paths) == {0.0}
    model.eval()
    assert torch.equal(model(images), model(images))
    with pytest.raises(ValueError, match="no path"):
        models.set_drop_path(nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "DARTS_PLUS_CIFAR100"])
def test_genotypes_are_networks(name: str) -> None:
    genotype = getattr(genotypes, name)
    assert isinstance(genotype, Genotype)
    assert DARTS(genotype, 3, 5, width=4).eval()(IMAGES).shape == (2, 5)


def test_a_search_starts_from_32_channels() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))]
    model = DARTS(genotypes.DARTS_V2, 3, 4, width=4)
    result = conet_fx.optimize(model, batches, trials=1, epochs_per_trial=2, progress=False)
    assert set(result.history[0].sizes.values()) == {32}
    assert result.model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
