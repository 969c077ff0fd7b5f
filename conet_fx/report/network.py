"""The labelled graph of the network that is searched, as plain records: ``graph.json`` in the run directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from conet_fx.errors import SearchError
from conet_fx.passes.info import ChannelInfo, Parts
from conet_fx.plan import ChannelPlan
from conet_fx.search.run_dir import RunDirectory

GRAPH = "graph.json"


@dataclasses.dataclass(frozen=True)
class Node:
    """A value of the graph: its ``name``, ``kind`` and ``operator`` as in ``plan.graph``, and its channels as runs of
    (group name or None, number of channels) at the sizes that were handed in.
    """

    name: str
    kind: str
    operator: str
    source: str
    parts: Parts

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the value carries, each once, in order."""
        return tuple(dict.fromkeys(group for group, _ in self.parts if group is not None))


@dataclasses.dataclass(frozen=True)
class Edge:
    """An operand (``tail``) of a value (``head``); ``kind`` is "conv" or "non_conv"."""

    tail: str
    head: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Network:
    """Nodes in the order in which they are computed, and the edges between them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @classmethod
    def of(cls, plan: ChannelPlan) -> Network:
        """The labelled graph of a plan."""
        channels = {node.name: node.meta["conet_fx"] for node in plan.trace.graph_module.graph.nodes}
        nodes = tuple(
            Node(name, data["kind"], data["operator"], data["source"], tuple(_parts(channels[name])))
            for name, data in plan.graph.nodes(data=True)
        )
        return cls(nodes, tuple(Edge(tail, head, data["kind"]) for tail, head, data in plan.graph.edges(data=True)))

    @classmethod
    def from_json(cls, text: str) -> Network:
        """The graph of one file. Raises ``ValueError``, ``KeyError`` or ``TypeError`` on anything else."""
        record: Mapping[str, Any] = json.loads(text)
        nodes = [Node(**{**item, "parts": tuple((name, count) for name, count in item["parts"])})
                 for item in record["nodes"]]  # fmt: skip
        network = cls(tuple(nodes), tuple(Edge(**item) for item in record["edges"]))
        known = {node.name for node in network.nodes}
        for edge in network.edges:
            if not known >= {edge.tail, edge.head}:
                raise ValueError(f"an edge leads from {edge.tail!r} to {edge.head!r}, and one of them is no node")
        return network

    def to_json(self) -> str:
        """The text of ``graph.json``."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n"


def save_network(run: RunDirectory, plan: ChannelPlan) -> None:
    """Write the graph of ``plan`` into a run directory that has none yet."""
    if not (run.path / GRAPH).exists():
        run.write(GRAPH, Network.of(plan).to_json())


def load_network(run: RunDirectory) -> Network | None:
    """The graph of a run, or None where an older version wrote it. Raises :class:`SearchError` for a damaged file."""
    path = run.path / GRAPH
    if not path.exists():
        return None
    try:
        return Network.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchError(
            f"{path} is damaged ({type(error).__name__}: {error}): remove it, and resuming the run writes it anew"
        ) from error


def _parts(info: ChannelInfo) -> Iterator[tuple[str | None, int]]:
    """The channels of a value; of a tuple those of its items, one after the other."""
    yield from info.parts
    for item in info.items:
        yield from _parts(item)
