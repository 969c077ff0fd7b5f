"""A plan's facts + new sizes -> a new GraphModule.

The traced module is never touched: every submodule is copied with parameters of the new shapes, integers in the graph
that are channel counts are set to the new counts, and the result is checked by :mod:`conet_fx.passes.verify`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.utils import parametrizations

from conet_fx.errors import ResizeError
from conet_fx.passes.call import Facts, Layer, Path
from conet_fx.passes.closures import copy_module
from conet_fx.passes.depth import Dim
from conet_fx.passes.functions import without_insides
from conet_fx.passes.info import KEY, annotate
from conet_fx.passes.inherit import inherit, kept_channels, tensor_path, warn_of_lost_channels
from conet_fx.passes.islands import Pieces
from conet_fx.passes.names import spell_out
from conet_fx.passes.nodes import attribute, computed_by_hooks, copies, memory_format, submodule
from conet_fx.passes.nodes import source as line_of
from conet_fx.passes.numerals import make_plain
from conet_fx.passes.shapes import undisturbed
from conet_fx.passes.trace import Trace
from conet_fx.passes.two_paths import graph_module_of
from conet_fx.passes.verify import verify

Init = Literal["reset", "inherit"]


def rewrite(
    traced: Trace,
    facts: Facts,
    scales: Mapping[int, Fraction],
    init: Init = "reset",
    init_fn: Callable[[nn.Module], Any] | None = None,
) -> nn.Module:
    """The traced model with each class of depths in ``scales`` scaled by its factor: a GraphModule, or a copy of the
    caller's module where that could be traced in pieces only.

    ``init="reset"`` draws fresh weights (``reset_parameters`` of each module, then ``init_fn`` applied to each module);
    ``"inherit"`` keeps the weights of channels that stay, those of largest norm when there are fewer, and lets new
    channels enter with zero reader weights, so that the function is kept. ``meta["conet_fx"]["kept"]`` of the result
    maps (layer, role) to the old position of each new channel, -1 for a new one (``init="inherit"`` only).
    """

    def size(dim: Dim) -> int:
        return facts.depths.size(dim, scales)

    source = traced.graph_module
    whole = traced.whole
    drafts = _drafts(whole, source, facts, size)
    draft = _draft(source, facts, size, drafts)
    try:
        verify(draft, traced, facts, size)
    except ResizeError as error:
        _note_own_rules(error, traced, facts)
        raise
    annotate(draft, facts, size)
    draft.meta[KEY] = {"weights": facts.weights}
    olds = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
    real = {id(drafts[key]): _empty_like(drafts[key], old) for key, old in olds.items()}
    if traced.pieces:
        resized = copy_module(whole, {**computed_by_hooks(whole), **{key: real[id(drafts[key])] for key in olds}})
        for path, layer in facts.layers.items():
            if isinstance(part := attribute(resized, path), nn.Module):
                _set_attributes(part, layer, size)
    else:
        resized = _materialised(draft, real)
    _reset(resized, {id(real[id(drafts[key])]): old for key, old in olds.items()})
    if init_fn is not None:
        resized.apply(init_fn)
    if init == "reset":
        _renew_singular_vectors(resized)
    if init == "inherit":
        kept = kept_channels(traced, facts, draft)
        warn_of_lost_channels(facts, kept, size)
        inherit(whole, resized, facts, kept)
        meta = getattr(resized, "meta", {})
        resized.meta = {**meta, KEY: {**meta.get(KEY, {}), "kept": kept}}  # type: ignore[assignment]
    if traced.pieces:
        _try(resized, traced.pieces)
    elif isinstance(resized, fx.GraphModule):
        without_insides(resized)
    return resized


def _note_own_rules(error: ResizeError, traced: Trace, facts: Facts) -> None:
    """Say which operators of the user's own take part, since a rule of one of them may be what is wrong."""
    own = [line_of(node) for node in traced.graph_module.graph.nodes if facts.entries[node.name].own]
    if own:
        error.add_note(f"registered operators take part, look at their rules first: {'; '.join(own)}")


def _drafts(whole: nn.Module, source: fx.GraphModule, facts: Facts, size: Callable[[Dim], int]) -> dict[int, Any]:
    """Meta tensors of the new shapes for all parameters and buffers, by the id of the old ones: a memo for deepcopy."""
    shapes: dict[int, tuple[int, ...]] = {}
    for layer in facts.layers.values():
        for layout in layer.tensors:
            tensor = attribute(source, tensor_path(layer, layout))
            if isinstance(tensor, torch.Tensor):
                shapes[id(tensor)] = tuple(size(dim) for dim in layout.dims)
    memo: dict[int, Any] = {}
    for tensor in (*whole.parameters(), *whole.buffers()):
        shape, order = shapes.get(id(tensor), tensor.shape), memory_format(tensor)
        new = torch.empty(shape, dtype=tensor.dtype, device="meta", memory_format=order)
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    return memo


def _draft(
    source: fx.GraphModule, facts: Facts, size: Callable[[Dim], int], drafts: Mapping[int, Any]
) -> fx.GraphModule:
    """The resized GraphModule on meta tensors."""
    memo = copies(source, drafts)
    parts = {}
    for node in source.graph.nodes:
        if node.op == "call_module" and node.target not in parts:
            parts[node.target] = copy_module(submodule(source, node.target), memo)
            make_plain(parts[node.target])
            _set_attributes(parts[node.target], facts.layers.get(node.target), size)
        elif node.op == "get_attr":
            value = attribute(source, node.target)
            parts[node.target] = memo.get(id(value), value)
    return graph_module_of(parts, _new_graph(source.graph, facts, size), source)


