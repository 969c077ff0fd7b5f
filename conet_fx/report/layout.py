"""Where the nodes of a drawing go: columns from input to output, few crossings, straight lines (Sugiyama's method).

Values that only pass on the channels of their one operand (norms, activations, pools) are drawn with it as one box.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import networkx
import numpy as np
from sklearn.isotonic import isotonic_regression

from conet_fx.report.network import Network, Node

N = TypeVar("N", bound=Hashable)
Spot = tuple[str, int]  # a box or what leads away from it, by the name of the box; the column

COLUMN = 48  # units between columns
BOX, LANE = 52.0, 7.0  # units that a box and a line that passes by need in a column
_SWEEPS = 6  # there and back; more change nothing on networks of torchvision
_STRAIGHT = 4.0  # how much rather a passing line is kept straight than a box


@dataclasses.dataclass(frozen=True)
class Box:
    """One box: the nodes in it, and its centre."""

    nodes: tuple[Node, ...]
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Wire:
    """A piece of one or more edges: from (``x``, ``y``) to the next column, at height ``end``.

    ``conv``: all these edges may change the depth.
    """

    x: int
    y: int
    end: int
    conv: bool


@dataclasses.dataclass(frozen=True)
class Drawing:
    """All boxes, and the wires that join their centres; coordinates start at 0."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    width: int
    height: int


def layout(network: Network) -> Drawing:
    """Places for everything in ``network``; the same graph gives the same drawing."""
    graph, members = contract(network)
    columns = _columns(graph)
    lanes = _with_lanes(graph, columns)
    heights = _heights(lanes, _rows(lanes))
    low = min(heights.values(), default=0.0)
    places = {spot: (spot[1] * COLUMN, round(height - low)) for spot, height in heights.items()}
    boxes = tuple(Box(members[name], *places[name, columns[name]]) for name in graph)
    wires = (
        Wire(*places[tail], places[head][1], all(graph.edges[edge]["conv"] for edge in data["edges"]))
        for tail, head, data in lanes.edges(data=True)
    )
    width, height = (max((place[axis] for place in places.values()), default=0) for axis in (0, 1))
    return Drawing(boxes, tuple(wires), width, height)


def contract(network: Network) -> tuple[networkx.DiGraph[str], dict[str, tuple[Node, ...]]]:
    """The graph of boxes, each under the name of its first node, and the nodes in each.

    A node joins the box of its one operand where the edge keeps the depth, nothing else reads the operand, and both
    carry the same groups.
    """
    nodes = {node.name: node for node in network.nodes}
    operands: dict[str, set[str]] = {name: set() for name in nodes}
    readers: dict[str, set[str]] = {name: set() for name in nodes}
    conv: dict[tuple[str, str], bool] = {}
    for edge in network.edges:
        operands[edge.head].add(edge.tail)
        readers[edge.tail].add(edge.head)
        conv[edge.tail, edge.head] = conv.get((edge.tail, edge.head), False) or edge.kind == "conv"
    first: dict[str, str] = {}
    members: dict[str, list[Node]] = {}
    for name, node in nodes.items():
        (operand,) = operands[name] if len(operands[name]) == 1 else (None,)
        joins = (
            operand is not None
            and node.kind == "single"
            and not conv[operand, name]
            and len(readers[operand]) == 1
            and nodes[operand].kind != "input"
            and nodes[operand].groups == node.groups
        )
        first[name] = first[operand] if joins and operand is not None else name
        members.setdefault(first[name], []).append(node)
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(members)
    for (tail, head), kind in conv.items():
        if first[tail] != first[head]:
            graph.add_edge(first[tail], first[head], conv=kind)
    return graph, {name: tuple(group) for name, group in members.items()}


def _columns(graph: networkx.DiGraph[str]) -> dict[str, int]:
    """The longest way from an input; what has no operand stands right before its first reader."""
    columns: dict[str, int] = {}
    order = list(networkx.topological_sort(graph))
    for name in order:
        columns[name] = max((columns[operand] + 1 for operand in graph.predecessors(name)), default=0)
    for name in order:
        if not graph.in_degree(name) and graph.out_degree(name):
            columns[name] = min(columns[reader] for reader in graph.successors(name)) - 1
    return columns


def _with_lanes(graph: networkx.DiGraph[str], columns: Mapping[str, int]) -> networkx.DiGraph[Spot]:
    """The graph with a node in every column that an edge passes, so that all edges join neighbouring columns.

    Edges from one box share their way until they part; each piece has the ``edges`` that it is of.
    """
    lanes: networkx.DiGraph[Spot] = networkx.DiGraph()
    for name in graph:
        lanes.add_node((name, columns[name]), column=columns[name], room=BOX)
    for tail, head in graph.edges:
        passed = [(tail, column) for column in range(columns[tail] + 1, columns[head])]
        lanes.add_nodes_from((spot, {"column": spot[1], "room": LANE}) for spot in passed)
        for before, after in itertools.pairwise([(tail, columns[tail]), *passed, (head, columns[head])]):
            lanes.add_edge(before, after)
            lanes.edges[before, after].setdefault("edges", []).append((tail, head))
    return lanes


def _rows(lanes: networkx.DiGraph[N]) -> list[list[N]]:
    """The nodes of each column from top to bottom, sorted again and again by where their neighbours stand."""
    rows: list[list[N]] = [[] for _ in {data["column"] for _, data in lanes.nodes(data=True)}]
    for name in networkx.topological_sort(lanes):
        rows[lanes.nodes[name]["column"]].append(name)
    place = {name: float(i) for row in rows for i, name in enumerate(row)}
    for sweep in range(2 * _SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            wanted = {
                name: _mean([place[other] for other in (lanes.pred if forward else lanes.succ)[name]], place[name])
                for name in row
            }
            row.sort(key=wanted.__getitem__)
            place.update((name, float(i)) for i, name in enumerate(row))
    return rows


def _heights(lanes: networkx.DiGraph[N], rows: Sequence[Sequence[N]]) -> dict[N, float]:
    """The y of each node: as near to the mean of its neighbours as the room of the others in its column allows."""
    room = {name: data["room"] for name, data in lanes.nodes(data=True)}
    offsets = []
    for row in rows:
        gaps = [(room[above] + room[below]) / 2 for above, below in itertools.pairwise(row)]
        offset = np.concatenate([[0.0], np.cumsum(gaps)]) if row else np.zeros(0)
        offsets.append(offset - (offset[-1] / 2 if row else 0))
    heights = {
        name: float(y) for row, offset in zip(rows, offsets, strict=True) for name, y in zip(row, offset, strict=True)
    }
    weights = {name: 1.0 if room[name] == BOX else _STRAIGHT for name in heights}
    pairs = [(row, offset) for row, offset in zip(rows, offsets, strict=True) if row]
    for sweep in range(2 * _SWEEPS):
        for row, offset in reversed(pairs) if sweep % 2 else pairs:
            near = {name: [*lanes.pred[name], *lanes.succ[name]] for name in row}
            wanted = np.array([_mean([heights[other] for other in near[name]], heights[name]) for name in row])
            fitted = isotonic_regression(wanted - offset, sample_weight=np.array([weights[name] for name in row]))
            heights.update(zip(row, (float(y) for y in fitted + offset), strict=True))
    return heights


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
