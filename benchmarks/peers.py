"""Other tools on the networks of :mod:`benchmarks.zoo`, each by the recipe of its own authors.

    python -m benchmarks.peers torch-pruning torchvision/resnet18
    python -m benchmarks.peers modelopt torchvision/resnet18

Torch-Pruning: its dependency graph is built and all its groups are listed (timed); then its magnitude pruner halves all
channels. The layers that its own script for torchvision leaves out (heads of detectors, parts of RAFT) are left out
here too, and so is what writes the classes.

NVIDIA ModelOpt: the network is converted for FastNAS (timed) with ModelOpt's own rules, but that a layer may have half
its channels or all of them, whatever they divide by; then the smallest subnet is chosen and exported.

After that the network must run forward and backward, with outputs of the same shape.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


Row = dict[str, Any]


def torch_pruning(trial: Trial) -> nn.Module:
    """Its dependency graph with all groups, then its magnitude pruner."""
    import torch_pruning as tp

    network, inputs = trial.network, trial.inputs
    with trial.timed("its dependency graph fails"):
        graph = tp.DependencyGraph().build_dependency(network, inputs)
        groups = list(graph.get_all_groups(root_module_types=[*CONVS, nn.Linear]))
    trial.tell(groups=len(groups))
    trial.next("its pruner fails")
    tp.pruner.MagnitudePruner(
        network,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        round_to=heads(network),
        ignored_layers=list(left_out(trial.entry, network)),
    ).step()
    for part in network.modules():
        if hasattr(part, "hidden_dim") and hasattr(part, "conv_proj"):
            part.hidden_dim = part.conv_proj.out_channels  # as its script does for vision transformers
    return network


def modelopt(trial: Trial) -> nn.Module:
    """Its search space for FastNAS, of which the smallest subnet is exported."""
    from modelopt.torch import nas
    from modelopt.torch.nas.search_space import SearchSpace
    from modelopt.torch.prune.fastnas import FastNASConfig

    rules = FastNASConfig().model_dump()
    for layers in rules.values():
        for rule in (layers or {}).values():
            rule |= {key: (0.5, 1.0) for key in rule if key.endswith("_ratio")}
            rule |= {key: 1 for key in rule if key.endswith("_divisor")}
    with trial.timed("its conversion fails"):
        space = nas.convert(trial.network, mode=[("fastnas", rules)])
    trial.tell(groups=len({id(width) for _, width in SearchSpace(space).named_hparams(configurable=True)}))
    trial.next("its export fails")
    nas.sample(space, min)
    return nas.export(space)


@dataclass
class Tool:
    """A peer: its name, the package that it is imported as, and what it does to a network."""

    name: str
    package: str
    run: Callable[[Trial], nn.Module]


TOOLS = {
    "torch-pruning": Tool("Torch-Pruning", "torch_pruning", torch_pruning),
    "modelopt": Tool("ModelOpt", "modelopt", modelopt),
}


class Trial:
    """One network in the hands of one tool: what is known of it so far is told after each step."""

    def __init__(self, entry: str, report: Callable[[Row], None]) -> None:
        model = zoo.build(entry)
        self.entry, self.network, self.inputs = entry, model.module, model.inputs
        self.row: Row = {}
        self._report = report

    def tell(self, **figures: Any) -> None:
        self.row |= figures
        self._report(self.row)

    def next(self, failure: str) -> None:
        """Begin the next step: the verdict if it is the last one."""
        self.row["verdict"] = failure

    @contextmanager
    def timed(self, failure: str) -> Iterator[None]:
        """The step whose CPU seconds are told."""
        self.next(failure)
        start = time.process_time()
        yield
        self.tell(seconds=time.process_time() - start)


def judge(tool: Tool, entry: str, report: Callable[[Row], None]) -> None:
    """Groups, convolutions that have fewer outputs, seconds of CPU, and a verdict: "ok" or the error."""
    trial = Trial(entry, report)
    training = trial.network.training
    before = {name: m.out_channels for name, m in trial.network.named_modules() if isinstance(m, CONVS)}
    shapes = [t.shape for t in battery.outputs(trial.network, trial.inputs, training)]
    try:
        small = tool.run(trial)
        after = {name: m.out_channels for name, m in small.named_modules() if isinstance(m, CONVS)}
        trial.tell(halved=sum(after[name] < channels for name, channels in before.items() if name in after))
        trial.next("the pruned network does not run")
        outputs = battery.outputs(small, trial.inputs, training)
        if [t.shape for t in outputs] != shapes:
            trial.next("the pruned network has other outputs")
        elif battery.gradients(small, trial.inputs, training):
            trial.next("ok" if trial.row["halved"] else "nothing was pruned")
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        trial.row["verdict"] += f" ({text[:200]})"
    trial.tell()


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


def main(tool: str, entry: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    judge(TOOLS[tool], entry, show_row)


if __name__ == "__main__":
    main(*sys.argv[1:])
