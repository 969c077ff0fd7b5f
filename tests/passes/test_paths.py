"""Networks whose train and eval mode take different paths: one graph, one plan, and modules that are right in both."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import RecipeError, SearchError
from conet_fx.passes.paths import ONLY_IN, by_mode, has_two_paths, path_of
from conet_fx.passes.two_paths import TwoPaths
from conet_fx.recipe import spec
from conet_fx.recipe.build import build
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


class Heads(nn.Module):
    """A head for each mode, and one for both: the trunk is read by all."""

    def __init__(self, channels: int = 8, width: int = 12) -> None:
        super().__init__()
        self.trunk = conv(3, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.body = conv(channels, width)
        self.auxiliary = nn.Conv2d(channels, 4, 1)
        self.mask = nn.Conv2d(width, 5, 1)
        self.classes = nn.Linear(width, 4)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        y = F.dropout(self.norm(self.trunk(x)).relu(), 0.1, self.training)
        z = self.body(y)
        scores = self.classes(z.mean((2, 3))) * scale
        if self.training:
            self.steps += 1
            drawn = F.dropout(y, 0.3)
            return scores, self.auxiliary(drawn).mean((2, 3))
        return {"scores": scores.softmax(1), "mask": self.mask(z)}


def in_both_modes(module: nn.Module, *inputs: Any) -> list[Any]:
    """What copies of a module return in train and in eval mode, and their buffers after."""
    found: list[Any] = []
    for training in (True, False):
        twin = copy.deepcopy(module).train(training)
        torch.manual_seed(0)
        returned = twin(*(inputs or (IMAGE,)))
        found += [returned, {name: tensor for name, tensor in twin.named_buffers() if "constant" not in name}]
    return found


def same(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(in_both_modes(ours), in_both_modes(theirs), rtol=0, atol=0)


def through_a_file(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded


def from_source(folder: Path, like: nn.Module) -> nn.Module:
    """The network in ``folder`` as the class that is written for it, with the weights of ``like``."""
    target = conet_fx.export(folder, folder / "network.py", example_inputs=IMAGE)
    space: dict[str, Any] = {}
    exec(Path(target).read_text(), space)
    network = space[type(like).__name__]()
    assert isinstance(network, nn.Module)
    network.load_state_dict(like.state_dict())
    return network.train(like.training)


@pytest.fixture(params=[True, False], ids=["traced in train", "traced in eval"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return Heads().train(request.param)


def test_a_graph_has_both_paths_and_their_common_part_once(model: nn.Module) -> None:
    plan = conet_fx.analyze(model, IMAGE)
    traced = plan.trace.graph_module
    assert isinstance(traced, TwoPaths)
    assert not plan.trace.one_mode
    calls = {node.target: node.meta.get(ONLY_IN) for node in traced.graph.nodes if node.op == "call_module"}
    common = dict.fromkeys(("trunk", "norm", "body", "classes"))
    assert calls == {**common, "auxiliary": "train", "mask": "eval"}
    groups = {group.name: (group.size, set(group.readers)) for group in plan.free}
    assert groups == {"trunk": (8, {"body", "auxiliary"}), "body": (12, {"classes", "mask"})}
    mode = "train" if model.training else "eval"
    assert f"this plan is of both, its MACs are those of {mode} mode" in plan.explain()
    frozen = {group.name: group.frozen for group in plan.groups if group.frozen}
    assert frozen == dict.fromkeys(("auxiliary", "mask", "classes"), "channels of the network's output")
    same(traced, model)


def test_resized_modules_are_right_in_both_modes(model: nn.Module) -> None:
    plan = conet_fx.analyze(model, IMAGE)
    same(plan.resize({}, init="inherit"), model)
    wider = plan.resize({"trunk": 11, "body": 17}, init="inherit").eval()
    torch.testing.assert_close(wider(IMAGE), model.eval()(IMAGE))
    scores, auxiliary = wider.train()(IMAGE)
    (scores.sum() + auxiliary.sum()).backward()
    assert {name for name, p in wider.named_parameters() if p.grad is None} == {"mask.weight", "mask.bias"}
    again = conet_fx.analyze(wider, IMAGE)
    assert again.sizes == {**plan.sizes, "trunk": 11, "body": 17}
    same(again.resize({}, init="inherit"), wider)


def test_multiply_adds_are_those_of_the_mode_that_was_traced(model: nn.Module) -> None:
    pixels, batch = 64, len(IMAGE)
    common = pixels * (3 * 8 + 8 * 12) + 12 * 4
    head = pixels * (8 * 4 if model.training else 12 * 5)
    assert conet_fx.analyze(model, IMAGE).cost().macs == batch * (common + head)


def test_copies_pickles_and_compiled_modules_keep_both_paths(model: nn.Module) -> None:
    resized = conet_fx.analyze(model, IMAGE).resize({"trunk": 5})
    loaded = through_a_file(resized)
    assert isinstance(loaded, TwoPaths)
    assert loaded.training is resized.training
    assert loaded.meta["conet_fx"]["sizes"] == resized.meta["conet_fx"]["sizes"]
    same(loaded, resized)
    same(copy.deepcopy(resized), resized)
    compiled = torch.compile(resized.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), resized(IMAGE))
    assert len(compiled.train()(IMAGE)) == 2
    program = torch.export.export(resized.eval(), (IMAGE,)).module()
    torch.testing.assert_close(program(IMAGE), resized(IMAGE))


def test_an_interpreter_returns_what_the_mode_returns(model: nn.Module) -> None:
    traced = conet_fx.analyze(model, IMAGE).trace.graph_module
    found = fx.Interpreter(traced.eval()).run(IMAGE, 1.0)
    torch.testing.assert_close(found, model.eval()(IMAGE))


@pytest.mark.parametrize("training", [True, False])
def test_saved_networks_have_both_paths(model: nn.Module, training: bool, tmp_path: Path) -> None:
    plan = conet_fx.analyze(model, IMAGE)
    resized = plan.resize({"trunk": 5, "body": 7})
    conet_fx.save(resized, plan, tmp_path)
    same(conet_fx.load(tmp_path), resized)
    own = conet_fx.apply(Heads().train(training), tmp_path)
    assert isinstance(own, Heads)
    same(own, resized)


def test_the_source_has_both_paths(model: nn.Module, tmp_path: Path) -> None:
    plan = conet_fx.analyze(model, IMAGE)
    resized = plan.resize({"trunk": 5, "body": 7})
    conet_fx.save(resized, plan, tmp_path)
    same(from_source(tmp_path, resized), resized)


def test_a_class_that_spells_out_a_width_in_one_mode_is_refused_with_its_line(tmp_path: Path) -> None:
    class Spelt(Heads):
        def forward(self, x: Tensor) -> Any:
            y = self.trunk(x)
            return self.classes(self.body(y).view(-1, 12, 64).mean(2)) if self.training else self.mask(self.body(y))

    plan = conet_fx.analyze(Spelt().eval(), IMAGE)
    resized = plan.resize({"body": 7})
    assert resized.train()(IMAGE).shape == (2, 4)
    conet_fx.save(resized, plan, tmp_path)
    with pytest.raises(RecipeError, match=r"12 where the recipe has 7, in view at .*test_paths\.py"):
        conet_fx.apply(Spelt().eval(), tmp_path)


def test_tensors_made_in_each_mode_keep_their_values() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 2.0, 3.0, 4.0] if self.training else [4.0, 3.0, 2.0, 1.0])
        y = self.a(x) * weights[:, None, None] * torch.tensor([2.0])
        return self.out(y) if self.training else self.out(y + self.shift)

    module = net(forward, a=conv(3, 4), out=conv(4, 5))
    module.register_buffer("shift", torch.ones(1), persistent=False)
    traced = conet_fx.analyze(module, IMAGE).trace.graph_module
    same(traced, module)
    same(copy.deepcopy(traced), module)
    loaded = through_a_file(traced)
    same(loaded, module)
    assert loaded.state_dict().keys() == module.state_dict().keys()


def test_each_path_runs_in_its_own_order() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            y = y.mul_(2.0)
        z = y.add_(1.0)
        if not self.training:
            z = self.b(z.clone().mul_(3.0))
        return z.relu_()

    module = net(forward, a=conv(3, 4), b=conv(4, 4))
    for training in (True, False):
        plan = conet_fx.analyze(module.train(training), IMAGE)
        same(plan.trace.graph_module, module)
        same(plan.resize({}, init="inherit"), module)


def test_a_plain_difference_in_the_flag_is_no_second_path() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(F.dropout(self.a(x), 0.5, self.training))

    graph = conet_fx.analyze(net(forward, a=conv(3, 4), out=conv(4, 5)), IMAGE).trace.graph_module.graph
    assert not has_two_paths(graph)


# --- paths that meet again ------------------------------------------------------------------------------------


class DropPath(nn.Module):
    """Stochastic depth, written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5).div_(0.5)


