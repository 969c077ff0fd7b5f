"""Paper, Algorithm 1: follow the channel axis through the graph and resolve which depths must change together.

Every node is visited once, in the order of the graph, and its rule from the operator table says what its channels are
in terms of those of its operands. Depths that meet are tied; a depth that meets a concatenation becomes the sum of its
parts, also where it was used before (the back-propagation of Algorithm 1, which costs nothing here because uses refer
to depths and not to numbers).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from conet_fx.errors import ConetError
from conet_fx.passes import ops
from conet_fx.passes.call import Call, Facts, Layout, NoRule, Options, Tensor, dims_in
from conet_fx.passes.depth import Depths, Slot
from conet_fx.passes.functions import INSIDE
from conet_fx.passes.nodes import attribute, source, tensors
from conet_fx.passes.rules import Opaque
from conet_fx.passes.trace import Trace
from conet_fx.passes.verify import agrees


def propagate(traced: Trace, options: Options) -> Facts:
    """All depths of the graph, what they are tied to, and what a rewrite needs to know.

    Raises :class:`~conet_fx.errors.ConstraintError` at an operator that cannot be followed when ``options.strict``.
    """
    facts = Facts(Depths(tie_sums=options.tie_concat))
    unused = _unused_numbers(traced.graph_module.graph)
    for node in traced.graph_module.graph.nodes:
        entry = ops.UNUSED if node in unused else ops.lookup(node, traced.graph_module)
        facts.by_name[node.name], facts.entries[node.name] = node, entry
        _follow(node, entry, traced, facts, options)
        for read in node.meta.get("read_as_number", ()):
            for dim in dims_in(facts.values[node]):
                facts.depths.note(dim, read)  # the Python of the model computed with the present size
    _tie_shared_tensors(traced, facts)
    for count in facts.literals:
        if INSIDE in facts.by_name[count.node].meta:
            facts.depths.freeze(
                count.dim,
                f"the forward of a torch.autograd.Function spells it out: {source(facts.by_name[count.node])}",
            )
    if traced.pieces:
        for count in facts.literals:
            facts.depths.freeze(
                count.dim, f"code that cannot be rewritten spells it out: {source(facts.by_name[count.node])}"
            )
    if not options.resize_linear:
        _freeze_linear(facts)
    return facts


def _follow(node: fx.Node, entry: ops.Entry, traced: Trace, facts: Facts, options: Options) -> None:
    """Ask the rule of a node what its value is."""
    call = Call(node, traced.graph_module, entry.arguments, facts, options)
    try:
        facts.values[node] = entry.rule.depth(call)
        _tie_out(call, facts.values[node])
        if node.op != "output" and not agrees(node.meta["val"], facts.values[node], facts.depths.size):
            raise NoRule("its result has another shape")
    except NoRule as use:
        facts.values[node] = Opaque().because(call, f"is used in a way that is not followed ({use})")
    except ConetError:
        raise
    except Exception as error:
        error.add_note(f"while the rule {type(entry.rule).__name__} followed {source(node)}")
        raise


def _tie_out(call: Call, value: Any) -> None:
    """What an operator writes into (``out=v``, as spectral norm does) has the shape of its result."""
    out = call.node.kwargs.get("out")
    if isinstance(out, fx.Node) and isinstance(value, Tensor):
        given = call.facts.values[out]
        if isinstance(given, Tensor) and len(given.dims) == len(value.dims):
            for a, b in zip(value.dims, given.dims, strict=True):
                call.tie(a, b)


def _unused_numbers(graph: fx.Graph) -> set[fx.Node]:
    """What Python alone has looked at: conditions on sizes, counts of elements. Numbers that it went on to compute with
    are not among them, nor are remainders, which a network may ask to be 0 for good.
    """
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        reads = node.op in ("call_function", "call_method") and node.target in _READS_OF_SIZES
        kept = "read_as_number" in node.meta or node.users.keys() - found or tensors(node.meta.get("val"))
        if reads and not kept:
            found.add(node)
    return found


_READS_OF_SIZES: frozenset[Any] = frozenset(
    (
        *(getattr, "size", "stride", "numel", "nelement", "dim", "ndimension", "element_size", "is_contiguous"),
        *(operator.add, operator.sub, operator.mul, operator.pow, operator.neg, operator.abs, operator.getitem),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_),
    )
)


def _freeze_linear(facts: Facts) -> None:
    """Depths that linear layers alone write stay; one that a convolution writes too (squeeze-excite) follows it."""
    depths = facts.depths
    moving = {root for path, dim in facts.writers.items() if path not in facts.linear for root in depths.roots(dim)}
    for path in facts.writers:
        if path in facts.linear:
            for part in depths.resolve(facts.writers[path]):
                if isinstance(part, Slot) and depths.root(part.depth) not in moving:
                    depths.freeze((part,), "only linear layers write it: pass resize_linear=True to let it change")


def _tie_shared_tensors(traced: Trace, facts: Facts) -> None:
    """One tensor in two layers (tied weights) has one shape."""
    first: dict[int, tuple[Layout, str]] = {}
    for layer in facts.layers.values():
        for layout in layer.tensors:
            path = f"{layer.path}.{layout.name}".rstrip(".")
            tensor = attribute(traced.graph_module, path)
            if not isinstance(tensor, torch.Tensor):
                continue
            known, name = first.setdefault(id(tensor), (layout, path))
            why = f"{path} is the same tensor as {name}" if path != name else f"{path} is used in two ways"
            for a, b in zip(known.dims, layout.dims, strict=True):
                facts.depths.tie(a, b, why)
