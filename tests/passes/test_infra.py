"""The analysis as passes of torch.fx on a GraphModule that torch traced."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

import conet_fx
from conet_fx.errors import ConstraintError, ResizeError
from conet_fx.passes.infra import LabelPass, PropagatePass, ResizePass, ShapePass, groups_of
from tests.passes.battery import close
from tests.passes.cases import CASES, Case, conv, net

IMAGE = torch.randn(2, 3, 8, 8)


def small() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.a(x)))
        y = torch.cat([y, self.b(y)], 1)
        return self.out(y.view(y.size(0), -1, 64).mean(2))

    return net(forward, a=conv(3, 6), norm=nn.BatchNorm2d(6), b=conv(6, 4), out=nn.Linear(10, 5)).eval()


@pytest.fixture
def graph_module() -> fx.GraphModule:
    return fx.symbolic_trace(small())


def infos(graph_module: fx.GraphModule) -> dict[str, conet_fx.ChannelInfo]:
    return {node.name: node.meta["conet_fx"] for node in graph_module.graph.nodes}


# --- one by one ------------------------------------------------------------------------------------------------------


def test_shapes(graph_module: fx.GraphModule) -> None:
    result = ShapePass(IMAGE)(graph_module)
    assert result == PassResult(graph_module, False)
    shapes = {n.name: n.meta["val"] for n in graph_module.graph.nodes if n.op != "output"}
    assert tuple(shapes["cat"].shape) == (2, 10, 8, 8)
    assert shapes["size"] == 2
    assert shapes["cat"].is_meta


def test_labels(graph_module: fx.GraphModule) -> None:
    assert LabelPass(IMAGE)(graph_module) == PassResult(graph_module, False)
    plan = conet_fx.analyze(small(), IMAGE)
    kinds = dict(plan.graph.nodes(data="kind"))
    labelled = infos(graph_module)
    assert {name: labelled[name].kind for name in kinds} == kinds
    for _, head, data in plan.graph.edges(data=True):
        assert labelled[head].edge == data["kind"]
    assert all(info.parts == () and info.dims == () for info in labelled.values())


def test_groups_are_those_of_analyze(graph_module: fx.GraphModule) -> None:
    code = graph_module.code
    assert PropagatePass(IMAGE)(graph_module) == PassResult(graph_module, False)
    plan = conet_fx.analyze(small(), IMAGE)
    assert groups_of(graph_module) == plan.groups == groups_of(plan.trace.graph_module)
    assert infos(graph_module) == infos(plan.trace.graph_module)
    assert graph_module.code == code


def test_channels_of_each_node(graph_module: fx.GraphModule) -> None:
    PropagatePass(IMAGE)(graph_module)
    info = infos(graph_module)
    assert info["x"] == conet_fx.ChannelInfo(
        "input", "non_conv", dims=(((None, 2),), ((None, 3),), ((None, 8),), ((None, 8),))
    )
    assert (info["cat"].kind, info["cat"].axis, info["cat"].parts) == ("concatenation", 1, (("a", 6), ("b", 4)))
    assert info["cat"].groups == ("a", "b")
    assert info["cat"].frozen is None
    assert (info["b"].edge, info["norm"].edge) == ("conv", "non_conv")
    assert (info["size"].axis, info["size"].parts) == (None, ((None, 2),))
    assert info["mean"].dims == (((None, 2),), (("a", 6), ("b", 4)))
    assert info["out"].frozen == "channels of the network's output"


def test_resize(graph_module: fx.GraphModule) -> None:
    PropagatePass(IMAGE)(graph_module)
    before = copy.deepcopy(graph_module)
    result = ResizePass({"a": 9}, init="inherit")(graph_module)
    assert result.modified
    resized = result.graph_module
    assert infos(resized)["cat"].parts == (("a", 9), ("b", 4))
    assert tuple(next(n for n in resized.graph.nodes if n.name == "cat").meta["val"].shape) == (2, 13, 8, 8)
    assert resized.meta["conet_fx"]["kept"]["a", "out"].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1]
    close(resized, graph_module, IMAGE)
    assert infos(graph_module) == infos(before)
    assert graph_module.get_submodule("a").out_channels == 6
    assert not ResizePass({})(resized).modified


def test_resize_alone(graph_module: fx.GraphModule) -> None:
    resized = ResizePass({"b": 8}, example_inputs=IMAGE)(graph_module).graph_module
    assert resized.get_submodule("b").out_channels == 8


def test_options(graph_module: fx.GraphModule) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.c(x) + torch.cat([self.a(x), self.b(x)], 1))

    model = net(forward, a=conv(3, 6), b=conv(3, 4), c=conv(3, 10), out=conv(10, 5))
    manager = PassManager([PropagatePass(IMAGE, tie_concat=True), ResizePass({"c": 5})])
    resized = manager(fx.symbolic_trace(model)).graph_module
    assert [(group.name, group.size) for group in groups_of(resized)] == [("c", 5), ("out", 5)]
    assert resized.meta["conet_fx"]["options"].tie_concat
    with pytest.raises(ConstraintError, match="special_i1"):
        PropagatePass(IMAGE, strict=True)(fx.symbolic_trace(nn.Sequential(conv(3, 4), Odd())))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1(x)


# --- together --------------------------------------------------------------------------------------------------------


def double(groups: tuple[conet_fx.ChannelGroup, ...]) -> dict[str, int]:
    return {group.name: 2 * group.size for group in groups if group.frozen is None}


def test_in_a_pass_manager(graph_module: fx.GraphModule) -> None:
    passes = [ShapePass(IMAGE), LabelPass(), PropagatePass(), ResizePass(double, init="inherit")]
    result = PassManager(passes, run_checks_after_each_pass=True)(graph_module)
    assert result.modified
    assert {g.name: g.size for g in groups_of(result.graph_module)} == {"a": 12, "b": 8, "out": 5}
    close(result.graph_module, graph_module, IMAGE)
    again = PassManager([ResizePass(double)] * 2)(result.graph_module).graph_module
    assert {g.name: g.size for g in groups_of(again)} == {"a": 48, "b": 32, "out": 5}


def test_with_fake_tensors_of_torch(graph_module: fx.GraphModule) -> None:
    FakeTensorProp(graph_module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(IMAGE)
    resized = PassManager([PropagatePass(), ResizePass({"a": 4})])(graph_module).graph_module
    assert resized(IMAGE).shape == (2, 5)
    assert all(isinstance(n.meta["val"], FakeTensor) for n in graph_module.graph.nodes if n.op == "call_module")


def test_another_pass_between(graph_module: fx.GraphModule) -> None:
    class Relu6(PassBase):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.find_nodes(op="call_function", target=F.relu):
                node.target = F.relu6
                node.kwargs = {}
            graph_module.recompile()
            return PassResult(graph_module, True)

    class Unknown(PassBase):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            for node in graph_module.graph.find_nodes(op="call_function", target=F.relu6):
                node.target = torch.special.i1
            return PassResult(graph_module, True)

    resized = PassManager([PropagatePass(IMAGE), Relu6(), ResizePass({"a": 3})])(graph_module).graph_module
    assert "relu6" in resized.code
    with pytest.raises(Exception, match="when running the 'ResizePass' pass") as caught:
        PassManager([PropagatePass(IMAGE), Unknown(), ResizePass({"a": 3})])(graph_module)
    assert "the graph was changed after its analysis: run PropagatePass once more" in str(caught.value.__cause__)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.free) > 1][::2], ids=lambda case: case.name)
def test_the_catalogue(case: Case) -> None:
    """What torch's own tracer can follow has the same groups under both tracers."""
    torch.manual_seed(0)
    model = case.build().eval()
    plan = conet_fx.analyze(model, case.inputs(), **case.options)
    try:
        traced = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, SyntaxError) as error:
        pytest.skip(f"torch's own tracer cannot follow it: {error}")
    PropagatePass(case.inputs(), **case.options)(traced)
    found = {g.name: (g.size, g.quantum) for g in groups_of(traced) if g.frozen is None}
    expected = {g.name: (g.size, g.quantum) for g in plan.free}
    if layers(traced) == layers(plan.trace.graph_module):
        assert found == expected
        assert [g.name for g in groups_of(traced)] == [g.name for g in plan.groups]
    else:  # torch does not look into parametrized layers, for instance: those stay
        assert found.items() <= expected.items()
    resized = ResizePass(double)(traced).graph_module
    assert double(groups_of(traced)).items() <= {g.name: g.size for g in groups_of(resized)}.items()
    resized(*case.inputs())


