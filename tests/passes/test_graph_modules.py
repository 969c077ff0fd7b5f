"""A resized GraphModule is a citizen of torch: it is analysed again, copied, pickled, compiled and exported."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import conet_fx
from tests.passes.battery import close, outputs, random_sizes, randomise
from tests.passes.cases import conv

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.skip = nn.Conv2d(inputs, width, 1, stride) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.skip(x))


class Residual(nn.Module):
    """Blocks of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 8, 1), Block(8, 8, 1), Block(8, 12, 2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class Views(nn.Module):
    """Views whose sizes are computed from shapes, and a buffer that is in no state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8, 3)
        self.b = conv(8, 6)
        self.head = nn.Linear(6 * 4 * 4, 5)
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)  # a channel shuffle
        x = F.max_pool2d(self.b(x), 4) * self.scale.view(1, -1, 1, 1)
        return self.head(x.view(x.size(0), x.shape[1] * x.size(2) * x.shape[3]))


class Flags(nn.Module):
    """Functions that are told the mode, on two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8, 3)
        self.inner = Inner()
        self.head = conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(self.a(x)), 0.5, training=self.training)
        return self.head(F.dropout(self.inner(x), 0.5, self.training))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = conv(8, 6)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.norm(self.b(x)), 0.25, self.training)


class Attention(nn.Module):
    """Scaled dot products over the pixels, with a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, stride=4)
        self.norm = nn.LayerNorm(8)
        self.q = nn.Linear(8, 8)
        self.k = nn.Linear(8, 8)
        self.v = nn.Linear(8, 12)
        self.project = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        weights = (self.q(y) @ self.k(y).transpose(-2, -1) * 0.35).softmax(-1)
        x = x + self.project(weights @ self.v(y))
        return self.head(x.mean(1))


class Assigned(nn.Module):
    """Writes into a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8, 3)
        self.b = conv(8, 6)
        self.head = conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).clone()
        x[:, :, 0] = 0.0
        return self.head(self.b(x))


