"""The labelled DAG of the paper (section 4.1): values as nodes, operators as edges.

An edge is *conv* where its operator may change the depth freely (dense and grouped convolutions, linear layers) and
*non_conv* where the depth is kept. A node is a *summation* where several edges meet in an element-wise operator (their
depths must be equal), a *concatenation* where depths add up, else *single*; *input* and *output* bound the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import networkx
import torch
from torch import fx, nn

from conet_fx.passes import ops
from conet_fx.passes.nodes import leaves, source, submodule
from conet_fx.passes.rules.base import EdgeKind, NodeKind
from conet_fx.passes.trace import Trace


def label(traced: Trace, entries: Mapping[str, ops.Entry] | None = None) -> networkx.MultiDiGraph[str]:
    """The labelled graph of a trace. ``entries``: those of the operator table by node name, where they are known.

    Nodes are the names of fx nodes that hold tensors; attributes: ``kind`` in {"input", "single", "summation",
    "concatenation", "output"}, ``operator``, ``source`` ("file:line" of the model). Edges carry ``kind`` in
    {"conv", "non_conv"} and ``operator``, the module path or function name.
    """
    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
    root = traced.graph_module
    for node in traced.graph_module.graph.nodes:
        if not _holds_tensors(node):
            continue
        entry = ops.lookup(node, root) if entries is None else entries[node.name]
        kind, edge = kinds(node, entry, root)
        graph.add_node(node.name, kind=kind, operator=_operator(node), source=source(node))
        for operand in _operands(node):
            graph.add_edge(operand.name, node.name, kind=edge, operator=_operator(node))
    return graph


def kinds(node: fx.Node, entry: ops.Entry, root: nn.Module) -> tuple[NodeKind, EdgeKind]:
    """The kind of a node, and the kind of the edges that lead to it."""
    kind = entry.rule.kind
    if kind in ("summation", "concatenation") and len(_operands(node)) < 2 and not _twice(node):
        kind = "single"
    module = submodule(root, str(node.target)) if node.op == "call_module" else None
    return kind, entry.rule.edge(module)


def _operands(node: fx.Node) -> list[fx.Node]:
    return [operand for operand in node.all_input_nodes if _holds_tensors(operand)]


def _operator(node: fx.Node) -> str:
    if node.op in ("call_module", "placeholder", "get_attr", "call_method"):
        return str(node.target)
    return getattr(node.target, "__name__", str(node.target))


def _holds_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    held = isinstance(value, torch.Tensor) or any(isinstance(leaf, torch.Tensor) for leaf in leaves(value))
    return node.op == "output" or held


def _twice(node: fx.Node) -> bool:
    """x + x, cat(x, x): one operand that comes in more than once."""
    return sum(isinstance(leaf, fx.Node) for leaf in leaves((node.args, node.kwargs))) > 1
