"""Pieces of a model that cannot be traced as a whole (detectors, RAFT): its largest submodules that can be.

The model runs once, for real, on a copy and the example inputs; what each submodule is given is noted. Every call that
is not inside a traced piece is tried, outer ones first. The graphs of all pieces stand side by side in one graph, each
with its own inputs and outputs: their borders are frozen, and what happens between them is none of our business.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from conet_fx.errors import TraceError
from conet_fx.passes.closures import copy_module
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.modes import Recorded, recorded
from conet_fx.passes.nodes import computed_by_hooks, tensors
from conet_fx.passes.shapes import to_meta

_MOST_WAYS = 8  # in which one submodule is called


@dataclasses.dataclass(frozen=True)
class Pieces:
    """``paths``: the submodules that were traced. ``opaque``: those with parameters that were not, and why.
    ``model``, ``call``: the whole and the example, ``returned``: what it gave, on the meta device. ``reason``: why the
    whole cannot be traced.
    """

    model: nn.Module
    call: Arguments
    returned: Any
    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]
    paths: tuple[str, ...]
    opaque: Mapping[str, str]
    reason: str
    one_mode: bool


@dataclasses.dataclass(frozen=True)
class _Seen:
    """One call of a submodule: what it was given, and the calls that it happened in."""

    path: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inside: tuple[int, ...]

    @property
    def way(self) -> tuple[Any, ...]:
        """Calls that differ in nothing but sizes are one way of calling."""
        described = map_aggregate((self.args, dict(self.kwargs)), lambda a: type(a).__name__)
        return (self.path, str(described), *[(t.ndim, t.dtype) for t in tensors((self.args, self.kwargs))])


def find(model: nn.Module, call: Arguments, is_leaf: Callable[[Any], bool], reason: str) -> Pieces | None:
    """The pieces of ``model``, or None where it does not run, or no piece could change anything inside."""
    try:
        calls, returned = _watch(model, call)
    except Exception:  # the reason why it cannot be traced says more
        return None
    graph = fx.Graph()
    outputs: list[Any] = []
    constants: dict[str, torch.Tensor] = {}
    opaque: dict[str, str] = {}
    done: dict[tuple[Any, ...], Recorded | None] = {}
    traced: set[int] = set()
    paths: list[str] = []
    for number, seen in enumerate(calls):
        module = model.get_submodule(seen.path)
        if traced.intersection(seen.inside) or next(module.parameters(), None) is None:
            continue
        if not tensors((seen.args, seen.kwargs)):
            opaque[seen.path] = "it is given no tensors"
            continue
        if seen.way not in done:
            if sum(way[0] == seen.path for way in done) >= _MOST_WAYS:
                return None
            try:
                bound = Arguments.bind(module, seen.args, seen.kwargs).tensors_only()
                done[seen.way] = found = recorded(module, bound, is_leaf)
            except (TraceError, TypeError) as error:
                done[seen.way] = None
                opaque[seen.path] = str(error)
            else:
                outputs.append(_append(graph, found, seen.path))
                constants |= {_join(seen.path, name): tensor for name, tensor in found.constants.items()}
                paths.append(seen.path)
        if done[seen.way] is not None:
            traced.add(number)
    if not any(node.op == "call_module" for node in graph.nodes):
        return None
    values = fx.node.map_arg(tuple(outputs), lambda n: n.meta["val"])
    graph.output(tuple(outputs)).meta.update(val=values, source="", scope="", border=True)
    return Pieces(
        model,
        call,
        returned,
        graph,
        constants,
        tuple(dict.fromkeys(paths)),
        {path: why for path, why in opaque.items() if path not in paths},
        reason,
        any(found.one_mode for found in done.values() if found is not None),
    )


def _watch(model: nn.Module, call: Arguments) -> tuple[list[_Seen], Any]:
    """Run a copy of the model on the example: every call of a submodule, in order, and what the model returns."""
    twin = copy_module(model, {**computed_by_hooks(model)})
    calls: list[_Seen] = []
    stack: list[int] = []

    def before(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            args, kwargs = map_aggregate((args, kwargs), to_meta)
            calls.append(_Seen(path, args, kwargs, tuple(stack)))
            stack.append(len(calls) - 1)

        return note

    def after(module: nn.Module, args: Any, result: Any) -> None:
        stack.pop()

    for path, module in twin.named_modules():
        if path:
            module.register_forward_pre_hook(before(path), with_kwargs=True)
            module.register_forward_hook(after)
    values = copy.deepcopy(dict(call.values))  # detectors write into their targets
    with torch.no_grad():
        returned = twin(*[values[name] for name in call.positional], **{name: values[name] for name in call.keywords})
    return calls, map_aggregate(returned, to_meta)


def _append(graph: fx.Graph, found: Recorded, path: str) -> Any:
    """Copy the graph of a piece behind the others; its output as nodes of ``graph``."""
    copies: dict[fx.Node, fx.Node] = {}
    for node in found.graph.nodes:
        if node.op == "output":
            return fx.node.map_arg(node.args[0], lambda n: copies[n])
        copied = copies[node] = graph.node_copy(node, lambda n: copies[n])
        if node.op in ("call_module", "get_attr") and node.target != "training":
            copied.target = _join(path, str(node.target))
        if node.op == "placeholder":
            copied.target = copied.name
        copied.meta["scope"] = _join(path, node.meta.get("scope", ""))
    raise AssertionError("a graph without an output")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
