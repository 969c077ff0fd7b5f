"""What the code of a model does with its parameters and its state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import TraceError
from conet_fx.passes.trace import trace
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


def penalty(self: Any, x: Tensor) -> Tensor:
    loss: Tensor = self.out(self.a(x)) + sum(p.pow(2).sum() for p in self.a.parameters()) * 1e-3
    return loss


def by_name(self: Any, x: Tensor) -> Any:
    return self.out(F.conv2d(x, dict(self.a.named_parameters())["weight"] * 0.5, padding=1))


def from_state(self: Any, x: Tensor) -> Any:
    state = self.a.state_dict()
    return self.out(F.conv2d(x, state["weight"], state["bias"], padding=1))


def buffers(self: Any, x: Tensor) -> Any:
    mean = next(self.norm.buffers())
    return (
        self.out(self.norm(self.a(x)) + dict(self.norm.named_buffers())["running_var"].view(1, -1, 1, 1)) + mean.sum()
    )


def as_vector(self: Any, x: Tensor) -> Any:
    return self.out(self.a(x)) + nn.utils.parameters_to_vector(self.out.parameters()).mean()


def of_all_layers(self: Any, x: Tensor) -> Any:
    return self.out(self.a(x)) * sum(m.weight.abs().mean() for m in self.modules() if isinstance(m, nn.Conv2d))


def called_with_others(self: Any, x: Tensor) -> Any:
    given = {name: 2.0 * parameter for name, parameter in self.a.named_parameters()}
    return self.out(torch.func.functional_call(self.a, given, (x,)))


FORWARDS = [penalty, by_name, from_state, buffers, as_vector, of_all_layers, called_with_others]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_parameters_are_values_of_the_graph(forward: Callable[..., Any]) -> None:
    model = net(forward, a=conv(3, 8, 3), norm=nn.BatchNorm2d(8), out=conv(8, 4))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.requires_grad_(False).copy_(torch.rand(tensor.shape))  # integers too
    parameters = {name: nn.Parameter for name, _ in model.named_parameters()}
    plan = conet_fx.analyze(model.eval(), IMAGE)
    assert {name: type(tensor) for name, tensor in model.named_parameters()} == parameters
    graph = plan.resize(plan.sizes, init="inherit").eval()
    assert torch.equal(graph(IMAGE), model(IMAGE))
    with torch.no_grad():
        for module in (graph, model):
            module.get_parameter("a.weight").add_(1.0)
    assert torch.equal(graph(IMAGE), model(IMAGE)), "the weight of the trace is in the graph"
    if plan.free:
        plan.resize({"a": 5})(IMAGE)


def test_type_and_device_follow_the_parameters() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        first = next(self.parameters())
        grid = torch.linspace(0, 1, x.shape[3], device=first.device, dtype=first.dtype)
        y: Tensor = self.out(self.a(x.to(next(self.a.parameters()).device, first.dtype)) + grid)
        return y.to(x.dtype)

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    plan = conet_fx.analyze(model, IMAGE)
    graph = plan.resize({"a": 5})
    assert graph(IMAGE).device == IMAGE.device
    assert graph.double()(IMAGE).dtype == torch.float32
    assert graph.to("meta")(IMAGE.to("meta")).is_meta
    same = plan.resize(plan.sizes, init="inherit")
    assert torch.equal(same(IMAGE), model(IMAGE))
    assert not [n for n in same.graph.nodes if n.op == "get_attr" and not n.users]


def test_what_python_alone_looks_at_leaves_nothing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        assert len(list(self.parameters())) == 4
        names = [name for name, _ in self.named_parameters() if name.endswith("weight")]
        assert names == ["a.weight", "out.weight"]
        y: Tensor = self.out(self.a(x))
        return y

    graph = trace(net(forward, a=conv(3, 8), out=conv(8, 4)), IMAGE).graph_module.graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def test_whether_a_tensor_needs_a_gradient_may_be_assigned() -> None:
    """A grid that forward makes and keeps (MONAI's warps); a penalty on gradients of the input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x.requires_grad = True
        grid = torch.stack([torch.arange(8)] * x.shape[0]).to(x)
        grid.requires_grad = False
        z: Tensor = self.out(self.a(x) + grid[:, None, :, None])
        return z

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    for network in (plan.resize({}, init="inherit"), plan.resize({"a": 11})):
        image = IMAGE.clone()
        network(image).sum().backward()
        assert image.grad is not None


@pytest.mark.parametrize("name", ["data", "grad", "requires_grad"])
def test_an_assignment_to_an_attribute_is_refused(name: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        setattr(y, name, y[:, :1])
        z: Tensor = self.out(y)
        return z

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    with pytest.raises(TraceError, match=rf"no graph can hold this assignment to \.{name} .*test_parameters.py:\d+"):
        trace(model, IMAGE, in_pieces=False)


@pytest.mark.parametrize("by_data", [True, False])
def test_a_momentum_encoder_follows_the_other(by_data: bool) -> None:
    """What MoCo does in its forward: the weights of one encoder are a moving average of those of another."""

    class Momentum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4))
            self.key = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)).requires_grad_(False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            q: Tensor = self.query(x)
            with torch.no_grad():
                for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                    if by_data:
                        key.data = key.data * 0.9 + query.data * 0.1
                    else:
                        key.mul_(0.9).add_(query, alpha=0.1)
                k: Tensor = self.key(x)
            return q, k

    torch.manual_seed(0)
    model = Momentum()
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.trace.pieces is None
    assert [(group.name, set(group.writers)) for group in plan.free] == [("query.0", {"query.0", "key.0"})]
    network = plan.resize({"query.0": 5})
    assert network.get_parameter("key.0.weight").shape == (5, 3, 1, 1)
    same = plan.resize(plan.sizes, init="inherit")
    for _ in range(2):
        for ours, theirs in zip(same(IMAGE), model(IMAGE), strict=True):
            assert torch.equal(ours, theirs)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    q, _ = network(IMAGE)
    q.sum().backward()
    for name in ("0.weight", "0.bias", "2.weight"):
        expected = before[f"key.{name}"] * 0.9 + before[f"query.{name}"] * 0.1
        torch.testing.assert_close(network.get_parameter(f"key.{name}"), expected)


def moving_mean(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    old = self.mean
    z = self.out(y * old.view(1, -1, 1, 1))
    self.mean = 0.9 * self.mean + 0.1 * y.detach().mean((0, 2, 3))
    self.steps = self.steps + 1
    return z + old.sum() + self.mean.sum()


def set_before_anything_is_read(self: Any, x: Tensor) -> Any:
    self.steps = x.detach().sum().round().long().expand(1).clone()
    return self.out(self.a(x)) + self.mean.sum()


def set_twice(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    for _ in range(2):
        self.mean = self.mean * 0.5 + y.detach().amax((0, 2, 3))
    return self.out(y)


@pytest.mark.parametrize("forward", [moving_mean, set_before_anything_is_read, set_twice], ids=lambda f: f.__name__)
def test_what_is_assigned_to_a_buffer_stays_there(forward: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    model.register_buffer("mean", torch.ones(8))
    model.register_buffer("steps", torch.zeros(1, dtype=torch.long))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = conet_fx.analyze(model, IMAGE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    same = plan.resize(plan.sizes, init="inherit")
    conet_fx.save(same, plan, tmp_path)
    for network in (same, conet_fx.load(tmp_path)):
        twin = copy.deepcopy(model)
        for _ in range(3):
            result = network(IMAGE)
            assert torch.equal(result, twin(IMAGE))
            result.sum().backward()
        assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in network.state_dict().items())
    small = plan.resize({"a": 5})
    for _ in range(2):
        small(IMAGE).sum().backward()
    assert small.get_buffer("mean").shape == (8 if forward is set_before_anything_is_read else 5,)


def test_a_buffer_that_comes_to_have_another_shape_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.sum((1, 2, 3))])
        y: Tensor = self.out(self.a(x))
        return y

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    model.register_buffer("seen", torch.zeros(0))
    with pytest.raises(TraceError, match="assigns a tensor of another shape or type to the buffer 'seen'"):
        trace(model, IMAGE, in_pieces=False)


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.arange(x.shape[2]).float().to(x.device)[:, None] * torch.ones(x.shape[3]),
        lambda x: (torch.arange(8).view(-1, 1) - torch.arange(8)).to(x).abs(),
        lambda x: x.new_zeros(x.shape[2:]) + torch.ones_like(x[0, 0]).cumsum(0),
    ],
    ids=["sizes", "to", "like"],
)
def test_a_table_that_a_buffer_remembers_is_made_anew(made: Callable[[Tensor], Tensor]) -> None:
    """As ConViT keeps the distances between its patches for images of one size."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.table.shape != x.shape[2:]:
            self.table = made(x)
        y: Tensor = self.out(self.a(x) + self.table)
        return y

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    model.register_buffer("table", torch.zeros(1))
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.trace.dropped == ("table, which the graph makes anew in each call",)
    assert "table, which the graph makes anew in each call" in plan.explain()
    network = plan.resize({}, init="inherit")
    assert torch.equal(network(IMAGE), model(IMAGE))
    assert torch.equal(network(IMAGE), model(IMAGE))
    assert plan.resize({"a": 5})(IMAGE).shape == model(IMAGE).shape


def test_a_number_that_changes_is_noted() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.a.calls += 1
        y: Tensor = self.out(self.a(x))
        return y

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    model.a.calls = 0  # type: ignore[union-attr,assignment]
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.trace.dropped == ("a.calls, which forward changes",)
    assert "a.calls, which forward changes" in plan.explain()
    assert model.a.calls == 0  # type: ignore[union-attr]


def test_state_that_no_graph_holds_is_noted() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        self.cache = self.plain = y.detach().mean((0, 2, 3))
        self.features = y
        z: Tensor = self.out(y)
        return z

    model = net(forward, a=conv(3, 8), out=conv(8, 4), plain=torch.zeros(8), features=None)
    model.register_buffer("cache", None)
    traced = trace(model, IMAGE)
    assert traced.dropped == ("cache, which forward sets", "plain, which forward changes")
    assert torch.equal(traced.graph_module(IMAGE), model(IMAGE))


def test_a_model_in_pieces_runs_its_own_code() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.calls = conv(3, 8), conv(8, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            y: Tensor = self.b(self.a(x))
            return y

    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Counting()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.part(x)
            return y if float(y.detach().sum()) > 0 else -y

    plan = conet_fx.analyze(Deciding(), IMAGE)
    assert plan.trace.pieces is not None
    assert not plan.trace.dropped
    network = plan.resize({"part.a": 5})
    network(IMAGE)
    assert network.get_submodule("part").calls == 1


def test_what_hides_its_parameters_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a._parameters["weight"] * 2.0
        y: Tensor = self.out(F.conv2d(x, hidden))
        return y

    model = net(forward, a=conv(3, 8), out=conv(8, 4))
    with pytest.raises(TraceError, match="computes with parameters that it has from a private attribute"):
        trace(model, IMAGE, in_pieces=False)


def test_a_model_without_memory_keeps_what_it_computes() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.a(x)) + self.plain
        return y

    model = net(forward, a=conv(3, 8), out=conv(8, 4), plain=torch.zeros(1)).to("meta")
    vars(model)["plain"] = torch.zeros(1, device="meta")
    assert trace(model, IMAGE.to("meta")).graph_module(IMAGE.to("meta")).is_meta
