"""The graphs that a network runs in train and in eval mode as one (:mod:`conet_fx.passes.paths`)."""

from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate, map_arg

from conet_fx.passes.nodes import leaves
from conet_fx.passes.paths import MODES, ONLY_IN, by_mode, mode_of


def join_paths(
    graph: fx.Graph,
    twin: fx.Graph,
    training: bool,
    owns: Callable[[fx.Node], bool],
    site: Callable[[fx.Node], Any] | None = None,
) -> None:
    """Make ``graph``, which a network runs with this ``training`` flag, the graph of both modes; ``twin`` is the other.

    Nodes of both that stand at one place of the model's code (``site``) are one, and so are nodes that compute the same
    of the same. Where they are given a value that depends on the mode, :func:`by_mode` chooses it, and for ``training``
    itself, which is a constant in each graph, they read the module's own flag. The rest is marked with
    :data:`ONLY_IN`. All nodes stand in the order in which their mode runs them.

    ``owns`` tells that the module which a node calls has parameters or buffers. An operator without such stays apart
    where what it computes goes separate ways: channels that never come together need not be as many.
    """
    _Join(graph, twin, training, site or _place_in_the_code).run()
    _part(graph, owns)
    _sort(graph)


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


def _part(graph: fx.Graph, owns: Callable[[fx.Node], bool]) -> None:
    """Give each mode an operator of its own where one for both is of no use: no layer with parameters stands between it
    and a choice by the mode, which would have the channels of both anyway, and what uses it is of one mode.
    """
    fed = _fed(graph)
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target is by_mode:
            after.add(node)
        elif not after.isdisjoint(node.all_input_nodes):
            has_parameters = owns(node) if node.op == "call_module" else not fed.issuperset(_operands(node))
            if not has_parameters:
                after.add(node)
    for node in reversed(graph.nodes):
        mine = node in after and node.target is not by_mode and node.op != "output" and ONLY_IN not in node.meta
        if mine and node.users and not any(_runs_in_both(user, node) for user in node.users):
            _part_one(graph, node)


def _operands(node: fx.Node) -> list[fx.Node]:
    """What a node computes with, but for the flag."""
    return [operand for operand in node.all_input_nodes if (operand.op, operand.target) != ("get_attr", "training")]


def _runs_in_both(user: fx.Node, node: fx.Node) -> bool:
    """Whether ``user`` takes ``node`` in both modes."""
    if user.target is by_mode:
        return all(node in leaves(value) for value in user.args[1:])
    return ONLY_IN not in user.meta


def _part_one(graph: fx.Graph, node: fx.Node) -> None:
    """Put a copy for each mode in place of ``node``, on what the choices before it give in that mode."""
    choices = [operand for operand in node.all_input_nodes if operand.target is by_mode]
    for mode, arm in zip(MODES, (1, 2), strict=True):

        def chosen(operand: fx.Node, arm: int = arm) -> Any:
            return operand.args[arm] if operand in choices else operand

        with graph.inserting_before(node):
            own = graph.node_copy(node, chosen)
        own.meta[ONLY_IN] = mode
        for user in list(node.users):
            if user.target is by_mode:
                user.update_arg(arm, map_arg(user.args[arm], functools.partial(_replaced, old=node, new=own)))
            elif user.meta[ONLY_IN] == mode:
                user.replace_input_with(node, own)
    graph.erase_node(node)
    for choice in choices:
        if not choice.users:
            graph.erase_node(choice)


def _replaced(node: fx.Node, old: fx.Node, new: fx.Node) -> fx.Node:
    return new if node is old else node


def _sort(graph: fx.Graph) -> None:
    """Where one mode alone runs what the other does not, and the other way round, train mode comes first: the names
    of groups, which are those of their first writers, do not depend on the mode that a model is in.
    """
    for apart, nodes in itertools.groupby(list(graph.nodes), lambda node: ONLY_IN in node.meta):
        if apart:
            first, *rest = sorted(nodes, key=lambda node: MODES.index(node.meta[ONLY_IN]))
            for node in rest:
                first.append(node)
                first = node


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
    if dataclasses.is_dataclass(ours):
        return all(_alike(getattr(ours, field.name), getattr(theirs, field.name)) for field in dataclasses.fields(ours))
    return bool(ours == theirs) if isinstance(ours, (bool, int, float, complex, str)) else True
