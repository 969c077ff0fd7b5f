"""One graph of a network whose train and eval mode take different paths.

Nodes that one mode alone runs have its name in ``meta["only_in"]``, :func:`by_mode` chooses what is returned, and all
else is of both modes. Passes see every node; the code that a :class:`TwoPaths` module runs is that of one path.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from torch import fx, nn
from torch.fx.graph import PythonCode
from torch.fx.graph_module import _forward_from_src
from torch.fx.node import map_aggregate, map_arg

from conet_fx.passes.nodes import attribute, leaves
from conet_fx.passes.reload import Reload

ONLY_IN = "only_in"  # key in the meta of nodes
Mode = Literal["train", "eval"]
MODES: tuple[Mode, ...] = ("train", "eval")


def by_mode(training: bool, in_train: Any, in_eval: Any) -> Any:
    """What a network returns, where that is another value in each mode."""
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
    return path


def one_path(module: fx.GraphModule, mode: Mode) -> fx.GraphModule:
    """The network as it is in one mode, with the same submodules and tensors."""
    path = fx.GraphModule(module, path_of(module.graph, mode), type(module).__name__)
    path.training = module.training
    return path


class TwoPaths(fx.GraphModule):
    """A module whose ``forward`` runs the path of the mode that it is in. ``graph`` holds both."""

    def recompile(self) -> PythonCode:
        """Write the code of both paths anew, after the graph was changed."""
        code = super().recompile()
        cls = cast(Any, type(self))
        texts = []
        for mode in MODES:
            path = path_of(self.graph, mode).python_code("self")
            setattr(cls, f"_forward_in_{mode}", _forward_from_src(path.src, path.globals, {}))
            texts.append(path.src.replace("def forward(", f"def _forward_in_{mode}(", 1))
        line = next(line for line in path.src.splitlines() if line.startswith("def forward("))
        names = [str(node.target) for node in self.graph.find_nodes(op="placeholder")]
        source = (
            f"{line}\n    return (self._forward_in_train if self.training else self._forward_in_eval)({_call(names)})\n"
        )
        cls.forward = _forward_from_src(source, path.globals, {})
        self._code = "\n".join((*texts, source))
        return code

    def _deepcopy_init(self) -> Any:
        return TwoPaths.__init__

    def __reduce__(self) -> tuple[Any, ...]:
        kept = self.state_dict().keys()
        apart = [name for name, _ in self.named_buffers(remove_duplicate=False) if name not in kept]
        paths = (one_path(self, mode) for mode in MODES)
        return _joined, (*paths, self.training, dict(self.meta), type(self).__name__, apart)


def _call(names: list[str]) -> str:
    """The arguments of a function handed on to one of the same signature."""
    given, by_name = [], False
    for name in names:
        given.append(f"{name}={name}" if by_name and not name.startswith("*") else name)
        by_name = by_name or name.startswith("*")
    return ", ".join(given)


def graph_module_of(parts: Mapping[str, Any], graph: fx.Graph, *like: nn.Module) -> fx.GraphModule:
    """A GraphModule of ``graph`` with ``parts`` at their paths; modes and buffer persistence as in ``like``."""
    graph._tracer_cls = Reload
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None  # a postponed annotation, whose name means nothing here (torch 2.9 cannot pickle it)
    cls = TwoPaths if has_two_paths(graph) else fx.GraphModule
    graph_module = cls(dict(parts), graph, class_name=type(like[0]).__name__)
    modules = {path: module for each in reversed(like) for path, module in each.named_modules()}
    for path, module in graph_module.named_modules():
        twin = modules.get(path)
        if twin is None:
            continue
        vars(module)["training"] = twin.training  # what assigning an attribute of a module asks first takes time
        if module._buffers:
            persistent = twin._buffers.keys() - twin._non_persistent_buffers_set
            # plain tensors become buffers here, but are in no state_dict
            module._non_persistent_buffers_set |= module._buffers.keys() - persistent
    return graph_module


def _joined(
    in_train: fx.GraphModule,
    in_eval: fx.GraphModule,
    training: bool,
    meta: dict[str, Any],
    name: str,
    apart: Sequence[str],
) -> fx.GraphModule:
    """What :class:`TwoPaths` is unpickled as; ``apart`` are the buffers that are in no state_dict."""
    graph = path_of(in_train.graph, "train")
    join_paths(graph, in_eval.graph, True)
    parts = {
        str(node.target): attribute(module, str(node.target))
        for module in (in_train, in_eval)
        for node in module.graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    joined = graph_module_of({**parts, "training": training}, graph, in_train, in_eval)
    type(joined).__name__ = name
    joined.training, joined.meta = training, meta
    for buffer in apart:  # torch 2.11 forgets them
        path, _, key = buffer.rpartition(".")
        joined.get_submodule(path)._non_persistent_buffers_set.add(key)
    return joined


# --- joining --------------------------------------------------------------------------------------------------


class _Differs(Exception):
    """Two nodes differ in more than the training flag."""


_FLAG = object()


def join_paths(graph: fx.Graph, twin: fx.Graph, training: bool) -> None:
    """Make ``graph``, which a network runs with this ``training`` flag, the graph of both modes; ``twin`` is the other.

    A node that both have is one. ``F.dropout(x, training=self.training)`` leaves a constant in each; it is replaced by
    the module's own flag. The rest is marked with :data:`ONLY_IN`. All nodes stand in the order in which their mode
    runs them.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    alike: dict[Any, list[int]] = collections.defaultdict(list)
    for number, node in enumerate(nodes):
        alike[node.op, node.target, *node.all_input_nodes].append(number)
    copies: dict[fx.Node, fx.Node] = {}
    flagged: list[tuple[fx.Node, Any]] = []
    last, behind = -1, nodes[0]

    def counterpart(theirs: fx.Node) -> tuple[int, Any] | None:
        """The next node of ``graph`` that is the same, and its arguments."""
        places = alike[theirs.op, theirs.target, *(copies[node] for node in theirs.all_input_nodes)]
        for place in places[0 if theirs.op == "get_attr" else bisect.bisect(places, last) :]:
            with contextlib.suppress(_Differs):
                return place, _join(_arguments(nodes[place]), _arguments(theirs), copies, training)
        return None

    for theirs in twin.nodes:
        if theirs.op == "output":
            break
        if (found := counterpart(theirs)) is None:
            with graph.inserting_after(behind):
                behind = copies[theirs] = graph.node_copy(theirs, copies.__getitem__)
            behind.meta[ONLY_IN] = mode_of(not training)
            continue
        place, arguments = found
        ours = copies[theirs] = nodes[place]
        if any(a is _FLAG for a in leaves(arguments)):
            flagged.append((ours, arguments))
        if theirs.meta.get("read_as_number", ()):
            known = ours.meta.setdefault("read_as_number", [])
            known += [read for read in theirs.meta["read_as_number"] if read not in known]
        if ours.op != "get_attr":
            last, behind = place, ours
        elif place > last:  # its users may come before the place that it has
            behind.append(ours)
            behind = ours
    met = set(copies.values())
    for ours in nodes:
        if ours not in met:
            ours.meta[ONLY_IN] = mode_of(training)
    output, other = graph.output_node(), twin.output_node()
    try:
        arguments = _join(_arguments(output), _arguments(other), copies, training)
    except _Differs:
        arguments = None
    if flagged or arguments is None:
        flag = _flag_of(graph, training)
    for node, joined in flagged:
        node.args, node.kwargs = map_aggregate(joined, lambda a: flag if a is _FLAG else a)
    if arguments is None:
        returned = [output.args[0], map_arg(other.args[0], copies.__getitem__)]
        with graph.inserting_before(output):
            chosen = graph.create_node("call_function", by_mode, (flag, *(returned if training else returned[::-1])))
        chosen.meta.update(output.meta)
        output.args = (chosen,)


