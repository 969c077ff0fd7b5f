"""ChannelPlan: which channel sizes of a model may change, which must change together, and what a change costs.

plan = analyze(model, example_inputs)
print(plan.explain())
smaller = plan.resize({"layer1.0.conv1": 24}, init="inherit")
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

import networkx
import torch
from torch import fx, nn

from conet_fx.errors import ResizeError
from conet_fx.passes.call import Facts, Options
from conet_fx.passes.constraints import label
from conet_fx.passes.depth import Dim
from conet_fx.passes.propagation import propagate
from conet_fx.passes.rewrite import rewrite
from conet_fx.passes.trace import Inputs, Trace, attribute, trace


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channel sizes that must stay equal (or in proportion): the unit that is resized.

    ``name`` is the module path of the first writer (with ``#2``, ``#3`` where one module is the first writer of several
    groups) and ``size`` its channels in this group. Sizes are multiples of ``quantum`` and at least ``minimum``.
    ``writers`` and ``readers`` are the dense and grouped convolutions and linear layers whose output or input channels
    these are, in the order of the graph; ``whole_readers`` those whose entire input is this group. ``frozen`` says why
    the size cannot change, or None. ``mixed_by`` names operators that normalise or reduce over the channels: there
    ``init="inherit"`` cannot keep the function exactly.
    """

    name: str
    size: int
    quantum: int
    minimum: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    whole_readers: tuple[str, ...]
    frozen: str | None
    mixed_by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """``params``: trainable and frozen parameters. ``macs``: multiply-adds of convolutions, linear layers and matrix
    products in one forward pass of the example inputs (a multiply-add is one MAC; it is two FLOPs).
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

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword inputs; only shapes and types matter.
    ``tie_concat``: the parts of a concatenation keep their proportion. ``strict``: raise at an operator that is not in
    the table instead of freezing what it touches. ``resize_linear``: what only linear layers write may change too.

    Raises ``TypeError`` or ``ValueError`` for bad arguments, :class:`~conet_fx.errors.TraceError` for a model that
    cannot be traced, :class:`~conet_fx.errors.ConstraintError` with ``strict``.
    """
    traced = trace(model, example_inputs)
    facts = propagate(traced, Options(tie_concat=tie_concat, strict=strict, resize_linear=resize_linear))
    return ChannelPlan(traced, facts)