def layers(graph_module: fx.GraphModule) -> set[str]:
    """The modules that a graph calls."""
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_a_pass_requires(graph_module: fx.GraphModule) -> None:
    for early in (LabelPass(), PropagatePass()):
        with pytest.raises(ConstraintError, match=r"input x has no meta\['val'\]: give the pass example_inputs"):
            early(graph_module)
    with pytest.raises(ConstraintError, match=r"not analysed: run PropagatePass\(example_inputs\) before"):
        ResizePass({"a": 3})(graph_module)
    LabelPass(IMAGE)(graph_module)
    with pytest.raises(ConstraintError, match="not analysed"):
        groups_of(graph_module)
    with pytest.raises(TypeError, match=r"takes a torch.fx.GraphModule, not Net: symbolic_trace it"):
        PropagatePass(IMAGE)(small())  # type: ignore[arg-type]
    PropagatePass(IMAGE)(graph_module)
    with pytest.raises(ResizeError, match="no channel group 'aa'; did you mean 'a'"):
        ResizePass({"aa": 3})(graph_module)
    output = graph_module.graph.output_node()
    with graph_module.graph.inserting_before(output):
        node = graph_module.graph.call_function(torch.neg, (output.args[0],))
    output.args = (node,)
    with pytest.raises(ConstraintError, match="node neg came after the analysis"):
        ResizePass({"a": 3})(graph_module)
    PropagatePass()(graph_module)  # the shape of the new node is found from the others
    assert ResizePass({"a": 3})(graph_module).graph_module(IMAGE).shape == (2, 5)


