"""nn.Module + example inputs -> fx.GraphModule with the shape of every value on its node.

Nothing is computed, and the caller's module, its mode and the random state stay as they were
(:mod:`conet_fx.passes.record`). A model that torch.fx cannot follow as a whole is traced in pieces
(:mod:`conet_fx.passes.islands`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo import OptimizedModule

from conet_fx.errors import TraceError
from conet_fx.passes import islands
from conet_fx.passes.inputs import Arguments, Inputs
from conet_fx.passes.modes import Recorded, recorded
from conet_fx.passes.nodes import attribute
from conet_fx.passes.shapes import undisturbed
from conet_fx.passes.two_paths import graph_module_of


@dataclasses.dataclass(frozen=True)
class Trace:
    """A traced model.

    ``graph_module`` shares parameters and submodules with the caller's model. Every node has ``meta["val"]``: a meta
    tensor (or a nest of them, or a plain Python value), ``meta["source"]``: "file:line" of the user's code, and what
    torch.fx keeps (``stack_trace``, ``nn_module_stack``). Where train and eval mode take different paths, the graph has
    both (:mod:`conet_fx.passes.paths`). ``one_mode``: it has that of the mode that the model was in, since the model
    cannot be traced as far in the other.

    A model that cannot be traced as a whole has ``pieces``; ``graph_module`` then holds their graphs side by side,
    with their own inputs and outputs, and is no stand-in for the model. ``dropped`` tells what of the model no graph
    can hold (autocast inside forward); nothing where it has pieces, since its own code runs. ``model`` is the caller's,
    where the graph was traced from one, and ``call`` is the example, its tensors on the meta device.
    """

    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    one_mode: bool
    pieces: islands.Pieces | None = None
    dropped: tuple[str, ...] = ()
    model: nn.Module | None = dataclasses.field(default=None, repr=False)
    call: Arguments | None = dataclasses.field(default=None, repr=False)

    @property
    def whole(self) -> nn.Module:
        """What is resized: the graph, or the caller's model where that is traced in pieces."""
        return self.pieces.model if self.pieces else self.graph_module


def trace(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    is_leaf: Callable[[Any], bool] = lambda target: False,
    in_pieces: bool = True,
) -> Trace:
    """Trace ``model`` on ``example_inputs`` (a tensor, a tuple of positional or a mapping of keyword inputs).

    The graph is called as the model is. An argument without a tensor is fixed at what the example gives: it is the
    default there, and another value fails an assertion (an object that no code can hold is no argument of the graph).
    Arguments that the example leaves out keep their defaults; those before a tensor that it gives are checked likewise.
    ``is_leaf`` says of a function or a class of modules that a graph is to hold it as one call. So it holds modules
    that look at data, unless half of the parameters are in such. Then, and where the model itself looks at data, the
    largest submodules that can be traced are traced (``in_pieces=False``: never); for that it runs once on the example.

    Raises ``TypeError`` for a model that is not an ``nn.Module`` or inputs without a tensor, :class:`TraceError` where
    the control flow depends on tensor data or an operator fails, with the line of the user's code.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"{path!r}, a TorchScript module," if path else "A TorchScript module"
            raise TraceError(f"{what} has no Python to trace: take the nn.Module that it was made from")
    if isinstance(model, OptimizedModule):
        model = model._orig_mod
    call = Arguments.of_example(model, example_inputs)
    with undisturbed():
        try:
            found = recorded(model, call, is_leaf)
        except TraceError as error:
            calls = _with_calls_of_what_needs_data(model, call, is_leaf)
            few = calls is not None and _share_of_untraced(model, calls.graph) < 0.5
            pieces = islands.find(model, call, is_leaf, str(error)) if in_pieces and not few else None
            if pieces is not None:
                graph_module = _with_parts(model, pieces.graph, pieces.constants)
                inputs = tuple(str(node.target) for node in pieces.graph.nodes if node.op == "placeholder")
                return Trace(graph_module, inputs, pieces.one_mode, pieces, model=model)
            if calls is None:
                raise
            found = calls
    graph_module = _with_parts(model, found.graph, found.constants)
    return Trace(graph_module, call.inputs, found.one_mode, dropped=found.dropped, model=model, call=call.on_meta())


def _with_calls_of_what_needs_data(
    model: nn.Module, call: Arguments, is_leaf: Callable[[Any], bool]
) -> Recorded | None:
    """The graph in which modules that look at data are one call each, or None where the model itself does."""
    try:
        return recorded(model, call, is_leaf, ("meta", "fake", "ones"))
    except TraceError:
        return None


def _share_of_untraced(model: nn.Module, graph: fx.Graph) -> float:
    """The share of the parameters that lie in modules that were not traced."""
    paths = {str(node.target) for node in graph.nodes if "untraced" in node.meta}
    inside = {p: p.numel() for path in paths for p in model.get_submodule(path).parameters()}
    return sum(inside.values()) / max(1, sum(p.numel() for p in model.parameters()))


def _with_parts(model: nn.Module, graph: fx.Graph, constants: Mapping[str, Any]) -> fx.GraphModule:
    """The graph with the parts of ``model`` that it uses."""
    parts = {
        node.target: constants[node.target] if node.target in constants else attribute(model, node.target)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    for path in parts:
        if hasattr(fx.GraphModule, str(path).partition(".")[0]):
            raise TraceError(f"{path!r} cannot be in a torch.fx.GraphModule, which has such an attribute: rename it")
    return graph_module_of(parts, graph, model, late=True)
