"""What is searched: a model as a plan, checked against its data before any training."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from conet_fx.errors import SearchError
from conet_fx.passes.paths import by_mode
from conet_fx.plan import ChannelPlan, Cost, analyze
from conet_fx.probe import probed_layers
from conet_fx.search.batches import check_targets, first_batch, samples
from conet_fx.search.config import SearchConfig
from conet_fx.search.hooks import Hooks

SAMPLES = 2  # traced together: batch norm in train mode needs more than one


@dataclasses.dataclass(frozen=True)
class Task:
    """The plan of the model, the inputs that it was traced on, the two settings of the analysis, and the paths of the
    layers that the probe measures.
    """

    plan: ChannelPlan
    example_inputs: Any
    options: Mapping[str, bool]
    measured: frozenset[str]

    @classmethod
    def of(
        cls, model: nn.Module, loader: Iterable[Any], config: SearchConfig, hooks: Hooks, example_inputs: Any = None
    ) -> Task:
        """Trace ``model`` on the first batch of ``loader``, or on ``example_inputs``.

        Raises SearchError where a search cannot begin, TypeError or ValueError for arguments that do not fit together.
        """
        target = None
        if hooks.train_epoch is None or example_inputs is None:
            inputs, target = first_batch(loader)
            example_inputs = samples(inputs, SAMPLES) if example_inputs is None else example_inputs
        _check_trainable(model)
        options = {"tie_concat": config.tie_concat, "resize_linear": config.resize_linear}
        plan = analyze(model, example_inputs, **options)
        if plan.trace.one_mode and not plan.trace.pieces:
            modes = ("train", "eval") if plan.trace.graph_module.training else ("eval", "train")
            warnings.warn(
                f"{type(model).__name__} takes another path in {modes[1]} mode, which cannot be traced: candidates "
                f"take that of {modes[0]} mode in both. model.{modes[1]}() before takes the other, if it can be traced",
                stacklevel=3,
            )
        if not plan.free:
            raise SearchError(f"there is nothing to resize: {plan.explain()}")
        whole = plan.trace.pieces.model if plan.trace.pieces else plan.trace.graph_module
        measured = frozenset(probed_layers(whole, linear=config.resize_linear))
        if not any(path in measured for group in plan.free for path in (*group.writers, *group.whole_readers)):
            raise SearchError(f"the probe measures no layer of any group that may change: {plan.explain()}")
        if hooks.loss_fn is None and hooks.train_epoch is None:
            check_targets(_output(plan), target)
        return cls(plan, example_inputs, options, measured)

    def analyze(self, candidate: nn.Module) -> ChannelPlan:
        """The plan of a candidate."""
        return analyze(candidate, self.example_inputs, **self.options)

    def fits(self, sizes: Mapping[str, int], config: SearchConfig) -> bool:
        """Whether a candidate of these sizes is within ``max_params`` and ``max_macs``."""
        if config.max_params is None and config.max_macs is None:
            return True
        cost = cost_per_sample(self.plan, sizes)
        return (config.max_params is None or cost.params <= config.max_params) and (
            config.max_macs is None or cost.macs <= config.max_macs
        )

    def check_budget(self, sizes: Mapping[str, int], config: SearchConfig) -> None:
        """Raise SearchError where the first candidate is above the budget already."""
        if not self.fits(sizes, config):
            cost = cost_per_sample(self.plan, sizes)
            raise SearchError(
                f"the first candidate has {cost.params:,} parameters and {cost.macs:,} multiply-adds, above "
                f"max_params={config.max_params} or max_macs={config.max_macs}: begin with smaller initial_channels"
            )


def _check_trainable(model: nn.Module) -> None:
    """Raise SearchError for a model of which no candidate could be trained."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    if any(parameter.is_meta for parameter in parameters):
        raise SearchError(
            f"{type(model).__name__} lies on the meta device, which holds no numbers: build it on the CPU"
        )
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise SearchError(
            f"no parameter of {type(model).__name__} requires a gradient, and a search trains candidates from fresh "
            "weights: call model.requires_grad_(True) before"
        )


def cost_per_sample(plan: ChannelPlan, sizes: Mapping[str, int]) -> Cost:
    """Parameters, and multiply-adds for one sample: the plan's inputs hold as many as their first dim says."""
    cost = plan.cost(sizes)
    inputs = (node.meta["val"] for node in plan.trace.graph_module.graph.nodes if node.op == "placeholder")
    batch = next((value.shape[0] for value in inputs if isinstance(value, torch.Tensor) and value.ndim), 1)
    return Cost(cost.params, cost.macs // max(int(batch), 1))


def _output(plan: ChannelPlan) -> Any:
    """The value that the traced network returns where it is trained, on the meta device."""
    if plan.trace.pieces:
        return plan.trace.pieces.returned
    returned = plan.trace.graph_module.graph.output_node().args[0]
    if isinstance(returned, fx.Node) and returned.target is by_mode:
        _, returned, _ = returned.args
    return map_aggregate(returned, lambda a: a.meta["val"] if isinstance(a, fx.Node) else a)
