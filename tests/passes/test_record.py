"""What torch.fx alone cannot follow: opaque submodules, models in pieces, no_grad, views in place, wrapped code."""

from __future__ import annotations

import functools
import types
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import conet_fx
from conet_fx.errors import ConstraintError, ResizeError, TraceError
from conet_fx.passes.shapes import Shapes
from conet_fx.passes.trace import trace
from conet_fx.probe import probed_layers
from tests.passes.battery import check_everything, gradients, outputs
from tests.passes.cases import conv, net
from tests.passes.test_trace import Double

IMAGE = torch.randn(2, 3, 8, 8)


def twice(x: Tensor) -> Tensor:
    return Double.apply(x)


def keeps_going(x: Tensor) -> Tensor:
    """A loop over data, which no graph can hold."""
    while bool((x.abs() > 10).any()):
        x = x / 2
    return x


def stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv(inputs, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), conv(6, outputs))


# --- opaque submodules -----------------------------------------------------------------------------------------------


def test_a_submodule_that_cannot_be_looked_into_is_one_call_and_freezes_what_it_touches() -> None:
    model = net(
        lambda self, x: self.out(self.odd(self.b(self.a(x)).relu())),
        a=conv(3, 5),
        b=conv(5, 6),
        odd=net(lambda self, x: self.c(twice(x)), c=conv(6, 7)),
        out=conv(7, 2),
    )
    plan = check_everything(model, IMAGE)
    assert plan.sizes == {"a": 5, "b": 6, "out": 2}
    assert plan.group("a").frozen is None
    assert "cannot be traced (Double is a torch.autograd.Function" in str(plan.group("b").frozen)
    assert "not followed: odd at" in plan.explain()
    with pytest.raises(ConstraintError, match=r"odd at .* cannot be traced"):
        conet_fx.analyze(model, IMAGE, strict=True)


def test_only_the_innermost_module_that_fails_is_opaque() -> None:
    odd = net(lambda self, x: twice(x))
    block = net(lambda self, x: self.b(self.odd(self.a(x))) + x, a=conv(4, 4), odd=odd, b=conv(4, 4))
    model = net(lambda self, x: self.out(self.block(self.c(x))), c=conv(3, 4), block=block, out=conv(4, 2))
    plan = check_everything(model, IMAGE)
    assert [group.name for group in plan.free] == ["c"]
    assert set(plan.group("c").writers) == {"c", "block.b"}


def test_an_error_of_the_user_is_still_the_error_of_its_line() -> None:
    block = net(lambda self, x: self.a(x), a=conv(5, 4))
    with pytest.raises(TraceError, match=r"block\.a at .*test_record\.py:\d+ failed on inputs of shape"):
        conet_fx.analyze(net(lambda self, x: self.block(x), block=block), IMAGE)


# --- pieces ----------------------------------------------------------------------------------------------------------


def pieces_model(**parts: Any) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(keeps_going(self.body(x)))

    return net(forward, body=stage(3, 4), head=stage(4, 2), **parts)


def test_a_root_that_cannot_be_traced_is_traced_in_pieces() -> None:
    model = pieces_model()
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.trace.pieces is not None
    assert plan.trace.pieces.paths == ("body", "head")
    assert {group.name: group.size for group in plan.free} == {"body.0": 6, "head.0": 6}
    assert "goes from a traced piece" in str(plan.group("body.3").frozen)
    assert "cannot be traced as a whole" in plan.explain()

    smaller = plan.resize({"body.0": 4, "head.0": 9})
    assert type(smaller) is type(model)
    assert sum(p.numel() for p in smaller.parameters()) == plan.cost({"body.0": 4, "head.0": 9}).params
    assert smaller.body[0].out_channels == smaller.body[3].in_channels == 4
    smaller(IMAGE).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())
    assert model.body[0].out_channels == 6


