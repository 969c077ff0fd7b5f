"""The graph in the run directory, and where a drawing of it puts everything."""

from __future__ import annotations

import itertools
from pathlib import Path

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import conet_fx
from conet_fx.errors import SearchError
from conet_fx.report.layout import BOX, COLUMN, Drawing, contract, layout
from conet_fx.report.network import GRAPH, Edge, Network, Node, load_network, save_network
from conet_fx.search.run_dir import RunDirectory
from tests.tiny import TinyNet


@pytest.fixture(scope="module")
def plan() -> conet_fx.ChannelPlan:
    return conet_fx.analyze(TinyNet(), torch.zeros(2, 1, 6, 6))


def test_records_are_those_of_the_plan(plan: conet_fx.ChannelPlan) -> None:
    network = Network.of(plan)
    assert [node.name for node in network.nodes] == list(plan.graph)
    assert {node.kind for node in network.nodes} == {"input", "single", "summation", "output"}
    assert len(network.edges) == plan.graph.number_of_edges()
    assert {node.name: node.groups for node in network.nodes}["b"] == ("b",)
    assert next(node for node in network.nodes if node.name == "a").parts == (("a", 8),)
    assert Network.from_json(network.to_json()) == network


def test_parts_of_a_tuple_are_told() -> None:
    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(1, 8, 1), torch.nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.a(x).chunk(2, 1)
            return self.b(first * second)

    network = Network.of(conet_fx.analyze(Halves(), torch.zeros(1, 1, 2, 2)))
    assert next(node for node in network.nodes if node.operator == "chunk").parts == (("a", 4), ("a", 4))
    layout(network)


def test_a_run_keeps_the_graph_that_it_began_with(plan: conet_fx.ChannelPlan, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert load_network(run) is None, "a run of an older version"
    save_network(run, plan)
    assert load_network(run) == Network.of(plan)
    (tmp_path / GRAPH).write_text('{"nodes":[],"edges":[]}')
    save_network(run, plan)
    assert load_network(run) == Network((), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"nodes":[]}',
        '{"nodes":[{}],"edges":[]}',
        '{"nodes":[],"edges":[{"tail":"a","head":"b","kind":"conv"}]}',
    ],
)
def test_a_damaged_file_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_text(text)
    with pytest.raises(SearchError, match=r"graph\.json is damaged .* remove it"):
        load_network(RunDirectory(tmp_path))


def test_norms_and_activations_join_the_layer_before_them(plan: conet_fx.ChannelPlan) -> None:
    graph, members = contract(Network.of(plan))
    assert [[node.operator for node in nodes] for nodes in members.values()] == [
        ["x"],
        ["a", "relu"],
        ["b", "relu"],
        ["c"],
        ["add", "norm", "relu", "mean"],
        ["head"],
        ["output"],
    ]
    assert [(tail, head) for tail, head, conv in graph.edges(data="conv") if not conv] == [
        ("a", "add"),
        ("c", "add"),
        ("head", "output"),
    ]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Graphs in which each node reads some of those before it."""
    count = draw(st.integers(1, 25))
    nodes, edges = [], []
    for index in range(count):
        operands = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        kind = "input" if not operands else "summation" if len(operands) > 1 else "single"
        groups = draw(st.lists(st.sampled_from(["a", "b", None]), max_size=2))
        nodes.append(Node(f"n{index}", kind, f"op{index}", "", tuple((group, 4) for group in groups)))
        edges += [
            Edge(f"n{operand}", f"n{index}", draw(st.sampled_from(["conv", "non_conv"])))
            for operand in sorted(operands)
            for _ in range(draw(st.integers(1, 2)))
        ]
    return Network(tuple(nodes), tuple(edges))


@given(networks())
def test_every_value_has_its_place(network: Network) -> None:
    drawing = layout(network)
    drawn = [node.name for box in drawing.boxes for node in box.nodes]
    assert sorted(drawn) == sorted(node.name for node in network.nodes)
    home = {node.name: i for i, box in enumerate(drawing.boxes) for node in box.nodes}
    ways: networkx.DiGraph[tuple[int, int]] = networkx.DiGraph()
    ways.add_nodes_from((box.x, box.y) for box in drawing.boxes)
    ways.add_edges_from(((wire.x, wire.y), (wire.x + COLUMN, wire.end)) for wire in drawing.wires)
    for edge in network.edges:
        tail, head = (drawing.boxes[home[name]] for name in (edge.tail, edge.head))
        assert networkx.has_path(ways, (tail.x, tail.y), (head.x, head.y))
        assert tail == head or tail.x < head.x, "from left to right"
    inside(drawing)
    apart(drawing)
    assert layout(network) == drawing


def inside(drawing: Drawing) -> None:
    spots = [(box.x, box.y) for box in drawing.boxes]
    spots += [spot for wire in drawing.wires for spot in ((wire.x, wire.y), (wire.x + COLUMN, wire.end))]
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in spots)


def apart(drawing: Drawing) -> None:
    columns: dict[int, list[int]] = {}
    for box in drawing.boxes:
        assert box.x % COLUMN == 0
        columns.setdefault(box.x, []).append(box.y)
    for heights in columns.values():
        for above, below in itertools.pairwise(sorted(heights)):
            assert below - above >= BOX - 1, "rounded"


def test_a_chain_is_straight_and_lines_pass_beside_boxes() -> None:
    names = ["x", "a", "b", "c", "sum"]
    nodes = tuple(Node(name, "summation" if name == "sum" else "single", name, "", ((name, 4),)) for name in names)
    edges = [Edge(tail, head, "conv") for tail, head in itertools.pairwise(names)]
    straight = layout(Network(nodes, tuple(edges)))
    assert {box.y for box in straight.boxes} == {0}
    assert {(wire.y, wire.end) for wire in straight.wires} == {(0, 0)}
    drawing = layout(Network(nodes, (*edges, Edge("a", "sum", "non_conv"))))
    beside = [wire for wire in drawing.wires if not wire.conv]
    assert len(beside) == 3, "from column 1 to column 4"
    heights = {box.x: box.y for box in drawing.boxes}
    for wire in beside[:-1]:
        assert abs(wire.end - heights[wire.x + COLUMN]) >= 29, "half a box away and more"


def test_edges_of_one_value_share_their_way() -> None:
    names = ["x", "a", "b", "c", "d"]
    nodes = tuple(Node(name, "summation", name, "", ((name, 4),)) for name in names)
    chain = [Edge(tail, head, "conv") for tail, head in itertools.pairwise(names)]
    skips = [Edge("x", head, "non_conv") for head in ("b", "c", "d")]
    drawing = layout(Network(nodes, (*chain, *skips)))
    assert len(drawing.wires) == len(chain) + 2 * len(skips), "one way along, and a turning to each"


def test_nothing_at_all() -> None:
    assert layout(Network((), ())) == Drawing((), (), 0, 0)
