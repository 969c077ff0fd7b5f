"""One graph of a network whose train and eval mode take different paths.

Nodes that one mode alone runs have its name in ``meta["only_in"]``, :func:`by_mode` chooses a value where the paths
meet again, and all else is of both modes. Passes see every node; the code that a
:class:`~conet_fx.passes.two_paths.TwoPaths` module runs is that of one path.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import fx
from torch.fx.node import map_arg

from conet_fx.passes.names import spell_out

ONLY_IN = "only_in"  # key in the meta of nodes
Mode = Literal["train", "eval"]
MODES: tuple[Mode, ...] = ("train", "eval")


def by_mode(training: bool, in_train: Any, in_eval: Any) -> Any:
    """A value that is another one in each mode (what compilers call a phi): an operand, or what a network returns."""
    return in_train if training else in_eval


def mode_of(training: bool) -> Mode:
    """The name of the mode with this flag."""
    return "train" if training else "eval"


def has_two_paths(graph: fx.Graph) -> bool:
    """Whether train and eval mode run different nodes."""
    return any(ONLY_IN in node.meta or node.target is by_mode for node in graph.nodes)


def path_of(graph: fx.Graph, mode: Mode) -> fx.Graph:
    """The nodes that run in ``mode``, under their names. Of a graph with one path, a copy.

    Raises ``ValueError`` for a node that uses one which does not run in its mode.
    """
    path = fx.Graph(tracer_cls=graph._tracer_cls)
    copies: dict[fx.Node, Any] = {}

    def copy_of(node: fx.Node) -> Any:
        if node not in copies:
            raise ValueError(f"node {node.name} does not run in {mode} mode, but what uses it does")
        return copies[node]

    for node in graph.nodes:
        if node.meta.get(ONLY_IN, mode) != mode:
            continue
        if node.target is by_mode:
            copies[node] = map_arg(node.args[1 if mode == "train" else 2], copy_of)
        else:
            copies[node] = path.node_copy(node, copy_of)
    for node in path.find_nodes(op="get_attr", target="training"):
        if not node.users:
            path.erase_node(node)
    return spell_out(path)