def test_inputs_that_do_not_fit(graph_module: fx.GraphModule) -> None:
    with pytest.raises(TypeError, match="the graph takes x, but example_inputs are 2"):
        PropagatePass((IMAGE, IMAGE))(graph_module)
    with pytest.raises(TypeError, match=r"has no inputs .'y'.; it has x"):
        PropagatePass({"x": IMAGE, "y": IMAGE})(graph_module)
    with pytest.raises(TypeError, match="example_inputs lack x"):
        PropagatePass({})(graph_module)
    with pytest.raises(RuntimeError, match="channels") as caught:
        PropagatePass(torch.randn(2, 4, 8, 8))(graph_module)
    assert caught.value.__notes__ == ["while running a without data"]


def test_keyword_inputs_and_defaults() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 6)
            self.out = conv(6, 5)

        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            return self.out(self.a(x) * scale)

    for inputs in ({"x": IMAGE}, {"x": IMAGE, "scale": 3.0}, IMAGE, (IMAGE, 3.0)):
        resized = ResizePass({"a": 4}, example_inputs=inputs)(fx.symbolic_trace(Net())).graph_module
        assert resized(IMAGE).shape == (2, 5, 8, 8)


def test_a_stack_trace_tells_the_line() -> None:
    class Recording(fx.Tracer):
        record_stack_traces = True

    model = nn.Sequential(conv(3, 4), Odd(), conv(4, 2))
    graph_module = fx.GraphModule(model, Recording().trace(model))
    PropagatePass(IMAGE)(graph_module)
    assert "test_infra.py:" in str(groups_of(graph_module)[0].frozen)