class Residual(nn.Module):
    def __init__(self, channels: int, drop: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.drop = conv(channels, 12, 3), nn.BatchNorm2d(12), conv(12, channels, 3), drop

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.b(self.norm(self.a(x)).relu()))


def residuals(drop: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(conv(3, 8), *(Residual(8, drop()) for _ in range(3)), nn.ReLU(), conv(8, 5))


@pytest.mark.parametrize("training", [True, False])
def test_what_follows_on_noise_is_in_the_graph_once(training: bool, tmp_path: Path) -> None:
    module = residuals(DropPath).train(training)
    plan = conet_fx.analyze(module, IMAGE)
    graph = plan.trace.graph_module.graph
    assert not [node for node in graph.nodes if node.meta.get(ONLY_IN) == "eval"]
    assert {str(node.target) for node in graph.nodes if node.meta.get(ONLY_IN) and node.op == "call_module"} == set()
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(calls) == len(set(calls)) == 12
    chosen = [node for node in graph.nodes if node.target is by_mode]
    assert [node.meta["source"] for node in chosen] == [
        node.meta["source"] for node in graph.nodes if node.name in ADDS
    ]
    assert all(isinstance(node.meta["val"], Tensor) for node in chosen)

    plain = conet_fx.analyze(residuals(nn.Identity), IMAGE)
    assert [(group.name, group.size, group.quantum) for group in plan.free] == [
        (group.name, group.size, group.quantum) for group in plain.free
    ]
    assert plan.cost() == plain.cost()
    same(plan.trace.graph_module, module)
    same(plan.resize({}, init="inherit"), module)
    resized = plan.resize({"0": 11, "1.a": 7})
    loaded = through_a_file(resized)
    same(loaded, resized)
    assert isinstance(loaded, fx.GraphModule)
    assert len(loaded.graph.nodes) == len(resized.graph.nodes)
    conet_fx.save(resized, plan, tmp_path)
    same(conet_fx.load(tmp_path), resized)
    own = residuals(DropPath)
    same(conet_fx.apply(own, tmp_path), resized)
    source = Path(conet_fx.export(tmp_path, tmp_path / "network.py", example_inputs=IMAGE)).read_text()
    assert source.count("if self.training:") == 1  # of the one class of blocks


ADDS = ("add", "add_1", "add_2")


def forward_of(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    return net(forward, stem=conv(3, 8), **parts, out=conv(8, 5))


def skips_a_layer(self: Any, x: Tensor) -> Tensor:
    x = self.stem(x)
    for number, block in enumerate(self.blocks):
        if not (self.training and number == 1):
            x = x + block(x).relu()
    return self.out(x)


def other_order(self: Any, x: Tensor) -> Tensor:
    x = self.stem(x)
    x = self.b(self.a(x).relu()) if self.training else self.a(self.b(x).relu())
    return self.out(x.relu())


def other_size(self: Any, x: Tensor) -> Tensor:
    x = self.stem(x)
    if self.training:
        x = x[:, :, 1:-1, 1:-1]
    return self.out(self.a(x).relu()).mean((2, 3))


def in_place(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x)
    if self.training:
        y += torch.randn_like(y)
    z = self.a(y)
    if not self.training:
        z.clamp_(max=0.5)
    z[:, :2] = 0
    return self.out(z)


def list_of_parts(self: Any, x: Tensor) -> Tensor:
    parts = list(self.stem(x).chunk(2, 1))
    if self.training:
        parts = [part * 0.9 for part in parts]
    return self.out(torch.cat(parts[::-1], 1))


def layers_of_each_mode(self: Any, x: Tensor) -> Tensor:
    for layer in self.noisy if self.training else self.plain:
        x = F.max_pool2d(self.act(layer(x)), 3, 1, 1)
    return self.out(self.stem(x))


def noise_at_the_input(self: Any, x: Tensor) -> Tensor:
    if self.training:
        x = 0.7 * x + 0.3 * x.flip(0)
    return self.out(self.stem(x))


def weights_with_noise(self: Any, x: Tensor) -> Tensor:
    weight = self.a.weight + 0.1 * torch.randn_like(self.a.weight) if self.training else self.a.weight * 2
    return self.out(F.conv2d(self.stem(x), weight, self.a.bias))


def weights_of_the_input(self: Any, x: Tensor) -> Tensor:
    shares = self.router(x.mean((2, 3))).softmax(1)
    if self.training:
        shares = shares + 0.1 * torch.randn_like(shares)
    kernel = (shares[:, :, None, None, None, None] * self.bank).sum(1).mean(0)
    return self.out(F.conv2d(self.stem(x), kernel, padding=1))


def other_type(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x)
    if self.training:
        y = y.to(torch.bfloat16)
    return self.out(y.float())


def spelt_out_behind_noise(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x)
    if self.training:
        y = y * torch.rand(y.shape[0], y.shape[1], 1, 1)
    return self.out(y.view(-1, 8, 64).view(y.shape[0], y.shape[1], 8, 8))


def other_function(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x)
    return self.out(self.norm(F.gelu(y) if self.training else F.relu(y)))


@dataclasses.dataclass
class Found:
    scores: Tensor
    features: Tensor
    name: str = "found"


def a_data_class_behind_noise(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x)
    if self.training:
        y = y * torch.rand(y.shape[0], 1, 1, 1)
    found = Found(self.out(y), y)
    return found.scores + found.features.mean()


MEETING: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "skips a layer": (
        lambda: forward_of(skips_a_layer, blocks=nn.ModuleList(conv(8, 8) for _ in range(3))),
        {"stem"},
    ),
    "another order": (lambda: forward_of(other_order, a=conv(8, 8), b=conv(8, 8)), {"stem"}),
    "another size": (lambda: forward_of(other_size, a=conv(8, 8)), {"stem", "a"}),
    "in place": (lambda: forward_of(in_place, a=conv(8, 8)), {"stem", "a", "a#2"}),
    "list of parts": (lambda: forward_of(list_of_parts), {"stem"}),
    "layers of each mode": (
        lambda: net(
            layers_of_each_mode,
            **{name: nn.ModuleList([conv(3, 6), conv(6, 8), conv(8, 4)]) for name in ("noisy", "plain")},
            **{"act": nn.ReLU(), "stem": conv(4, 8), "out": conv(8, 5)},
        ),
        {"noisy.0", "noisy.1", "noisy.2", "plain.0", "plain.1", "stem"},  # the third ones meet
    ),
    "noise at the input": (lambda: forward_of(noise_at_the_input), {"stem"}),
    "weights with noise": (lambda: forward_of(weights_with_noise, a=conv(8, 8)), {"stem", "a"}),
    "weights of the input": (
        lambda: forward_of(weights_of_the_input, router=nn.Linear(3, 4), bank=nn.Parameter(torch.randn(4, 8, 8, 3, 3))),
        {"stem", "bank"},
    ),
    "a data class": (lambda: forward_of(a_data_class_behind_noise), {"stem"}),
    "another type": (lambda: forward_of(other_type), {"stem"}),
    "spelt out behind noise": (lambda: forward_of(spelt_out_behind_noise), {"stem"}),
    "another function": (lambda: forward_of(other_function, norm=nn.BatchNorm2d(8)), {"stem"}),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MEETING)
def test_paths_that_part_and_meet(name: str, training: bool, tmp_path: Path) -> None:
    make, free = MEETING[name]
    torch.manual_seed(1)
    module = make().train(training)
    plan = conet_fx.analyze(module, IMAGE)
    assert has_two_paths(plan.trace.graph_module.graph)
    assert {group.name for group in plan.free} == free
    assert conet_fx.analyze(make().train(not training), IMAGE).sizes == plan.sizes
    same(plan.trace.graph_module, module)
    same(plan.resize({}, init="inherit"), module)
    resized = plan.resize({name: 2 * plan.sizes[name] for name in free})
    same(through_a_file(resized), resized)
    conet_fx.save(resized, plan, tmp_path)
    same(conet_fx.load(tmp_path), resized)
    same(from_source(tmp_path, resized), resized)
    if name in ("in place", "spelt out behind noise"):
        with pytest.raises(RecipeError, match=r"its code spells them out: .*test_paths\.py"):
            conet_fx.apply(make(), tmp_path)
    else:
        same(conet_fx.apply(make(), tmp_path), resized)
    again = conet_fx.analyze(resized, IMAGE)
    assert again.sizes == {**plan.sizes, **{name: 2 * plan.sizes[name] for name in free}}


def test_a_choice_is_an_operator_of_the_graph() -> None:
    """Passes that do not know of modes see one layer after another."""
    traced = conet_fx.analyze(residuals(DropPath), IMAGE).trace.graph_module
    add = next(node for node in traced.graph.nodes if node.name == "add")
    chosen = next(node for node in add.all_input_nodes if node.target is by_mode)
    _, in_train, in_eval = chosen.args
    assert isinstance(in_train, fx.Node)
    assert isinstance(in_eval, fx.Node)
    assert (in_train.meta[ONLY_IN], in_eval.target) == ("train", "1.b")
    assert path_of(traced.graph, "eval").find_nodes(op="call_function", target=by_mode) == []
    assert len(path_of(traced.graph, "train").nodes) > len(path_of(traced.graph, "eval").nodes)


def test_a_data_class_may_be_returned_behind_noise() -> None:
    def forward(self: Any, x: Tensor) -> Found:
        y = self.stem(x)
        if self.training:
            y = y * torch.rand(y.shape[0], 1, 1, 1)
        z = self.body(y)
        return Found(self.out(z), z)

    model = net(forward, stem=conv(3, 8), body=conv(8, 6), out=conv(6, 5))
    plan = conet_fx.analyze(model, IMAGE)
    assert [group.name for group in plan.free] == ["stem"]
    for training in (True, False):
        found = [network.train(training)(IMAGE) for network in (plan.resize({"stem": 12}), model)]
        assert [(type(each), each.scores.shape, each.name) for each in found] == [
            (Found, (2, 5, 8, 8), "found"),
            (Found, (2, 5, 8, 8), "found"),
        ]


class Attention(nn.Module):
    """Hand-written attention with another bias in each mode (LeViT keeps a table of it for inference)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project, self.out = conv(3, 32), conv(16, 6), conv(6, 5)
        self.bias = nn.Parameter(torch.randn(2, 64, 64))
        self.register_buffer("table", torch.randn(2, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], 2, -1, 64).split([4, 4, 8], dim=2)
        scores = (q.transpose(-2, -1) @ k) * 4**-0.5 + (self.bias if self.training else self.table)
        return self.out(self.project((v @ scores.softmax(-1).transpose(-2, -1)).reshape(x.shape[0], 16, 8, 8)))


def test_paths_that_differ_in_a_term_have_the_groups_of_one() -> None:
    sizes = {"qkv": (16, 4), "qkv#2": (16, 2), "project": (6, 1)}
    for training in (True, False):
        module = Attention().train(training)
        plan = conet_fx.analyze(module, IMAGE)
        assert {group.name: (group.size, group.quantum) for group in plan.free} == sizes
        same(plan.resize({}, init="inherit"), module)
        grown = plan.resize({"qkv": 24, "qkv#2": 22, "project": 9})
        assert grown.train()(IMAGE).shape == grown.eval()(IMAGE).shape == (2, 5, 8, 8)
        one = conet_fx.analyze(
            net(Attention.forward, **dict(module.named_children()), bias=module.bias, table=module.bias), IMAGE
        )
        assert one.cost() == plan.cost()
        assert not has_two_paths(one.trace.graph_module.graph)


class Frozen(nn.Module):
    """A batch norm by hand that stays in eval mode."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(channels))
        self.register_buffer("variance", torch.rand(channels) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=self.training)


class Freezing(nn.Module):
    """Keeps its norm in eval mode, by a ``train`` of its own unless ``by_hand``."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.a, self.norm, self.out = conv(3, 6), Frozen(6), conv(6, 5)
        self.by_hand = by_hand
        self.train()

    def train(self, mode: bool = True) -> Freezing:
        super().train(mode)
        if not self.by_hand:
            self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(self.norm(self.a(x)), 0.5, self.training))


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_parts_that_stay_in_eval_mode(by_hand: bool, training: bool) -> None:
    module = Freezing(by_hand).train(training)
    module.norm.eval()
    plan = conet_fx.analyze(module, IMAGE)
    assert not has_two_paths(plan.trace.graph_module.graph)
    for network in (plan.trace.graph_module, plan.resize({}, init="inherit")):
        if by_hand:  # what was frozen when the model was traced
            torch.manual_seed(0)
            ours = copy.deepcopy(network)(IMAGE)
            torch.manual_seed(0)
            assert torch.equal(ours, module(IMAGE))
        else:
            same(network, module)


class Merging(nn.Module):
    """LoRA: the low ranks are in the weight in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = conv(3, 6), conv(3, 2), nn.Conv2d(2, 6, 1, bias=False)
        self.out, self.merged = conv(6, 5), False

    def product(self) -> Tensor:
        return (self.up.weight.flatten(1) @ self.down.weight.flatten(1))[..., None, None]

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode is self.merged:
            self.base.weight.data += self.product().data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return self.out(y if self.merged else y + self.up(F.conv2d(x, self.down.weight)))


def test_a_train_that_changes_weights_is_not_taken_for_a_path() -> None:
    module = Merging()
    plan = conet_fx.analyze(module, IMAGE)
    assert not has_two_paths(plan.trace.graph_module.graph)
    for training in (True, False):
        torch.testing.assert_close(plan.trace.graph_module.train(training)(IMAGE), module(IMAGE))


def test_arguments_of_every_kind_are_handed_on() -> None:
    def forward(self: Any, x: Tensor, shift: float = 0.0, *, weight: Tensor, scale: int = 2) -> Tensor:
        y = self.a(x) + shift
        return self.out(y * weight) if self.training else self.out(y) * scale

    module = net(forward, a=conv(3, 4), out=conv(4, 5))
    call = {"weight": torch.ones(1)}
    traced = conet_fx.analyze(module, {"x": IMAGE, **call}).trace.graph_module
    for training in (True, False):
        expected = module.train(training)(IMAGE, **call)
        assert torch.equal(traced.train(training)(IMAGE, **call), expected)


def test_any_number_of_arguments_is_handed_on() -> None:
    def forward(self: Any, x: Tensor, *more: Tensor) -> Tensor:
        y = self.a(x + more[0])
        return self.out(y + more[1]) if self.training else self.out(y)

    module = net(forward, a=conv(3, 4), out=conv(4, 5))
    inputs = (IMAGE, IMAGE, torch.ones(1))
    traced = conet_fx.analyze(module, inputs).trace.graph_module
    torch.testing.assert_close(in_both_modes(traced, *inputs), in_both_modes(module, *inputs))


def test_a_mode_that_cannot_be_traced_is_left_out_and_told() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training and y.mean() > 0:
            return self.b(y)
        return self.out(y)

    module = net(forward, a=conv(3, 4), b=conv(4, 5), out=conv(4, 5)).eval()
    plan = conet_fx.analyze(module, IMAGE)
    assert plan.trace.one_mode
    assert "another path in the other mode, which cannot be traced; this plan is of its eval mode" in plan.explain()


def test_a_path_that_uses_the_other_is_an_error(model: nn.Module) -> None:
    graph = conet_fx.analyze(model, IMAGE).trace.graph_module.graph
    next(node for node in graph.nodes if node.target == "norm").meta[ONLY_IN] = "eval"
    with pytest.raises(ValueError, match="node norm does not run in train mode, but what uses it does"):
        path_of(graph, "train")


@pytest.mark.parametrize("mode", ["test", "eval", 1])
def test_recipes_that_mix_paths_are_refused(mode: Any, tmp_path: Path) -> None:
    plan = conet_fx.analyze(Heads(), IMAGE)
    conet_fx.save(plan.resize({}), plan, tmp_path)
    recipe = conet_fx.recipe.read(tmp_path)
    nodes = [
        spec.NodeSpec(**{**vars(node), "only_in": mode}) if node.target == "body" else node for node in recipe.nodes
    ]
    with pytest.raises(RecipeError, match=r"node 'body'|node body does not run in train mode"):
        build(spec.Recipe(**{**vars(recipe), "nodes": tuple(nodes)}))


# --- the search -----------------------------------------------------------------------------------------------


class Auxiliary(Heads):
    def forward(self, x: Tensor) -> Any:
        y = self.trunk(x)
        scores = self.classes(self.body(y).mean((2, 3)))
        return (scores, self.auxiliary(y).mean((2, 3))) if self.training else scores


@pytest.mark.parametrize("training", [True, False])
def test_a_search_trains_one_path_and_evaluates_the_other(training: bool, tmp_path: Path) -> None:
    def loss(output: Any, target: Tensor) -> Tensor:
        return sum((F.cross_entropy(each, target) for each in output), torch.zeros(()))

    loader = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4) for _ in range(2)]
    model = Auxiliary().train(training)
    with pytest.raises(SearchError, match=r"returns a tuple of 2 .* pass loss_fn"):
        conet_fx.optimize(model, loader, trials=1, epochs_per_trial=1)
    result = conet_fx.optimize(model, loader, trials=1, epochs_per_trial=1, loss_fn=loss, run_dir=tmp_path)
    assert result.model.eval()(IMAGE).shape == (2, 4)
    assert len(result.model.train()(IMAGE)) == 2