def _empty_like(draft: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape of ``draft`` where ``old`` is."""
    new = torch.empty(draft.shape, dtype=old.dtype, device=old.device, memory_format=memory_format(old))
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _materialised(module: fx.GraphModule, real: Mapping[int, torch.Tensor]) -> fx.GraphModule:
    """The module with each meta tensor replaced by its real one."""
    for part in module.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                setattr(part, name, real[id(tensor)])  # recurrent layers look at what is set
    return module


def _try(resized: nn.Module, pieces: Pieces) -> None:
    """Run a module that was traced in pieces: code between the pieces may use their tensors, which no graph shows."""
    module = copy_module(resized, memo := {**computed_by_hooks(resized)})
    values = copy.deepcopy(dict(pieces.call.values), memo)
    try:
        with undisturbed(), torch.no_grad():
            module(
                *[values[name] for name in pieces.call.positional],
                **{name: values[name] for name in pieces.call.keywords},
            )
    except Exception as error:
        raise ResizeError(
            f"{type(resized).__name__} does not run at the new sizes ({type(error).__name__}: {error}). It was traced "
            "in pieces, and the code between them depends on a channel count: keep the groups there as they are"
        ) from error


def _set_attributes(module: nn.Module, layer: Layer | None, size: Callable[[Dim], int]) -> None:
    """in_channels, num_features and the like, also of a part of the module."""
    for path, dims in layer.attributes if layer else ():
        scalar = not dims or not isinstance(dims[0], tuple)
        part, _, name = path.rpartition(".")
        owner = module.get_submodule(part)
        setattr(owner, name, size(dims) if scalar else tuple(size(dim) for dim in dims))  # type: ignore[arg-type]


def _new_graph(graph: fx.Graph, facts: Facts, size: Callable[[Dim], int]) -> fx.Graph:
    """A copy of the graph whose channel counts are the new ones."""
    new = copied(graph)
    by_name = {node.name: node for node in new.nodes}
    for count in facts.literals:
        _put(by_name[count.node], count.path, size(count.dim))
    return new


def copied(graph: fx.Graph) -> fx.Graph:
    """The same nodes under the same names, with the same meta data."""
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = new.node_copy(node, lambda n: copies[n])
        if copies[node].name != node.name:
            raise AssertionError(f"node {node.name} was renamed to {copies[node].name}")
    return spell_out(new)


def _put(node: fx.Node, path: Path, number: int) -> None:
    """Set the argument of ``node`` at ``path``."""
    kind, key, *rest = path
    if kind == "args+":
        key, rest = int(key) + int(rest[0]), rest[1:]
    if kind == "kwargs":
        node.kwargs = {**node.kwargs, str(key): _replaced(node.kwargs[str(key)], rest, number)}
    else:
        args = list(node.args)
        args[int(key)] = _replaced(args[int(key)], rest, number)
        node.args = tuple(args)


def _replaced(argument: Any, path: list[Any], number: int) -> Any:
    if not path:
        return number
    step, *rest = path
    if isinstance(argument, slice):
        bounds = {name: getattr(argument, name) for name in ("start", "stop", "step")}
        bounds[step] = number
        return slice(bounds["start"], bounds["stop"], bounds["step"])
    items = list(argument)
    items[step] = _replaced(items[step], rest, number)
    return type(argument)(items) if type(argument) in (tuple, list) else items


@torch.no_grad()
def _reset(resized: nn.Module, originals: Mapping[int, torch.Tensor]) -> None:
    """Fresh values everywhere: by ``reset_parameters`` where a module has it, else of the same kind as the originals.

    A parameter without ``reset_parameters`` is filled with its value where it was constant (layer scales, ones, zeros),
    else drawn from the normal distribution of its mean and standard deviation. A buffer repeats its values, and so do
    parameters that are no floating-point numbers.
    """
    for module in resized.modules():
        if not _resets_all(module):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    _fill_like(tensor, originals[id(tensor)])
    for module in reversed(list(resized.modules())):
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset) and not isinstance(module, fx.GraphModule):
            reset()


@torch.no_grad()
def _renew_singular_vectors(resized: nn.Module) -> None:
    """Fit the vectors of spectral norms to the fresh weights, with as many steps as torch takes for a new layer."""
    for path, module in resized.named_modules():
        if isinstance(module, parametrizations._SpectralNorm) and "_u" in module._buffers:
            weight = getattr(resized.get_submodule(path.rpartition(".")[0]), "original", None)
            if isinstance(weight, torch.Tensor):
                module._power_method(module._reshape_weight_to_matrix(weight), 15)


def _resets_all(module: nn.Module) -> bool:
    """True for a layer of torch.nn, whose ``reset_parameters`` writes every tensor that it has."""
    return type(module).__module__.startswith("torch.nn.modules.") and hasattr(module, "reset_parameters")


def _fill_like(new: torch.Tensor, old: torch.Tensor) -> None:
    if not isinstance(new, nn.Parameter) or not (new.is_floating_point() or new.is_complex()):
        for axis, length in enumerate(new.shape):
            if length != old.shape[axis]:
                old = old.index_select(axis, torch.arange(length, device=old.device) % old.shape[axis])
        new.copy_(old)
        return
    if new.is_complex():
        new, old = torch.view_as_real(new), torch.view_as_real(old)
    if old.numel() == 0 or bool((old == old.flatten()[0]).all()):
        new.fill_(old.flatten()[0]) if old.numel() else None
    else:
        new.normal_(float(old.mean()), float(old.std()))
