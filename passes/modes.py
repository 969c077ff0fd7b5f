"""Both modes of a model in one graph, where train and eval mode differ in nothing but the training flag."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from conet_fx.errors import TraceError
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.nodes import leaves
from conet_fx.passes.record import Recorder, shapes_of
from conet_fx.passes.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A graph, the plain tensors in it by path, whether train and eval mode take different paths, and what of the model
    no graph can hold.
    """

    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]
    mode_dependent: bool
    dropped: tuple[str, ...]


def recorded(
    model: nn.Module, call: Arguments, is_leaf: Callable[[Any], bool], on: Collection[str] = ("meta", "fake")
) -> Recorded:
    """The graph of ``model`` in its present mode, which holds for the other mode too where that is possible.

    ``on``: the kinds of tensors, see :class:`~conet_fx.passes.shapes.Shapes`.

    Raises :class:`~conet_fx.errors.TraceError` for a model that cannot be traced.
    """
    shapes = shapes_of(model, call, on)
    graph, recorder = _best(model, call, is_leaf, shapes)
    joined = True
    if recorder.reads_mode:
        try:
            twin, _ = _best(model, call, is_leaf, shapes, flip_mode=True)
        except TraceError:  # does not run in this mode on such inputs
            joined = False
        else:
            joined = join_modes(graph, twin, model.training)
    return Recorded(graph, recorder.constants, not joined, tuple(dict.fromkeys(recorder.dropped)))


def _best(
    model: nn.Module, call: Arguments, is_leaf: Callable[[Any], bool], shapes: Shapes, flip_mode: bool = False
) -> tuple[fx.Graph, Recorder]:
    """The graph that leaves the fewest modules opaque: one that looks into functions of ``torch.fx.wrap``, unless that
    is what fails.
    """
    recorder = Recorder(model, call, is_leaf, flip_mode, shapes=shapes)
    try:
        graph = recorder.record()
    except TraceError:
        if not recorder.wrapped:
            raise
        other = Recorder(model, call, is_leaf, flip_mode, look_into_wrapped=False, shapes=shapes)
        return other.record(), other
    if recorder.opaque and recorder.wrapped:
        other = Recorder(model, call, is_leaf, flip_mode, look_into_wrapped=False, shapes=shapes)
        with contextlib.suppress(TraceError):
            second = other.record()
            if len(other.opaque) < len(recorder.opaque):
                return second, other
    return graph, recorder


class _Differs(Exception):
    """Train and eval mode differ in more than the training flag."""


_FLAG = object()


def join_modes(graph: fx.Graph, twin: fx.Graph, training: bool) -> bool:
    """Let ``graph`` read ``GraphModule.training`` where the two modes differ in that flag only.

    ``F.dropout(x, training=self.training)`` leaves a constant in each graph; it is replaced by the module's own flag.
    Returns False, and changes nothing, where the modes differ in more than that.
    """
    twins: dict[fx.Node, fx.Node] = {}
    flagged: list[tuple[fx.Node, Any]] = []

    def join(ours: Any, theirs: Any) -> Any:
        if isinstance(ours, fx.Node):
            if twins.get(ours) is not theirs:
                raise _Differs
            return ours
        if type(ours) is not type(theirs):
            raise _Differs
        if isinstance(ours, (tuple, list)):
            if len(ours) != len(theirs):
                raise _Differs
            items = [join(a, b) for a, b in zip(ours, theirs, strict=True)]
            return type(ours)(items) if type(ours) in (tuple, list) else ours
        if isinstance(ours, dict):
            if ours.keys() != theirs.keys():
                raise _Differs
            return {key: join(value, theirs[key]) for key, value in ours.items()}
        if isinstance(ours, bool) and ours != theirs:
            if ours != training:
                raise _Differs
            return _FLAG
        if isinstance(ours, slice):
            return slice(*join((ours.start, ours.stop, ours.step), (theirs.start, theirs.stop, theirs.step)))
        if ours != theirs:
            raise _Differs
        return ours

    if len(graph.nodes) != len(twin.nodes):
        return False
    for ours, theirs in zip(graph.nodes, twin.nodes, strict=True):
        if (ours.op, ours.target) != (theirs.op, theirs.target):
            return False
        twins[ours] = theirs
        try:
            joined = join((ours.args, dict(ours.kwargs)), (theirs.args, dict(theirs.kwargs)))
        except _Differs:
            return False
        if any(a is _FLAG for a in leaves(joined)):
            flagged.append((ours, joined))
    if flagged:
        with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
            flag = graph.create_node("get_attr", "training")
        flag.meta.update(val=training, source="", scope="")
        for node, joined in flagged:
            node.args, node.kwargs = map_aggregate(joined, lambda a: flag if a is _FLAG else a)
    return True
