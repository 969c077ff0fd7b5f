"""ChannelPlan: which channel sizes of a model may change, which must change together, and what a change costs.

plan = analyze(model, example_inputs)
print(plan.explain())
smaller = plan.resize({"layer1.0.conv1": 24}, init="inherit")
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import numbers
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import networkx
import torch
from torch import fx, nn

from conet_fx.draw import draw, to_dot
from conet_fx.errors import TraceError
from conet_fx.explain import explain
from conet_fx.passes import ops
from conet_fx.passes.call import Facts, Options
from conet_fx.passes.constraints import label
from conet_fx.passes.depth import Dim
from conet_fx.passes.groups import ChannelGroup, channel_groups, find, scales
from conet_fx.passes.info import KEY, annotate, record
from conet_fx.passes.inputs import Inputs
from conet_fx.passes.nodes import attribute
from conet_fx.passes.paths import mode_of
from conet_fx.passes.propagation import propagate
from conet_fx.passes.rewrite import rewrite
from conet_fx.passes.trace import Trace, trace

__all__ = ["ChannelGroup", "ChannelPlan", "Cost", "analyze"]

_MOST = 2**40  # channels that any group can have: numbers stay exact in floats


@dataclasses.dataclass(frozen=True)
class Cost:
    """``params``: trainable and frozen parameters. ``macs``: multiply-adds of convolutions, linear layers and matrix
    products in one forward pass of the example inputs, in the mode that the model was in (one multiply-add is one MAC,
    and two FLOPs). For a model that is traced in pieces: the multiply-adds of one call of each piece.
    """

    params: int
    macs: int


def analyze(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    tie_concat: bool = False,
    strict: bool = False,
    resize_linear: bool = False,
) -> ChannelPlan:
    """Trace ``model`` and find its channel groups. The model, its mode and the random state stay as they are.

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword inputs; of tensors only shapes and types
    matter. Arguments without a tensor (``return_dict=False``) are fixed: a resized network is called as the model is,
    and refuses other values of them. ``tie_concat``: the parts of a concatenation that meets one depth keep their
    proportion. ``strict``: raise at an operator that is not in the table instead of freezing what it touches.
    ``resize_linear``: what only linear layers write may change too.

    Raises ``TypeError`` or ``ValueError`` for bad arguments, :class:`~conet_fx.errors.TraceError` for a model that
    cannot be traced, :class:`~conet_fx.errors.ConstraintError` with ``strict``.
    """
    with _collector_paused():
        traced = trace(model, example_inputs, is_leaf=ops.knows, in_pieces=not strict)
        options = Options(tie_concat=tie_concat, strict=strict, resize_linear=resize_linear)
        facts = propagate(traced, options)
        annotate(traced.graph_module, facts, facts.depths.size)
        record(traced.graph_module, facts, options)
    plan = ChannelPlan(traced, facts)
    if traced.pieces and not plan.free:
        raise TraceError(traced.pieces.reason)
    return plan


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No search for cycles meanwhile: a graph is many objects that stay, and looking through them takes time that grows
    faster than the graph.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _is_size(size: object) -> bool:
    return not isinstance(size, bool) and isinstance(size, numbers.Real) and 0 < float(size) < _MOST


class ChannelPlan:
    """Trace, labelled graph and channel groups of one model. Immutable; :meth:`resize` makes new modules."""

    def __init__(self, traced: Trace, facts: Facts) -> None:
        self.trace = traced
        self.facts = facts
        self._groups = channel_groups(facts)
        self.groups: tuple[ChannelGroup, ...] = tuple(self._groups.values())

    def __repr__(self) -> str:
        name = type(self.trace.graph_module).__name__
        return f"ChannelPlan({name}: {len(self.groups)} groups, {len(self.free)} free)"

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def free(self) -> tuple[ChannelGroup, ...]:
        """The groups that may change."""
        return tuple(group for group in self.groups if group.frozen is None)

    @property
    def sizes(self) -> dict[str, int]:
        """Present size of each group, frozen ones included."""
        return {group.name: group.size for group in self.groups}

    @functools.cached_property
    def graph(self) -> networkx.MultiDiGraph[str]:
        """The labelled DAG (:func:`conet_fx.passes.constraints.label`)."""
        return label(self.trace, self.facts.entries)

    def group(self, name: str) -> ChannelGroup:
        """The group called ``name``. Raises :class:`ResizeError` for an unknown name."""
        return find(self.groups, name)

    def cost(self, sizes: Mapping[str, int] | None = None) -> Cost:
        """Parameters and MACs at ``sizes`` (groups left out keep their size), exact, without building anything."""
        factors = scales(self._groups, sizes or {})
        mode = mode_of(self.trace.graph_module.training)

        def volume(terms: tuple[Dim, ...]) -> int:
            out = 1
            for dim in terms:
                out *= self.facts.depths.size(dim, factors)
            return out

        return Cost(
            params=sum(volume(dims) for dims in self._parameter_shapes),
            macs=sum(
                term.factor * volume(term.dims)
                for term in self.facts.macs
                if term.only_in in (None, mode) and (not term.summed or volume(term.summed) > 1)
            ),
        )

    # --- changing -------------------------------------------------------------------------------------------

    def resize(
        self,
        sizes: Mapping[str, int],
        *,
        init: Literal["reset", "inherit"] = "reset",
        init_fn: Callable[[nn.Module], Any] | None = None,
    ) -> fx.GraphModule:
        """A new GraphModule with the given channels for each named group; groups left out keep their size.

        ``init="reset"``: fresh weights by each module's own ``reset_parameters``, then ``init_fn`` on each module (for
        initialisations that a model does in its constructor). ``init="inherit"``: the weights of channels that stay,
        those of largest norm when a group shrinks; new channels enter with zero reader weights and keep the function.
        ``meta["conet_fx"]["sizes"]`` of the result holds the size of every group.

        A model that can be traced in pieces only (``plan.trace.pieces``) gives a copy of the caller's module instead of
        a GraphModule, with the submodules in ``plan.trace.pieces.paths`` resized inside.

        Raises :class:`ResizeError` for an unknown group, a frozen one, a size below its minimum or not a multiple of
        its quantum; ``ValueError`` for an unknown ``init``.
        """
        if init not in ("reset", "inherit"):
            raise ValueError(f"init must be 'reset' or 'inherit', not {init!r}")
        resized = cast(fx.GraphModule, rewrite(self.trace, self.facts, scales(self._groups, sizes), init, init_fn))
        known = getattr(resized, "meta", {})
        resized.meta = {**known, KEY: {**known.get(KEY, {}), "sizes": {**self.sizes, **sizes}}}
        return resized

    def rounded(self, sizes: Mapping[str, float], round_to: int = 8) -> dict[str, int]:
        """``sizes`` as the hardware likes them: each at the nearest multiple of ``round_to`` that its group allows.

        That is a multiple of ``lcm(round_to, quantum)`` (a tie: of the even number of multiples), never below the
        group's minimum and never 0. Frozen groups keep their present size, whatever is asked for, and groups that are
        left out stay out: ``plan.rounded(plan.sizes)`` rounds all.

        Raises :class:`ResizeError` for an unknown group, ``ValueError`` for a ``round_to`` or a size that is not a
        positive number.
        """
        if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
            raise ValueError(
                f"round_to={round_to!r}: write an integer >= 1; 8 is what tensor cores want in half precision"
            )
        found: dict[str, int] = {}
        for name, size in sizes.items():
            group = self.group(name)
            if not _is_size(size):
                raise ValueError(f"the size of {name!r} must be a positive number of channels, not {size!r}")
            found[name] = group.nearest(float(size), round_to) if group.frozen is None else group.size
        return found

    # --- telling --------------------------------------------------------------------------------------------

    def explain(self) -> str:
        """A table in plain text: what may change, what may not and why, where the function cannot be kept exactly."""
        return explain(self)

    def to_dot(self) -> str:
        """The labelled graph for Graphviz, in the colours of the channel groups (:func:`conet_fx.draw.to_dot`)."""
        return to_dot(self)

    def draw(self, path: str | Path) -> None:
        """Write the labelled graph to a .dot, .svg, .png or .pdf file; all but .dot need Graphviz.

        Raises ``ValueError`` for another suffix, :class:`~conet_fx.errors.ConetError` where Graphviz is not installed.
        """
        draw(self, path)

    # --- inside ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _parameter_shapes(self) -> list[tuple[Dim, ...]]:
        """The dims of every parameter, shared ones once."""
        module = self.trace.graph_module
        counted = self.trace.whole  # with the parameters that lie between the pieces
        layouts: dict[int, tuple[Dim, ...]] = {}
        for layer in self.facts.layers.values():
            for layout in layer.tensors:
                tensor = attribute(module, f"{layer.path}.{layout.name}" if layout.name else layer.path)
                if isinstance(tensor, torch.Tensor):
                    layouts[id(tensor)] = layout.dims
        return [layouts.get(id(p), tuple((n,) for n in p.shape)) for p in counted.parameters()]
