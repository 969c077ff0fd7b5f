"""Torch-Pruning as a rival: a trained wide network cut down to as many parameters, which is then trained further."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

PRUNERS = ("pruned by magnitude", "pruned by group norm")


def prune(network: nn.Module, inputs: Tensor, pruner: str, params: int, round_to: int = 2) -> nn.Module:
    """A copy of ``network``, cut by Torch-Pruning to about ``params`` parameters: its ratio is bisected.

    By magnitude: the L1 norm of what writes each channel. By group norm: the L2 norm of all weights of a channel,
    through all layers that depend on it (DepGraph, CVPR 2023), without its sparse training. Both rank the channels of
    all layers together and leave a layer a tenth of its channels, or what an even cut to ``params`` would leave
    it where that is less; what writes the classes stays whole.

    Args:
        inputs: an example, [N, C, H, W], on the CPU as the network is.

    Raises:
        SystemExit: Torch-Pruning is not installed.
        ValueError: the network does not have more parameters, or cannot be cut to within a fifth of ``params``.
    """
    own = parameters(network)
    if params >= own:
        raise ValueError(f"the wide network has {own:,} parameters: it cannot be pruned to {params:,}")
    low, high, best = 0.0, 1.0, network
    most = max(0.9, 1 - math.sqrt(params / own))
    for _ in range(9):
        ratio = (low + high) / 2
        cut = _cut(copy.deepcopy(network), inputs, pruner, ratio, most, round_to)
        if abs(parameters(cut) - params) < abs(parameters(best) - params):
            best = cut
        low, high = (ratio, high) if parameters(cut) > params else (low, ratio)
    if abs(parameters(best) - params) > params / 5:
        raise ValueError(f"{pruner}: {own:,} parameters were cut to {parameters(best):,}, not to {params:,}")
    return best


def _cut(network: nn.Module, inputs: Tensor, pruner: str, ratio: float, most: float, round_to: int) -> nn.Module:
    try:
        import torch_pruning as tp
    except ModuleNotFoundError as error:
        raise SystemExit("pruned rivals need Torch-Pruning: pip install 'conet-fx[benchmarks]'") from error
    kinds: Mapping[str, tuple[Any, Any]] = {
        "pruned by magnitude": (tp.pruner.MagnitudePruner, tp.importance.MagnitudeImportance(p=1)),
        "pruned by group norm": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2)),
    }
    kind, importance = kinds[pruner]
    network.eval()
    with torch.no_grad():
        classes = network(inputs).shape[1]
    kind(
        network,
        inputs,
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=most,
        round_to=round_to,
        ignored_layers=[m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
    ).step()
    return network.train()


def parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
