"""Both modes of a model in one graph: the model is recorded in each of them if it asks which one it is in."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx, nn

from conet_fx.errors import TraceError
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.join import join_paths
from conet_fx.passes.record import Recorder, shapes_of
from conet_fx.passes.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A graph (:mod:`conet_fx.passes.paths`), the plain tensors in it by path, whether it is of the present mode alone,
    since the model cannot be traced as far in the other, and what of the model no graph can hold.
    """

    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]
    one_mode: bool
    dropped: tuple[str, ...]


def recorded(
    model: nn.Module, call: Arguments, is_leaf: Callable[[Any], bool], on: Collection[str] = ("meta", "fake")
) -> Recorded:
    """The graph of ``model`` in both modes, or in its present one where it cannot be traced as far in the other.

    ``on``: the kinds of tensors, see :class:`~conet_fx.passes.shapes.Shapes`.

    Raises :class:`~conet_fx.errors.TraceError` for a model that cannot be traced.
    """
    shapes = shapes_of(model, call, on)
    graph, recorder = _best(model, call, is_leaf, shapes)
    constants, dropped, one_mode = recorder.constants, recorder.dropped, False
    if recorder.reads_mode:
        try:
            twin, other = _best(model, call, is_leaf, shapes, flip_mode=True)
            one_mode = not set(other.opaque) <= set(recorder.opaque)  # what this mode looks into would be frozen
        except TraceError:  # does not run in the other mode on such inputs
            one_mode = True
        if not one_mode:
            constants = {**constants, **_with_names_of_their_own(twin, other.constants, constants)}
            dropped = [*dropped, *other.dropped]
            join_paths(graph, twin, model.training, lambda node: _has_tensors(model.get_submodule(str(node.target))))
    return Recorded(graph, constants, one_mode, tuple(dict.fromkeys(dropped)))


def _with_names_of_their_own(
    graph: fx.Graph, constants: Mapping[str, torch.Tensor], taken: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The constants of ``graph`` under other names, there too, where those are taken by other tensors."""
    named = {}
    for name, tensor in constants.items():
        new = name
        if name in taken and not _same(tensor, taken[name]):
            free = (f"{name}_{number}" for number in itertools.count(1))
            new = next(each for each in free if each not in taken and each not in constants)
            for node in graph.find_nodes(op="get_attr", target=name):
                node.target = new
        named[new] = tensor
    return named


def _has_tensors(module: nn.Module) -> bool:
    return next(itertools.chain(module.parameters(), module.buffers()), None) is not None


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b or (a.dtype, a.shape, a.device) != (b.dtype, b.shape, b.device) or a.is_meta:
        return a is b
    return torch.equal(a, b)


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
