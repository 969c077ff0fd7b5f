"""Other tools on the networks of :mod:`benchmarks.zoo`, each by the recipe of its own authors.

    python -m benchmarks.peers torchvision/resnet18

Torch-Pruning: its dependency graph is built and all its groups are listed (timed); then its magnitude pruner halves all
channels, after which the network must run forward and backward. The layers that its own script for torchvision leaves
out (heads of detectors, parts of RAFT) are left out here too, and so is what writes the classes.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks import zoo
from benchmarks.processes import show_row
from tests.passes import battery

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# parts of names, and the modules that Torch-Pruning's script for torchvision leaves out there
LEFT_OUT = {
    "ssd": "head",
    "raft": "corr_block update_block mask_predictor",
    "fasterrcnn": "rpn.head.cls_logits rpn.head.bbox_pred backbone.fpn roi_heads",
    "fcos": "head.classification_head.cls_logits head.regression_head.bbox_reg head.regression_head.bbox_ctrness",
    "keypointrcnn": "rpn.head.cls_logits rpn.head.bbox_pred backbone.fpn.layer_blocks roi_heads.box_head "
    "roi_heads.box_predictor roi_heads.keypoint_predictor",
    "maskrcnn": "rpn.head.cls_logits rpn.head.bbox_pred roi_heads.box_predictor roi_heads.mask_predictor",
    "retinanet": "head.classification_head.cls_logits head.regression_head.bbox_reg",
}


def torch_pruning(entry: str, report: Callable[[dict[str, Any]], None]) -> None:
    """Groups, convolutions reached and halved, seconds of CPU, and a verdict: "ok" or the error."""
    import torch_pruning as tp

    model = zoo.build(entry)
    network = model.module
    row: dict[str, Any] = {"verdict": "its dependency graph fails"}
    try:
        start = time.process_time()
        graph = tp.DependencyGraph().build_dependency(network, model.inputs)
        groups = list(graph.get_all_groups(root_module_types=[*CONVS, nn.Linear]))
        row["seconds"] = time.process_time() - start
        row["groups"] = len(groups)
        touched = {id(item.dep.target.module) for group in groups for item in group}
        row["reached"] = sum(id(m) in touched for m in network.modules() if isinstance(m, CONVS))
        report(row)
        before = {m: m.out_channels for m in network.modules() if isinstance(m, CONVS)}
        shapes = [t.shape for t in battery.outputs(network, model.inputs, network.training)]
        row["verdict"] = "its pruner fails"
        tp.pruner.MagnitudePruner(
            network,
            model.inputs,
            importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            round_to=heads(network),
            ignored_layers=list(left_out(entry, network)),
        ).step()
        for part in network.modules():
            if hasattr(part, "hidden_dim") and hasattr(part, "conv_proj"):
                part.hidden_dim = part.conv_proj.out_channels  # as its script does for vision transformers
        row["halved"] = sum(m.out_channels < channels for m, channels in before.items())
        row["verdict"] = "the pruned network does not run"
        outputs = battery.outputs(network, model.inputs, network.training)
        if [t.shape for t in outputs] != shapes:
            row["verdict"] = "the pruned network has other outputs"
        elif battery.gradients(network, model.inputs, network.training):
            row["verdict"] = "ok" if row["halved"] else "nothing was pruned"
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        row["verdict"] += f" ({text[:200]})"
    report(row)


def heads(network: nn.Module) -> int | None:
    """For torchvision's vision transformers: the number of heads, of which its script takes multiples."""
    from torchvision.models import VisionTransformer

    if not isinstance(network, VisionTransformer):
        return None
    return next(m.num_heads for m in network.modules() if isinstance(m, nn.MultiheadAttention))


def left_out(entry: str, network: nn.Module) -> Iterator[nn.Module]:
    """What must not be pruned: the layers that write the classes, and the parts of :data:`LEFT_OUT`."""
    for module in network.modules():
        width = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
        if isinstance(module, (nn.Linear, *CONVS)) and width == zoo.CLASSES:
            yield module
    for part, paths in LEFT_OUT.items():
        if part in entry:
            for path in paths.split():
                owner: Any = network
                for name in path.split("."):
                    owner = getattr(owner, name, None)
                if owner is not None:
                    yield owner


def main(entry: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch_pruning(entry, show_row)


if __name__ == "__main__":
    main(sys.argv[1])