def test_pieces_with_weights_that_hooks_compute() -> None:
    with pytest.warns(FutureWarning):
        parts = nn.utils.weight_norm(conv(3, 8, 3)), nn.ReLU(), nn.utils.weight_norm(conv(8, 6)), nn.ReLU(), conv(6, 4)
    model = net(lambda self, x: keeps_going(self.inner(x)), inner=nn.Sequential(*parts))
    plan = conet_fx.analyze(model, IMAGE)
    assert plan.trace.pieces is not None
    assert {group.name for group in plan.free} == {"inner.0", "inner.2"}
    resized = plan.resize({"inner.0": 5, "inner.2": 3}, init="inherit")
    resized(IMAGE)
    assert probed_layers(resized)["inner.0"].weight.shape == (5, 3, 3, 3)


def test_pieces_inherit_weights() -> None:
    model = pieces_model().eval()
    plan = conet_fx.analyze(model, IMAGE)
    same = plan.resize({}, init="inherit")
    assert list(same.state_dict()) == list(model.state_dict())
    assert torch.equal(*(outputs(m, IMAGE)[0] for m in (model, same)))
    wider = plan.resize({"body.0": 9}, init="inherit")
    torch.testing.assert_close(*(outputs(m, IMAGE)[0] for m in (model, wider)))


def test_a_piece_that_is_called_twice_in_other_shapes_is_one() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = keeps_going(self.body(x))
        return self.body(F.interpolate(x, scale_factor=2)).mean((2, 3)) + y.mean((2, 3))

    plan = conet_fx.analyze(net(forward, body=stage(3, 4)), IMAGE)
    assert {group.name: group.size for group in plan.free} == {"body.0": 6}
    plan.resize({"body.0": 3})(IMAGE)


def test_a_number_that_a_piece_spells_out_is_frozen_since_its_code_cannot_be_rewritten() -> None:
    body = net(lambda self, x: self.b(self.a(x).view(-1, 6, 8, 8)), a=conv(3, 6), b=conv(6, 5))
    model = net(lambda self, x: self.head(keeps_going(self.body(x))), body=body, head=stage(5, 2))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["head.0"]
    assert "spells it out: view at" in str(plan.group("body.a").frozen)


def test_code_between_the_pieces_that_uses_their_tensors_is_noticed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return (
            self.head(keeps_going(self.body(x)))
            + self.body[0].weight.sum(0).view(-1)[:6].view(6, 1)[5] * 0
            + F.linear(torch.ones(6), self.body[0].bias[None])
        )

    plan = conet_fx.analyze(net(forward, body=stage(3, 4), head=stage(4, 2)), IMAGE)
    with pytest.raises(ResizeError, match="traced in pieces"):
        plan.resize({"body.0": 4})
    plan.resize({"head.0": 4})


def test_pieces_are_not_for_strict_users_and_not_for_models_where_nothing_is_free() -> None:
    with pytest.raises(TraceError, match="depends on the data"):
        conet_fx.analyze(pieces_model(), IMAGE, strict=True)
    alone = net(lambda self, x: keeps_going(self.a(x)), a=conv(3, 4))
    with pytest.raises(TraceError, match="depends on the data"):
        conet_fx.analyze(alone, IMAGE)


def test_the_run_that_finds_the_pieces_leaves_no_trace() -> None:
    model = pieces_model().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    conet_fx.analyze(model, IMAGE)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


# --- gradients -------------------------------------------------------------------------------------------------------


def test_what_runs_without_gradients_goes_on_to_do_so() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x)
            left, right = self.b(y).chunk(2, 1)
            n = y.shape[0]
        return self.out(self.c(x).view(n, 4, 8, 8) + left * right)

    model = net(forward, a=conv(3, 5), b=conv(5, 8), c=conv(3, 4), out=conv(4, 2))
    check_everything(model, IMAGE)
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a", "b"]
    resized = plan.resize({"a": 7, "b": 12})
    assert gradients(resized, IMAGE, True) == {"c.weight", "c.bias", "out.weight", "out.bias"}


def test_a_forward_without_gradients() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = conv(3, 5), conv(5, 2)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x))

    plan = conet_fx.analyze(Net(), IMAGE)
    assert not plan.resize({"a": 3})(IMAGE).requires_grad


