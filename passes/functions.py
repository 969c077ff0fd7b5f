"""Custom ``torch.autograd.Function`` classes: called as they are, followed by what their forward computes.

The graph that is analysed holds both: the operators of the forward, and one call that keeps the user's backward. The
operators go when the graph is rewritten.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import fx

INSIDE = "inside"  # key in the meta of nodes that go
_FOLLOWS = "follows"  # keyword of a call: the nodes whose value it has


@dataclasses.dataclass(frozen=True)
class Applied:
    """The call of a function in a graph, with the name of its class."""

    function: Any

    def __post_init__(self) -> None:
        vars(self).update(
            __name__=self.function.__name__,
            __qualname__=self.function.__qualname__,
            __module__=self.function.__module__,
        )

    def __call__(self, *args: Any, follows: Any = None, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)


@functools.cache
def applied(function: type[torch.autograd.Function]) -> Applied:
    """The one call of a function: graphs that are compared have the same."""
    return Applied(function)


class _Context:
    """What a forward is given in place of its context. It may keep for the backward what it likes."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    save_for_forward = save_for_backward

    def mark_dirty(self, *tensors: Any) -> None:
        raise TypeError("it writes into its inputs")

    def mark_non_differentiable(self, *tensors: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


def run_forward(function: type[torch.autograd.Function], args: tuple[Any, ...]) -> Any:
    """The forward of a function on values of a graph, each of whose operators is recorded."""
    if function.setup_context is not torch.autograd.Function.setup_context:
        return function.forward(*args)
    return function.forward(_Context(len(args)), *args)


def without_insides(module: fx.GraphModule) -> None:
    """Let the graph hold the calls of functions alone, and what these share with the operators that go."""
    calls = [node for node in module.graph.nodes if isinstance(node.target, Applied)]
    for node in calls:
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != _FOLLOWS}
    for node in reversed(module.graph.nodes):
        if INSIDE in node.meta and not node.users:
            module.graph.erase_node(node)
    if calls:
        module.recompile()
