"""Labels of the DAG (paper, section 4.1): conv and non-conv edges, summation and concatenation nodes."""

from __future__ import annotations

from collections import Counter

import networkx
import torch
import torchvision
from torch import Tensor, nn

import conet_fx
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


def graph_of(model: nn.Module, size: int = 8) -> networkx.MultiDiGraph[str]:
    return conet_fx.analyze(model, torch.randn(2, 3, size, size)).graph


def kinds(graph: networkx.MultiDiGraph[str]) -> dict[str, str]:
    return {name: data["kind"] for name, data in graph.nodes(data=True)}


def edges(graph: networkx.MultiDiGraph[str]) -> dict[tuple[str, str], str]:
    return {(tail, head): data["kind"] for tail, head, data in graph.edges(data=True)}


def test_a_chain() -> None:
    graph = graph_of(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)))
    assert kinds(graph) == {"input_1": "input", "_0": "single", "_1": "single", "_2": "single", "output": "output"}
    assert edges(graph) == {
        ("input_1", "_0"): "conv",
        ("_0", "_1"): "non_conv",
        ("_1", "_2"): "conv",
        ("_2", "output"): "non_conv",
    }


def test_every_kind_of_convolution() -> None:
    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.dense(x)))
        return self.linear(self.transposed(x).mean((2, 3)))

    model = net(
        forward,
        dense=conv(3, 8),
        depthwise=conv(8, 8, 3, groups=8),
        grouped=conv(8, 8, groups=2),
        transposed=nn.ConvTranspose2d(8, 4, 2, 2),
        linear=nn.Linear(4, 5),
    )
    into = {head: kind for (_, head), kind in edges(graph_of(model)).items()}
    assert into == {
        "dense": "conv",
        "depthwise": "non_conv",
        "grouped": "conv",
        "transposed": "conv",
        "mean": "non_conv",
        "linear": "conv",
        "output": "non_conv",
    }


def test_where_edges_meet() -> None:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        both = torch.cat([x, self.b(x)], 1)
        twice = both + both
        return self.out(twice * 2 + 1)

    graph = graph_of(net(forward, a=conv(3, 4), b=conv(4, 4), out=conv(8, 5)))
    found = kinds(graph)
    assert found["cat"] == "concatenation"
    assert found["add"] == "summation"
    assert found["mul"] == "single"
    assert found["add_1"] == "single"
    assert graph.number_of_edges("both", "add") == 0
    assert graph.number_of_edges("cat", "add") >= 1


def test_cat_of_one_value_with_itself_is_a_concatenation() -> None:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(torch.cat([x, x], 1))

    assert kinds(graph_of(net(forward, a=conv(3, 4), out=conv(8, 5))))["cat"] == "concatenation"


def test_nodes_name_operator_and_line() -> None:
    graph = graph_of(nn.Sequential(conv(3, 4), nn.ReLU()))
    assert graph.nodes["_0"]["operator"] == "0"
    assert graph.nodes["input_1"]["source"]
    assert all(data["operator"] for _, _, data in graph.edges(data=True))


def test_sizes_are_no_values() -> None:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(x.view(x.size(0), x.shape[1], -1).mean(2))

    graph = graph_of(net(forward, a=conv(3, 4), out=nn.Linear(4, 5)))
    assert set(graph) == {"x", "a", "view", "mean", "out", "output"}


def test_resnet18() -> None:
    """17 convolutions of 3x3 and 7x7, 3 shortcuts and the classifier; one summation a block; a DAG."""
    graph = graph_of(torchvision.models.resnet18(weights=None), 64)
    assert networkx.is_directed_acyclic_graph(graph)
    assert Counter(data["kind"] for _, _, data in graph.edges(data=True))["conv"] == 17 + 3 + 1
    counted = Counter(kinds(graph).values())
    assert counted["summation"] == 8
    assert counted["concatenation"] == 0
    assert (counted["input"], counted["output"]) == (1, 1)


def test_densenet121_concatenations() -> None:
    """58 layers, the 57 with more than one feature read a concatenation, and so do 4 transitions and the last norm."""
    graph = graph_of(torchvision.models.densenet121(weights=None), 64)
    found = Counter(kinds(graph).values())
    assert found["concatenation"] == 58 - 4 + 4
    assert found["summation"] == 0