class Keywords(nn.Module):
    """Names of modules and parameters that Python does not take for attributes, and a path for each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"in": conv(3, 8, 3), "class": conv(8, 6), "1x1": conv(6, 6)})
        self.scales = nn.ParameterDict({"lambda": torch.rand(6, 1, 1)})
        self.head = conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers["in"](x)
        if self.training:
            x = x + torch.randn_like(x)
        return self.head(self.layers["1x1"](self.layers["class"](x).relu() * self.scales["lambda"]))


NETS: Sequence[Callable[[], nn.Module]] = (Residual, Views, Flags, Attention, Assigned, Keywords)


@pytest.fixture(params=NETS, ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = request.param()
    randomise(built)
    return built


@pytest.fixture
def resized(model: nn.Module) -> fx.GraphModule:
    plan = conet_fx.analyze(model, IMAGE, resize_linear=True)
    assert len(plan.free) >= 2
    return plan.resize({group.name: group.size + 2 * group.quantum for group in plan.free}, init="inherit")


def flags(module: fx.GraphModule) -> int:
    """How many nodes read the mode."""
    return sum(node.op == "get_attr" and node.target == "training" for node in module.graph.nodes)


def modes_differ(module: nn.Module) -> bool:
    """True where train mode draws (dropout): twice the same input gives two outputs."""
    module = copy.deepcopy(module).train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return not torch.equal(module(IMAGE), module(IMAGE))


def keys_of_copy(module: fx.GraphModule) -> list[str]:
    """The state_dict keys of a copy: those of ``module``, and under torch 2.9 all buffers of the root."""
    extra = [name for name, _ in module.named_buffers(recurse=False)] if fx_forgets_persistence() else []
    return [*extra, *module.state_dict()]


def fx_forgets_persistence() -> bool:
    root = nn.Module()
    root.register_buffer("a", torch.ones(1), persistent=False)
    graph = fx.Graph()
    graph.output(graph.get_attr("a"))
    module = fx.GraphModule(root, graph)
    module._non_persistent_buffers_set.add("a")
    return bool(copy.deepcopy(module).state_dict())


def test_three_rounds(model: nn.Module) -> None:
    module: nn.Module = model
    names: list[str] = []
    for seed in range(3):
        plan = conet_fx.analyze(module, IMAGE, resize_linear=True)
        names = names or [group.name for group in plan.groups]
        assert [group.name for group in plan.groups] == names
        sizes = random_sizes(plan.free, 1, 2, seed)
        again = plan.resize(sizes, init="inherit")
        assert plan.cost(sizes).params == sum(p.numel() for p in again.parameters())
        if not any(group.mixed_by for group in plan.free):
            close(again, model, IMAGE)
        module = again
    small = conet_fx.analyze(module, IMAGE, resize_linear=True)
    last = small.resize({group.name: group.minimum for group in small.free}, init="inherit")
    assert last(IMAGE).shape[1] == 5
    assert list(last.state_dict()) == list(module.state_dict())
    assert last.state_dict().keys() == model.state_dict().keys()
    assert flags(last) == flags(again)
    assert modes_differ(again) == modes_differ(model)


def test_deepcopy(resized: fx.GraphModule) -> None:
    copied = copy.deepcopy(resized)
    assert list(copied.state_dict()) == keys_of_copy(resized)
    assert outputs(copied, IMAGE)[0].equal(outputs(resized, IMAGE)[0])
    assert copied.meta["conet_fx"].keys() == resized.meta["conet_fx"].keys()
    for node, twin in zip(copied.graph.nodes, resized.graph.nodes, strict=True):
        assert node.meta["conet_fx"] == twin.meta["conet_fx"]
        assert node.stack_trace == twin.stack_trace
        assert node.meta.keys() == twin.meta.keys()
    assert flags(copied) == flags(resized)


def test_pickle(resized: fx.GraphModule, model: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(resized, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.code == resized.code
    assert list(loaded.state_dict()) == keys_of_copy(resized)
    assert outputs(loaded, IMAGE)[0].equal(outputs(resized, IMAGE)[0])
    assert loaded.training == resized.training
    assert flags(loaded) == flags(resized)
    assert modes_differ(loaded) == modes_differ(model)
    plan = conet_fx.analyze(loaded, IMAGE, resize_linear=True)
    assert plan.sizes == conet_fx.analyze(resized, IMAGE, resize_linear=True).sizes


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(resized: fx.GraphModule, backend: str) -> None:
    torch.compiler.reset()
    resized.eval()
    compiled = torch.compile(resized, backend=backend, fullgraph=True)
    assert torch.allclose(compiled(IMAGE), resized(IMAGE), atol=1e-5)
    resized.train()
    compiled(IMAGE).sum().backward()
    assert all(p.grad is not None for p in resized.parameters())


@pytest.mark.parametrize("strict", [False, True])
def test_export(resized: fx.GraphModule, strict: bool) -> None:
    torch.compiler.reset()
    resized.eval()
    if type(resized).__name__ == "Keywords":
        with pytest.raises(SyntaxError):  # of torch's own graph, as for the network before it was resized
            torch.export.export(Keywords().eval(), (IMAGE,), strict=strict).module()
        return
    program = torch.export.export(resized, (IMAGE,), strict=strict)
    assert torch.allclose(program.module()(IMAGE), resized(IMAGE), atol=1e-5)
    assert set(program.state_dict) >= set(resized.state_dict())


def test_meta_data_stay(model: nn.Module) -> None:
    plan = conet_fx.analyze(model, IMAGE, resize_linear=True)
    resized = plan.resize({plan.free[0].name: plan.free[0].size + plan.free[0].quantum})
    before = {node.name: node.meta for node in plan.trace.graph_module.graph.nodes}
    for node in resized.graph.nodes:
        assert node.meta.keys() >= before[node.name].keys() | {"conet_fx"}
        for key in before[node.name].keys() - {"conet_fx", "val"}:
            assert node.meta[key] == before[node.name][key]
        if node.op == "call_module":
            *_, (path, cls) = node.meta["nn_module_stack"].values()
            assert path == node.target
            assert isinstance(resized.get_submodule(path), cls)
        if node.op.startswith("call"):
            frames = re.findall(r'File "(.+)", line (\d+), in (.+)', node.stack_trace)
            assert all(name in ("forward", "_call_impl") for _, _, name in frames)
            assert ":".join(frames[-1][:2]) == node.meta["source"]
