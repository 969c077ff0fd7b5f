"""What the probe measures in a network: its layers, and functions of a graph that compute their weight."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from conet_fx.passes.call import Weight
from conet_fx.passes.info import KEY
from conet_fx.passes.nodes import attribute, weight_of


@dataclasses.dataclass(frozen=True)
class ProbedLayer:
    """A convolution or linear layer: its weight, which ``read`` looks up or computes, and the parameters behind it."""

    read: Callable[[], Tensor]
    transposed: bool
    parameters: tuple[nn.Parameter, ...]

    @property
    def weight(self) -> Tensor:
        """[Cout, Cin / groups, *kernel], or ``transposed`` [Cin, Cout / groups, *kernel]."""
        return self.read()


def probed_layers(model: nn.Module, *, linear: bool = False) -> dict[str, ProbedLayer]:
    """The layers that `probe` measures, by module path.

    In a network that conet-fx resized also convolutions that are functions in its graph (standardised or normalised
    weights, bare parameters), by the path of the module of their parameter. Not those whose weight depends on the
    input.
    """
    found = {
        path: _of_module(module)
        for path, module in model.named_modules()
        if (isinstance(module, _ConvNd) and not module.groups == module.in_channels > 1)
        or (linear and isinstance(module, nn.Linear))
    }
    if isinstance(model, fx.GraphModule):
        weights: dict[str, Weight] = model.meta.get(KEY, {}).get("weights", {})
        order = {node: place for place, node in enumerate(model.graph.nodes)} if weights else {}
        nodes = {node.name: node for node in order}
        for path, weight in weights.items():
            if path not in found and (linear or not weight.linear) and weight.node in nodes:
                program = sorted(_steps(nodes[weight.node]), key=order.__getitem__)
                if not any(step.op == "placeholder" for step in program):
                    found[path] = _of_program(model, program, weight.transposed)
    return found


def _of_module(module: nn.Module) -> ProbedLayer:
    transposed = isinstance(module, _ConvNd) and module.transposed
    return ProbedLayer(lambda: weight_of(module), transposed, tuple(module.parameters()))


def _steps(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    steps = {node}
    ahead = [node]
    for step in ahead:
        new = set(step.all_input_nodes) - steps
        steps |= new
        ahead += new
    return steps


def _of_program(model: fx.GraphModule, program: list[fx.Node], transposed: bool) -> ProbedLayer:
    """The layer whose weight the last of these nodes is."""
    tensors = [attribute(model, str(step.target)) for step in program if step.op == "get_attr"]
    parameters = tuple(tensor for tensor in tensors if isinstance(tensor, nn.Parameter))
    return ProbedLayer(lambda: _Weights(model).compute(program), transposed, parameters)


class _Weights(fx.Interpreter):
    """Runs the part of a graph that computes a weight. Buffers stay as they are, also those that spectral norm renews
    in train mode.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model, garbage_collect_values=False)

    def compute(self, program: list[fx.Node]) -> Tensor:
        with torch.no_grad():
            for node in program:
                self.env[node] = self.run_node(node)
        weight: Tensor = self.env[program[-1]]
        return weight

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.clone() if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = copy.copy(self.fetch_attr(target))
        module.training = False
        return module(*args, **kwargs)
