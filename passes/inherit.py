"""Which channels a resized model inherits, and the values that go with them."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from conet_fx.passes.call import Facts, Layer, Layout, Tensor
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import Channels, MarkCall, Marker, Site, match
from conet_fx.passes.nodes import attribute
from conet_fx.passes.trace import Trace

Positions = Mapping[Site, torch.Tensor]


def kept_channels(traced: Trace, facts: Facts, draft: fx.GraphModule) -> Positions:
    """For each site the old position of each new channel, -1 where it is new."""
    old = mark(traced.graph_module, facts)
    new = mark(draft, facts)
    norms: dict[Site, np.ndarray[Any, Any]] = {}  # of what dense layers write
    for layer in facts.layers.values():
        for layout in layer.tensors:
            reads = {role for path, role in facts.reading if path == layer.path}
            writes = [axis for axis, role in enumerate(layout.roles) if role and role not in reads]
            if len(layout.dims) > 1 and reads & set(layout.roles) and writes:
                site = (layer.path, layout.roles[writes[0]])
                weight = attribute(traced.graph_module, tensor_path(layer, layout)).detach()
                weight = (weight.abs() if weight.is_complex() else weight).double()
                if site in old.sites:
                    norms[site] = _norms(weight, writes[0], layout.blocks).cpu().numpy()
    kept = {site: torch.from_numpy(where) for site, where in match(old, new, norms).items()}
    for path, role in kept:
        if not facts.depths.moves(facts.layers[path].dims[role]):  # an axis that keeps its size keeps its order
            kept[path, role] = torch.arange(len(kept[path, role]))
    return kept


def warn_of_lost_channels(facts: Facts, kept: Positions, size: Callable[[Dim], int]) -> None:
    """Say so where a reader loses more channels than its new size asks for, unless ``mixed_by`` says so of all of them.

    That happens where a value is added to itself in another order (all its channels are then one, and none can be told
    from a new one), and where a channel would stand in another place, such as another block of a grouped convolution.
    """
    for path, role in sorted(facts.reading & kept.keys()):
        dim = facts.layers[path].dims[role]
        parts = [(part,) for part in facts.depths.resolve(dim)]
        wanted = sum(min(facts.depths.size(part), size(part)) for part in parts)
        stay = int((kept[path, role] >= 0).sum())
        noted = all(facts.depths.notes(root) for root in facts.depths.roots(dim))
        if stay < wanted and not noted:
            warnings.warn(
                f"{path} inherits only {stay} of {wanted} input channels, the others start anew: at the new size they "
                "would stand in another place (a value joined with itself in another order, blocks that move)",
                stacklevel=4,
            )


def _norms(weight: torch.Tensor, axis: int, blocks: int) -> torch.Tensor:
    """The norm of each output channel; of a grouped transposed convolution the second axis holds one block only."""
    if axis == 0 or blocks == 1:
        return weight.transpose(0, axis).flatten(1).square().sum(1).sqrt()
    return weight.reshape(blocks, -1, *weight.shape[1:]).transpose(1, 2).flatten(2).square().sum(2).sqrt().flatten()


def mark(module: fx.GraphModule, facts: Facts) -> Channels:
    """Which channel stands at each position of each layer of ``module``, the traced one or a resized one."""
    marker = Marker()
    env: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        entry = facts.entries[node.name]
        value = facts.values[facts.by_name[node.name]]
        call = MarkCall(node, module, entry.arguments, facts, value, env, marker)
        reads = node.op == "call_module" and (node.target, "in") in facts.reading  # also where the result is fixed
        met = entry.rule.pairs and any(env[operand] for operand in node.all_input_nodes)
        env[node] = _held(entry.rule.labels(call), value) if reads or met or facts.moves(value) else None
        if isinstance(env[node], dict):
            still = {dim for dim, parts in enumerate(value.dims) if not facts.depths.moves(parts)}
            for dim, field in env[node].items():
                marker.holds(field, tuple(still - {dim}))
    for layouts in _layouts(module, facts).values():
        for (layer, layout), (other, same) in itertools.pairwise(layouts):  # tied weights have the same channels
            for one, two in zip(layout.roles, same.roles, strict=True):
                a, b = marker.sites.get((layer.path, one)), marker.sites.get((other.path, two))
                if a is not None and b is not None and a.numel() == b.numel():
                    marker.link(a.flatten(), b.flatten())
    return marker.channels()


def _layouts(module: nn.Module, facts: Facts) -> dict[int, list[tuple[Layer, Layout]]]:
    """All layouts of each tensor of ``module`` by its id: several where layers share it."""
    found: dict[int, list[tuple[Layer, Layout]]] = {}
    for layer in facts.layers.values():
        for layout in layer.tensors:
            tensor = attribute(module, tensor_path(layer, layout))
            if isinstance(tensor, torch.Tensor):
                found.setdefault(id(tensor), []).append((layer, layout))
    return found


def _held(fields: Any, value: Any) -> Any:
    """Label fields without those of dims that the value takes as fixed (one operand's depth, frozen by the others)."""
    if isinstance(fields, list):
        return [_held(f, v) for f, v in zip(fields, value, strict=True)]
    if isinstance(fields, dict) and isinstance(value, Tensor):
        return {dim: field for dim, field in fields.items() if not is_fixed(value.dims[dim])}
    return fields


def tensor_path(layer: Layer, layout: Layout) -> str:
    """The path of one tensor of a layer."""
    return f"{layer.path}.{layout.name}" if layout.name else layer.path


@torch.no_grad()
def inherit(source: nn.Module, resized: nn.Module, facts: Facts, kept: Positions) -> None:
    """Copy the old values of all channels that stay."""
    for origin, old in origins(source, facts, kept):
        new = attribute(resized, origin.path)
        new.copy_(origin.take(old, new))


def origins(source: nn.Module, facts: Facts, kept: Positions) -> Iterator[tuple[Origin, torch.Tensor]]:
    """Each parameter and buffer of ``source``, once, and how the one at its place in a resized model follows it."""
    laid_out = _layouts(source, facts)
    for (layer, layout), *others in laid_out.values():
        where = [kept.get((layer.path, role)) if role else None for role in layout.roles]
        reads = [
            any(y.zeros or (x.path, y.roles[axis]) in facts.reading for x, y in ((layer, layout), *others))
            for axis in range(len(layout.roles))
        ]
        path = tensor_path(layer, layout)
        yield Origin(path, tuple(where), tuple(reads), layout.blocks), attribute(source, path)
    for name, old in (*source.named_parameters(), *source.named_buffers()):
        if id(old) not in laid_out:
            yield Origin(name, (None,) * old.ndim, (False,) * old.ndim), old


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which old position each new one along the axes of a tensor comes from.

    ``path``: of the tensor. ``where``: old positions for each axis, -1 where a channel is new; None for an axis that
    stays. ``reads``: the axes along which a weight is summed with its input, so that zeros make nothing of a new one.
    ``blocks``: as in a ``Layout``.
    """

    path: str
    where: tuple[torch.Tensor | None, ...]
    reads: tuple[bool, ...]
    blocks: int = 1

    def take(self, old: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        """``old`` gathered along each axis; new positions are zero along an axis that reads, else as in ``fresh``."""
        if all(index is None for index in self.where):
            return old
        places = [
            torch.arange(n, device=old.device) if index is None else index.to(old.device)
            for n, index in zip(fresh.shape, self.where, strict=True)
        ]
        if self.blocks > 1:
            return self._take_blocks(old, fresh, places)
        return self._gather(old, fresh, places)

    def _gather(self, old: torch.Tensor, fresh: torch.Tensor, places: list[torch.Tensor]) -> torch.Tensor:
        values = old
        for axis, place in enumerate(places):
            values = values.index_select(axis, place.clamp(min=0))
        if values.shape != fresh.shape:
            raise AssertionError(f"{tuple(values.shape)} channels are known for a tensor of shape {tuple(fresh.shape)}")
        for read in (True, False):  # what a new channel writes is fresh, also where it reads a new one
            for axis, place in enumerate(places):
                if self.reads[axis] == read and bool((place < 0).any()):
                    new = (place < 0).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
                    values = torch.where(new, torch.zeros_like(fresh) if read else fresh, values)
        return values

    def _take_blocks(self, old: torch.Tensor, fresh: torch.Tensor, places: list[torch.Tensor]) -> torch.Tensor:
        """A grouped weight: the first axis has all blocks, the second one block; each is gathered by itself."""
        out = []
        rows = places[0].reshape(self.blocks, -1)
        columns = places[1].reshape(self.blocks, -1) if len(places) > 1 else rows
        for block, (weight, new) in enumerate(zip(old.chunk(self.blocks), fresh.chunk(self.blocks), strict=True)):
            row = torch.where(rows[block] < 0, -1, rows[block] - block * weight.shape[0])
            local = [row, *places[1:]]
            if len(places) > 1:
                local[1] = torch.where(columns[block] < 0, -1, columns[block] - block * weight.shape[1])
            out.append(self._gather(weight, new, local))
        return torch.cat(out)