class ChannelPlan:
    """Trace, labelled graph and channel groups of one model. Immutable; :meth:`resize` makes new modules."""

    def __init__(self, traced: Trace, facts: Facts) -> None:
        self.trace = traced
        self.facts = facts
        self._roots: dict[str, int] = {}
        self.groups: tuple[ChannelGroup, ...] = tuple(self._make_groups())

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
        return label(self.trace)

    def group(self, name: str) -> ChannelGroup:
        """The group called ``name``. Raises :class:`ResizeError` for an unknown name."""
        for group in self.groups:
            if group.name == name:
                return group
        near = difflib.get_close_matches(name, [group.name for group in self.groups], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "plan.sizes lists the groups"
        raise ResizeError(f"there is no channel group {name!r}; {hint}")

    def cost(self, sizes: Mapping[str, int] | None = None) -> Cost:
        """Parameters and MACs at ``sizes`` (groups left out keep their size), exact, without building anything."""
        scales = self._scales(sizes or {})

        def volume(terms: tuple[Dim, ...]) -> int:
            out = 1
            for dim in terms:
                out *= self.facts.depths.size(dim, scales)
            return out

        return Cost(
            params=sum(volume(dims) for dims in self._parameter_shapes),
            macs=sum(
                term.factor * volume(term.dims)
                for term in self.facts.macs
                if not term.summed or volume(term.summed) > 1
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

        Raises :class:`ResizeError` for an unknown group, a frozen one, a size below its minimum or not a multiple of
        its quantum; ``ValueError`` for an unknown ``init``.
        """
        if init not in ("reset", "inherit"):
            raise ValueError(f"init must be 'reset' or 'inherit', not {init!r}")
        return rewrite(self.trace, self.facts, self._scales(sizes), init, init_fn)

    def _scales(self, sizes: Mapping[str, int]) -> dict[int, Fraction]:
        """The factor of each class of depths. Raises :class:`ResizeError` for sizes that the groups do not allow."""
        scales: dict[int, Fraction] = {}
        for name, size in sizes.items():
            group = self.group(name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise ResizeError(f"the size of {name!r} must be an integer, not {size!r}")
            if size == group.size:
                continue
            if group.frozen is not None:
                raise ResizeError(f"{name!r} must keep its {group.size} channels ({group.frozen}), not {size}")
            if size < group.minimum:
                raise ResizeError(f"{name!r} needs at least {group.minimum} channels, not {size}")
            if size % group.quantum:
                low = max(group.minimum, size - size % group.quantum)
                raise ResizeError(
                    f"{name!r} must be a multiple of {group.quantum}, not {size}: take {low} or {low + group.quantum}"
                )
            scales[self._roots[name]] = Fraction(size, group.size)
        return scales

    # --- telling --------------------------------------------------------------------------------------------

    def explain(self) -> str:
        """What may change, what may not and why, and where the function cannot be kept exactly."""
        free, frozen = self.free, [group for group in self.groups if group.frozen is not None]
        cost = self.cost()
        lines = [
            f"{type(self.trace.graph_module).__name__}: {len(free)} free and {len(frozen)} frozen channel groups, "
            f"{cost.params:,} parameters, {cost.macs:,} MACs"
        ]
        if self.trace.mode_dependent:
            mode = "train" if self.trace.graph_module.training else "eval"
            lines.append(f"The model takes other paths in train than in eval mode; this plan is of its {mode} mode.")
        for group in free:
            step = f", multiple of {group.quantum}" if group.quantum > 1 else ""
            lines.append(f"  {group.name}: {group.size} channels{step}")
            lines.append(f"      written by {', '.join(group.writers)}")
            lines.append(f"      read by {', '.join(group.readers) or 'nothing dense'}")
            if group.mixed_by:
                lines.append(
                    f"      mixed by {'; '.join(group.mixed_by)}: inherited weights keep the function only nearly"
                )
        lines += [f"  {group.name}: {group.size} channels, frozen: {group.frozen}" for group in frozen]
        for text in dict.fromkeys(self.facts.unknown):
            lines.append(f"  not followed: {text}")
        return "\n".join(lines)

    def to_dot(self) -> str:
        """The labelled graph for Graphviz: conv edges bold, summations as circles, concatenations as trapezia."""
        shapes = {
            "summation": "circle",
            "concatenation": "trapezium",
            "input": "box",
            "output": "box",
            "single": "ellipse",
        }
        lines = ["digraph channels {", "  rankdir=TB;"]
        for name, data in self.graph.nodes(data=True):
            text = f"{name}\\n{data['operator']}".replace('"', "'")
            lines.append(f'  "{name}" [label="{text}" shape={shapes[data["kind"]]}];')
        for tail, head, data in self.graph.edges(data=True):
            style = "bold" if data["kind"] == "conv" else "dashed"
            lines.append(f'  "{tail}" -> "{head}" [style={style}];')
        return "\n".join([*lines, "}"]) + "\n"

    # --- inside ---------------------------------------------------------------------------------------------

    def _make_groups(self) -> list[ChannelGroup]:
        depths = self.facts.depths
        writers: dict[int, list[str]] = {}
        readers: dict[int, list[str]] = {}
        whole: dict[int, list[str]] = {}
        for path, dim in self.facts.writers.items():
            for root in depths.roots(dim):
                writers.setdefault(root, []).append(path)
        for path, dim in self.facts.readers.items():
            roots = depths.roots(dim)
            for root in roots:
                readers.setdefault(root, []).append(path)
            if len(roots) == 1 and all(not isinstance(part, int) for part in depths.resolve(dim)):
                whole.setdefault(roots[0], []).append(path)
        groups = []
        taken: dict[str, int] = {}
        for root, paths in writers.items():
            first = paths[0]
            taken[first] = taken.get(first, 0) + 1
            name = first if taken[first] == 1 else f"{first}#{taken[first]}"
            size = depths.share(self.facts.writers[first], root)
            self._roots[name] = root
            groups.append(
                ChannelGroup(
                    name=name,
                    size=size,
                    quantum=size // depths.steps(root),
                    minimum=size // depths.steps(root) * depths.least(root),
                    writers=tuple(paths),
                    readers=tuple(readers.get(root, ())),
                    whole_readers=tuple(whole.get(root, ())),
                    frozen=depths.frozen(root),
                    mixed_by=depths.notes(root),
                )
            )
        return groups

    @functools.cached_property
    def _parameter_shapes(self) -> list[tuple[Dim, ...]]:
        """The dims of every parameter, shared ones once."""
        module = self.trace.graph_module
        layouts: dict[int, tuple[Dim, ...]] = {}
        for layer in self.facts.layers.values():
            for layout in layer.tensors:
                tensor = attribute(module, f"{layer.path}.{layout.name}" if layout.name else layer.path)
                if isinstance(tensor, torch.Tensor):
                    layouts[id(tensor)] = layout.dims
        return [layouts.get(id(p), tuple((n,) for n in p.shape)) for p in module.parameters()]