def test_the_caller_may_have_switched_gradients_off() -> None:
    model = net(lambda self, x: self.out(self.a(x)), a=conv(3, 5), out=conv(5, 2))
    with torch.no_grad():
        plan = conet_fx.analyze(model, IMAGE)
        resized = plan.resize({"a": 4})
    assert gradients(resized, IMAGE, True) == {"a.weight", "a.bias", "out.weight", "out.bias"}


def test_autocast_in_forward_is_not_kept_and_the_plan_says_so() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        with torch.autocast("cpu", enabled=False):
            y = y.float().relu()
        return self.out(y)

    plan = conet_fx.analyze(net(forward, a=conv(3, 5), out=conv(5, 2)), IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert "do without: autocast at " in plan.explain()


def test_autocast_in_a_module_that_is_one_call_is_kept() -> None:
    def inner(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return twice(x)

    model = net(
        lambda self, x: self.out(self.b(self.odd(self.a(x)))),
        a=conv(3, 5),
        odd=net(inner),
        b=conv(5, 4),
        out=conv(4, 2),
    )
    assert not conet_fx.analyze(model, IMAGE).trace.dropped


def test_one_sample_where_torch_wants_two() -> None:
    model = net(
        lambda self, x: self.out(self.norm(self.a(x).mean((2, 3), keepdim=True))),
        a=conv(3, 5),
        norm=nn.BatchNorm2d(5),
        out=conv(5, 2),
    )
    with pytest.raises(TraceError, match="pass an example of two samples"):
        conet_fx.analyze(model.train(), IMAGE[:1])


# --- values ----------------------------------------------------------------------------------------------------------


def test_a_view_in_place_changes_what_comes_after_it_only() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        y.unsqueeze_(1)
        z = y.squeeze(1)
        z.transpose_(2, 3)
        return self.out(z + y.squeeze(1).mT)

    plan = check_everything(net(forward, a=conv(3, 5), out=conv(5, 2)), IMAGE)
    assert [group.name for group in plan.free] == ["a"]


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_gives_what_it_is_given_and_refuses_what_torch_refuses(training: bool) -> None:
    shapes = Shapes(torch.device("cpu"))

    def norm(layer: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        layer = layer.to("meta").train(training)
        found: Tensor = shapes.run(layer, (torch.empty(shape, device="meta", dtype=dtype),), {})
        return found

    for layer, shape in (
        (nn.BatchNorm1d(4), (2, 4)),
        (nn.BatchNorm1d(4, affine=False), (2, 4, 5)),
        (nn.BatchNorm2d(4), (2, 4, 5, 6)),
        (nn.BatchNorm2d(4, track_running_stats=False), (2, 4, 1, 1)),
        (nn.BatchNorm3d(4), (1, 4, 2, 2, 2)),
    ):
        found = norm(layer, *shape)
        assert (found.shape, found.dtype) == (shape, torch.float32)
        assert found.is_contiguous()
    for layer, shape, text in (
        (nn.BatchNorm2d(4), (2, 5, 3, 3), "4"),
        (nn.BatchNorm2d(4), (2, 4, 3), "expected 4D"),
        (nn.BatchNorm1d(4, track_running_stats=False), (1, 4), "more than 1 value"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=text):
            norm(layer, *shape)
    broken = nn.BatchNorm2d(4)
    broken.weight = nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="4"):
        norm(broken, 2, 4, 3, 3)


def test_layers_with_other_settings_have_other_shapes() -> None:
    """What a layer gives is remembered by its settings, lists among them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.small(self.one(y).flatten(1)) + self.large(self.two(y).flatten(1))

    pools = {"one": nn.AdaptiveAvgPool2d([1, 1]), "two": nn.AdaptiveAvgPool2d([2, 2])}  # type: ignore[arg-type]
    model = net(forward, a=conv(3, 4), **pools, small=nn.Linear(4, 2), large=nn.Linear(16, 2))
    assert [group.name for group in check_everything(model, IMAGE).free] == ["a"]


def test_a_forward_that_was_put_in_the_place_of_that_of_a_layer_is_looked_into() -> None:
    """A layer is what it does: this one is no convolution, and its channels are those that it is given."""
    layer = conv(5, 7)
    layer.forward = types.MethodType(lambda self, x: x * self.weight.sum(), layer)  # type: ignore[method-assign]
    model = net(lambda self, x: self.out(self.odd(self.a(x))), a=conv(3, 5), odd=layer, out=conv(5, 2))
    plan = check_everything(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert plan.group("a").readers == ("out",)


@pytest.mark.parametrize("bound", [True, False])
def test_a_forward_that_was_put_in_the_place_of_that_of_the_model(bound: bool) -> None:
    """As pretrainedmodels does to networks of torchvision, whose own forward would fail."""
    model = net(lambda self, x: self.nothing(x), a=conv(3, 5), out=conv(5, 2))

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.a(x).relu())

    model.forward = types.MethodType(forward, model) if bound else functools.partial(forward, model)  # type: ignore
    if bound:
        check_everything(model, IMAGE)
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    assert plan.trace.pieces is None
    assert type(model).__name__ == "Net"
    assert plan.resize({"a": 3})(IMAGE).shape[1] == 2


def test_the_device_of_a_value_is_the_real_one() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.device.type == "cpu" and not y.is_cuda:
            y = y + torch.zeros(1, device=y.device)
        return self.out(y)

    plan = check_everything(net(forward, a=conv(3, 5), out=conv(5, 2)), IMAGE)
    assert any(node.target is torch.zeros for node in plan.trace.graph_module.graph.nodes)


def test_the_flag_of_a_submodule_is_seen_when_it_is_read() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.a(x) if self.norm.training else self.norm(self.a(x)))

    model = net(forward, a=conv(3, 5), norm=nn.BatchNorm2d(5), out=conv(5, 2))
    plan = check_everything(model, IMAGE)
    assert [node.meta.get("only_in") for node in plan.trace.graph_module.graph.nodes if node.target == "norm"] == [
        "eval"
    ]


def test_layers_of_torch_that_are_made_of_others_are_looked_into() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = net(
        lambda self, x: self.out(self.layer(self.a(x).flatten(2).mT)), a=conv(3, 8), layer=layer, out=nn.Linear(8, 2)
    )
    targets = {str(n.target) for n in conet_fx.analyze(model, IMAGE).trace.graph_module.graph.nodes}
    assert {"layer.linear1", "layer.linear2", "layer.norm1", "layer.self_attn"} <= targets


# --- wrapped functions -----------------------------------------------------------------------------------------------


def doubled(x: Tensor) -> Tensor:
    return x * 2


def mean_if_small(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True) if bool(x.abs().max() < 0) else x


fx.wrap("doubled")
fx.wrap("mean_if_small")


def test_a_wrapped_function_that_the_table_does_not_know_is_looked_into() -> None:
    plan = check_everything(net(lambda self, x: self.out(doubled(self.a(x))), a=conv(3, 5), out=conv(5, 2)), IMAGE)
    assert [group.name for group in plan.free] == ["a"]


def test_a_wrapped_function_that_cannot_be_looked_into_stays_one_call() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.b(mean_if_small(self.a(x))))

    model = net(forward, a=conv(3, 5), b=conv(5, 4), out=conv(4, 2))
    with pytest.raises(TraceError, match=r"depends on the data|mean_if_small"):
        conet_fx.analyze(model, IMAGE, strict=True)


def test_a_wrapped_function_is_looked_into_beside_a_module_that_cannot_be() -> None:
    odd = net(lambda self, x: twice(x))
    model = net(
        lambda self, x: self.out(self.odd(self.b(doubled(self.a(x))))),
        a=conv(3, 5),
        b=conv(5, 4),
        odd=odd,
        out=conv(4, 2),
    )
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["a"]


# --- what nodes keep -------------------------------------------------------------------------------------------------


def test_nodes_of_a_resized_graph_keep_where_they_come_from() -> None:
    block = net(lambda self, x: self.a(x).relu(), a=conv(3, 5))
    plan = conet_fx.analyze(net(lambda self, x: self.out(self.block(x)), block=block, out=conv(5, 2)), IMAGE)
    for node in plan.resize({"block.a": 3}).graph.nodes:
        if node.op in ("call_module", "call_method"):
            assert "test_record.py" in str(node.stack_trace), node
            assert node.meta["nn_module_stack"]
    stack = next(n for n in plan.resize({}).graph.nodes if n.op == "call_method").meta["nn_module_stack"]
    assert list(stack) == ["block"]


def test_a_recorded_function_can_be_recorded_again() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + torch.arange(y.shape[1]).view(1, -1, 1, 1))

    for _ in range(2):
        plan = conet_fx.analyze(net(forward, a=conv(3, 4), out=conv(4, 2)), IMAGE)
        plan.resize({"a": 6})(IMAGE)


def test_a_transformer_layer_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = net(
        lambda self, x: self.out(self.layer(self.a(x).flatten(2).mT)), a=conv(3, 8), layer=layer, out=nn.Linear(8, 2)
    )
    plan = check_everything(model, IMAGE, resize_linear=True)
    assert {group.name: (group.size, group.quantum) for group in plan.free} == {"a": (8, 2), "layer.linear1": (16, 1)}


def test_checkpoints_compute_the_same_without_them() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = checkpoint(self.b, self.a(x), use_reentrant=True)
        return self.out(checkpoint(self.c, y, use_reentrant=False))

    plan = conet_fx.analyze(net(forward, a=conv(3, 6), b=conv(6, 5), c=conv(5, 4), out=conv(4, 2)), IMAGE)
    assert [group.name for group in plan.free] == ["a", "b", "c"]
    resized = plan.resize({"b": 3})
    assert len(gradients(resized, IMAGE, True)) == 8


def test_what_torch_compile_gives_is_the_module_inside() -> None:
    inner = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 5))
    plan = conet_fx.analyze(torch.compile(inner, backend="eager"), IMAGE)
    assert [group.name for group in plan.free] == ["0"]
    model = net(lambda self, x: self.out(self.m(x)), m=torch.compile(inner, backend="eager"), out=conv(5, 2))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["m._orig_mod.0", "m._orig_mod.2"]
    plan.resize({"m._orig_mod.0": 4})(IMAGE)


def test_torchscript_has_no_python_to_trace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(conv(6, 6), nn.ReLU()))
    model = net(lambda self, x: self.out(self.m(self.a(x))), a=conv(3, 6), m=scripted, out=conv(6, 2))
    with pytest.raises(TraceError, match="'m', a TorchScript module, has no Python to trace"):
        conet_fx.analyze(model, IMAGE)
    with pytest.raises(TraceError, match=r"take the nn\.Module that it was made from"):
        conet_fx.analyze(scripted, IMAGE)


def test_a_moving_average_can_be_trained_twice() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
            self.scale.clamp_(0.5, 2.0)
        return self.out((y - self.mean.view(1, -1, 1, 1)) * self.scale)

    model = net(forward, a=conv(3, 6), scale=nn.Parameter(torch.full((6, 1, 1), 3.0)), out=conv(6, 2))
    model.register_buffer("mean", torch.zeros(6))
    resized = conet_fx.analyze(model, IMAGE).resize({"a": 4})
    for _ in range(2):
        resized(IMAGE).sum().backward()
    assert resized.mean.abs().sum() > 0
    assert resized.scale.grad is not None
    assert bool((resized.scale == 2).all())
    assert not resized.mean.requires_grad


def test_a_function_that_cannot_be_looked_into_fails_with_its_line() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).permute(2, 0, 1)
        weights = (self.w, self.b, None, None, False, 0.0, self.out.weight, self.out.bias)
        return F.multi_head_attention_forward(x, x, x, self.width, 2, *weights)[0]

    parts = {"w": nn.Parameter(torch.rand(12, 4)), "b": nn.Parameter(torch.rand(12)), "out": nn.Linear(4, 4)}
    assert conet_fx.analyze(net(forward, a=conv(3, 4), width=4, **parts), IMAGE).groups
    with pytest.raises(TraceError, match=r"multi_head_attention_forward at .*test_record.py:\d+.* dimension of 6"):
        conet_fx.analyze(net(forward, a=conv(3, 4), width=6, **parts), IMAGE)


# --- code that writes into lists and dicts, and that tries ---------------------------------------------------------


class Pathways(nn.Module):
    """A list of values through a list of layers, in place (the two pathways of SlowFast)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(3, 4), conv(3, 6)])
        self.fuse = nn.Identity()
        self.out = conv(10, 5)

    def forward(self, x: list[Tensor], named: dict[str, Tensor] | None = None) -> Tensor:
        assert isinstance(x, list)
        for i, layer in enumerate(self.layers):
            x[i] = layer(x[i])
        x = self.fuse(x)
        x[0] = x[0].relu()
        x.append(x.pop(0))
        if named is not None:
            named["gate"] = named["gate"].sigmoid()
            x[0] = x[0] * named.pop("gate")
        return self.out(torch.cat(x, 1))


@pytest.mark.parametrize("gated", [False, True])
def test_lists_and_dicts_that_a_forward_writes_into(gated: bool) -> None:
    def inputs() -> tuple[Any, ...]:
        images = [IMAGE.clone(), IMAGE + 1]
        return (images, {"gate": torch.randn(1, 6, 1, 1), "unused": IMAGE}) if gated else (images,)

    model = Pathways().eval()
    torch.manual_seed(0)
    plan = conet_fx.analyze(model, inputs())
    assert [group.name for group in plan.free] == ["layers.0", "layers.1"] if not gated else ["layers.0"]
    found = []
    for module in (model, plan.trace.graph_module, plan.resize({"layers.0": 7}, init="inherit")):
        torch.manual_seed(0)
        found.append(module(*inputs()))
    assert torch.equal(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


class Nested(nn.Module):
    def forward(self, x: Tensor) -> list[Any]:
        if x.sum() > 1e9:  # one call
            return []
        return [x, {"twice": 2 * x}]


def test_lists_that_a_call_returns() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        found = self.nested(x)
        found[0] = found[0] + 1
        return self.out(self.a(found[0] + found.pop()["twice"]))

    check_everything(net(forward, nested=Nested(), a=conv(3, 4), out=conv(4, 5)), IMAGE)


@pytest.mark.parametrize("kind", [TypeError, RuntimeError])
def test_code_that_tries_an_operator_takes_the_other_way(kind: type[Exception]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        try:
            z = self.act(y, lengths=x) if kind is TypeError else y + x
        except kind:
            z = self.act(y)
        return self.out(z)

    plan = check_everything(net(forward, a=conv(3, 4), act=nn.ReLU(), out=conv(4, 5)), IMAGE)
    assert [group.name for group in plan.free] == ["a"]


def test_code_that_tries_what_needs_data_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        try:
            y = y * y.mean().item()
        except RuntimeError:
            y = y * 2
        return self.out(y)

    with pytest.raises(TraceError, match="depends on the data in a tensor"):
        conet_fx.analyze(net(forward, a=conv(3, 4), out=conv(4, 5)), IMAGE)


@pytest.mark.parametrize("change", ["set_", "resize_"])
def test_other_storage_is_in_no_graph(change: str) -> None:
    """As reversible networks free what they can compute again: the values before keep their shape."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        y.data.set_() if change == "set_" else y.data.resize_(0)
        return z

    inner = net(forward, a=conv(3, 4), b=conv(4, 6))
    with pytest.raises(TraceError, match=rf"{change} at .*another storage or size"):
        trace(inner, IMAGE)
    outer = nn.Sequential(conv(3, 3), inner, conv(6, 5), conv(5, 2))
    plan = conet_fx.analyze(outer, IMAGE)
    assert [group.name for group in plan.free] == ["2"]