def _flag_of(graph: fx.Graph, training: bool) -> fx.Node:
    """The node that reads the mode, before all that use it."""
    first: fx.Node = next(node for node in graph.nodes if node.op != "placeholder")
    if (first.op, first.target) == ("get_attr", "training"):
        return first
    with graph.inserting_before(first):
        flag = graph.create_node("get_attr", "training")
    flag.meta.update(val=training, source="", scope="")
    return flag


def _arguments(node: fx.Node) -> Any:
    return node.args, dict(node.kwargs)


def _join(ours: Any, theirs: Any, copies: Mapping[fx.Node, fx.Node], training: bool) -> Any:
    """The arguments of both nodes, with :data:`_FLAG` for the training flag. Raises where they differ in more."""
    if isinstance(ours, fx.Node):
        if not isinstance(theirs, fx.Node) or copies[theirs] is not ours:
            raise _Differs
        return ours
    if type(ours) is not type(theirs):
        raise _Differs
    if isinstance(ours, (tuple, list)):
        if len(ours) != len(theirs):
            raise _Differs
        items = [_join(a, b, copies, training) for a, b in zip(ours, theirs, strict=True)]
        return type(ours)(items) if type(ours) in (tuple, list) else ours
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            raise _Differs
        return {key: _join(value, theirs[key], copies, training) for key, value in ours.items()}
    if isinstance(ours, bool) and ours != theirs:
        if ours != training:
            raise _Differs
        return _FLAG
    if isinstance(ours, slice):
        here, there = ((each.start, each.stop, each.step) for each in (ours, theirs))
        return slice(*_join(here, there, copies, training))
    if ours != theirs:
        raise _Differs
    return ours
