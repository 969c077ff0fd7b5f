"""One graph of a network whose train and eval mode take different paths.

Nodes that one mode alone runs have its name in ``meta["only_in"]``, :func:`by_mode` chooses a value where the paths
meet again, and all else is of both modes. Passes see every node; the code that a :class:`TwoPaths` module runs is that
of one path.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
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
        paths = [one_path(self, mode) for mode in MODES]
        names = [[node.name for node in path.graph.nodes] for path in paths]
        return _joined, (*paths, names, self.training, dict(self.meta), type(self).__name__, apart)


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
    names: Sequence[Sequence[str]],
    training: bool,
    meta: dict[str, Any],
    name: str,
    apart: Sequence[str],
) -> fx.GraphModule:
    """What :class:`TwoPaths` is unpickled as. ``names``: those that the nodes of each path had in the graph of both;
    ``apart``: the buffers that are in no state_dict.
    """
    graph = path_of(in_train.graph, "train")
    named: dict[fx.Node, str] = {}
    for each, known in zip((graph, in_eval.graph), names, strict=True):
        named.update(zip(each.nodes, known, strict=True))
    join_paths(graph, in_eval.graph, True, named.__getitem__)
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


def join_paths(graph: fx.Graph, twin: fx.Graph, training: bool, site: Callable[[fx.Node], Any] | None = None) -> None:
    """Make ``graph``, which a network runs with this ``training`` flag, the graph of both modes; ``twin`` is the other.

    Nodes of both that stand at one place of the model's code (``site``) are one, and so are nodes that compute the same
    of the same. Where they are given a value that depends on the mode, :func:`by_mode` chooses it, and for ``training``
    itself, which is a constant in each graph, they read the module's own flag. The rest is marked with
    :data:`ONLY_IN`. All nodes stand in the order in which their mode runs them.
    """
    _Join(graph, twin, training, site or _place_in_the_code).run()


class _Differs(Exception):
    """Two nodes differ in more than what can be chosen by the mode."""


@dataclasses.dataclass(frozen=True)
class _Choice:
    """An argument that is another value in each mode: a node of the graph, and one of its twin. None is the flag."""

    ours: fx.Node | None = None
    theirs: fx.Node | None = None


class _Join:
    """See :func:`join_paths`."""

    def __init__(self, graph: fx.Graph, twin: fx.Graph, training: bool, site: Callable[[fx.Node], Any]) -> None:
        self._graph, self._twin, self._training = graph, twin, training
        self._nodes = [node for node in graph.nodes if node.op != "output"]
        self._copies: dict[fx.Node, fx.Node] = {}  # of the twin's nodes; those that both have are the graph's own
        self._chosen: dict[tuple[fx.Node, fx.Node], fx.Node] = {}
        self._fed = _fed(graph) | _fed(twin)
        theirs = [node for node in twin.nodes if node.op != "output"]
        self._pairs = _pairs(self._nodes, theirs, site)
        self._alike: dict[Any, list[int]] = collections.defaultdict(list)
        paired = set(self._pairs.values())
        for place, node in enumerate(self._nodes):
            if place not in paired:
                self._alike[node.op, node.target, *node.all_input_nodes].append(place)
        self._ends: dict[fx.Node, int] = {}  # nodes that are counterparts come before those of the nodes behind
        end = len(self._nodes)
        for node in reversed(theirs):
            self._ends[node] = end = self._pairs.get(node, end)

    def run(self) -> None:
        last, behind = -1, self._nodes[0]
        for theirs in self._twin.nodes:
            if theirs.op == "output":
                break
            place = self._merged(theirs, last)
            if place is None:
                with self._graph.inserting_after(behind):
                    behind = self._copies[theirs] = self._graph.node_copy(theirs, self._copies.__getitem__)
                behind.meta[ONLY_IN] = mode_of(not self._training)
            elif (ours := self._nodes[place]).op != "get_attr":
                last, behind = place, ours
            elif place > last:  # its users may come before the place that it has
                behind.append(ours)
                behind = ours
        for ours in set(self._nodes).difference(self._copies.values()):
            ours.meta[ONLY_IN] = mode_of(self._training)
        self._join_outputs()
        self._sort()

    def _sort(self) -> None:
        """Where one mode alone runs what the other does not, and the other way round, train mode comes first: the names
        of groups, which are those of their first writers, do not depend on the mode that a model is in.
        """
        for apart, nodes in itertools.groupby(list(self._graph.nodes), lambda node: ONLY_IN in node.meta):
            if apart:
                first, *rest = sorted(nodes, key=lambda node: MODES.index(node.meta[ONLY_IN]))
                for node in rest:
                    first.append(node)
                    first = node

    def _merged(self, theirs: fx.Node, last: int) -> int | None:
        """The place of the node that is made one with ``theirs``."""
        if (place := self._pairs.get(theirs)) is not None:
            places = [place]
        else:
            places = self._alike[theirs.op, theirs.target, *(self._copies[node] for node in theirs.all_input_nodes)]
            if theirs.op != "get_attr":
                places = places[bisect.bisect(places, last) : bisect.bisect_left(places, self._ends[theirs])]
        for place in places:
            ours = self._nodes[place]
            with contextlib.suppress(_Differs):
                arguments = self._join(_arguments(ours), _arguments(theirs))
                if any(isinstance(leaf, _Choice) for leaf in leaves(arguments)):
                    if not _alike(ours.meta.get("val"), theirs.meta.get("val")):
                        continue
                    ours.args, ours.kwargs = map_aggregate(arguments, functools.partial(self._choose, user=ours))
                self._copies[theirs] = ours
                known = ours.meta.get("read_as_number", [])
                if new := [read for read in theirs.meta.get("read_as_number", ()) if read not in known]:
                    ours.meta["read_as_number"] = [*known, *new]
                return place
        return None

    def _join_outputs(self) -> None:
        output, other = self._graph.output_node(), self._twin.output_node()
        with contextlib.suppress(_Differs):
            arguments = self._join(_arguments(output), _arguments(other))
            if not any(isinstance(leaf, _Choice) for leaf in leaves(arguments)):
                return
        returned = output.args[0], map_arg(other.args[0], self._copies.__getitem__)
        output.args = (self._by_mode(*returned, output),)

    def _join(self, ours: Any, theirs: Any) -> Any:
        """The arguments of both nodes, a :class:`_Choice` where they differ. Raises where they may not."""
        if isinstance(ours, fx.Node) and isinstance(theirs, fx.Node):
            if self._copies[theirs] is ours:
                return ours
            if {ours, theirs} <= self._fed and _alike(ours.meta.get("val"), theirs.meta.get("val"), tensors=True):
                return _Choice(ours, theirs)
            raise _Differs
        if type(ours) is not type(theirs):
            raise _Differs
        if isinstance(ours, (tuple, list)):
            if len(ours) != len(theirs):
                raise _Differs
            items = [self._join(a, b) for a, b in zip(ours, theirs, strict=True)]
            if isinstance(ours, list):
                return items
            return type(ours)(*items) if hasattr(ours, "_fields") else tuple(items)
        if isinstance(ours, dict):
            if ours.keys() != theirs.keys():
                raise _Differs
            return {key: self._join(value, theirs[key]) for key, value in ours.items()}
        if isinstance(ours, slice):
            here, there = ((each.start, each.stop, each.step) for each in (ours, theirs))
            return slice(*self._join(here, there))
        if ours == theirs:
            return ours
        if ours is self._training:
            return _Choice()
        raise _Differs

    def _choose(self, argument: Any, user: fx.Node) -> Any:
        """The node that is ``argument`` in each mode, where that is a choice."""
        if not isinstance(argument, _Choice):
            return argument
        if argument.ours is None or argument.theirs is None:
            return self._flag
        key = argument.ours, self._copies[argument.theirs]
        if key not in self._chosen:
            self._chosen[key] = self._by_mode(*key, user)
            if "val" in argument.ours.meta:
                self._chosen[key].meta["val"] = argument.ours.meta["val"]
        return self._chosen[key]

    def _by_mode(self, ours: Any, theirs: Any, user: fx.Node) -> fx.Node:
        pair = (ours, theirs) if self._training else (theirs, ours)
        flag = self._flag
        with self._graph.inserting_before(user):
            chosen = self._graph.create_node("call_function", by_mode, (flag, *pair))
        chosen.meta.update({key: value for key, value in user.meta.items() if key not in _OF_ONE_NODE})
        return chosen

    @functools.cached_property
    def _flag(self) -> fx.Node:
        """The node that reads the mode, before all that use it."""
        first: fx.Node = next(node for node in self._graph.nodes if node.op != "placeholder")
        if (first.op, first.target) == ("get_attr", "training"):
            return first
        with self._graph.inserting_before(first):
            flag = self._graph.create_node("get_attr", "training")
        flag.meta.update(val=self._training, source="", scope="")
        return flag


_OF_ONE_NODE = ("read_as_number", ONLY_IN)


def _place_in_the_code(node: fx.Node) -> Any:
    """Where the model calls for a node: what both modes have there is one operator, whatever it is given."""
    if node.op in ("placeholder", "call_module"):
        return node.op, node.target
    return node.op, node.target, node.meta.get("scope"), node.meta.get("source")


def _pairs(ours: Sequence[fx.Node], theirs: Sequence[fx.Node], site: Callable[[fx.Node], Any]) -> dict[fx.Node, int]:
    """The places in ``ours`` of nodes at the same site, the n-th time that a mode comes there: as many as possible
    without any that cross. Reads of attributes have no place.
    """

    def numbered(nodes: Sequence[fx.Node]) -> Iterator[Any]:
        times: collections.Counter[Any] = collections.Counter()
        for node in nodes:
            if node.op == "get_attr":
                yield None
                continue
            here = site(node)
            times[here] += 1
            yield here, times[here]

    places = {here: place for place, here in enumerate(numbered(ours)) if here is not None}
    both = [(node, places[here]) for node, here in zip(theirs, numbered(theirs), strict=True) if here in places]
    # the longest increasing subsequence: the last place and pair of the best one of each length, the pair before each
    ends: list[int] = []
    heads: list[int] = []
    before: list[int] = []
    for number, (_, place) in enumerate(both):
        length = bisect.bisect_left(ends, place)
        before.append(heads[length - 1] if length else -1)
        ends[length : length + 1], heads[length : length + 1] = [place], [number]
    found: dict[fx.Node, int] = {}
    number = heads[-1] if heads else -1
    while number >= 0:
        found[both[number][0]] = both[number][1]
        number = before[number]
    return found


def _fed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that compute with what the network is given."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _arguments(node: fx.Node) -> Any:
    return node.args, dict(node.kwargs)


def _alike(ours: Any, theirs: Any, tensors: bool = False) -> bool:
    """Whether two values have the same shapes and types; ``tensors``: and are one tensor each."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return ours.shape == theirs.shape and ours.dtype == theirs.dtype
    if ours is None and theirs is None:  # a graph without values
        return True
    if tensors or type(ours) is not type(theirs):
        return False
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_alike(ours[key], theirs[key]) for key in ours)
    return bool(ours == theirs)
