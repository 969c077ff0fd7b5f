"""Saved networks: what comes back is what went in, and a file can do no more than describe a network."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn.utils.parametrizations import _SpectralNorm as SpectralNorm
from torch.utils import _pytree as pytree

import conet_fx
from conet_fx import recipe
from conet_fx.errors import RecipeError
from conet_fx.passes import ops
from conet_fx.passes.trace import trace
from conet_fx.plan import analyze
from conet_fx.recipe.build import named_tensors
from conet_fx.recipe.files import digest
from conet_fx.recipe.names import classes
from conet_fx.saving import save

# --- networks
# ---------------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    logits: Tensor
    features: Tensor


class Strange(nn.Module):
    """One of each kind of value that a graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {"1x1 conv": nn.Conv2d(3, 6, 1), "a-b": nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())}
        )
        self.shared = nn.Conv2d(6, 6, 3, padding="same", bias=False)
        self.alias = self.shared
        self.tied = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.tied.weight = self.shared.weight
        self.scale = nn.Parameter(torch.rand(6, 1, 1), requires_grad=False)
        self.register_buffer("offset", torch.rand(1, 6, 1, 1), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False, True, False, True, True]))
        self.shift = nn.Parameter(torch.ones(6, dtype=torch.bfloat16))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(6, 5)
        self.head.weight.requires_grad_(False)

    def forward(self, x: Tensor, gain: float = 2.0, names: list[int] | None = None) -> dict[str, Any]:
        x = self.blocks["a-b"](self.blocks["1x1 conv"](x))
        x = self.tied(self.shared(self.shared(x))) * self.scale + self.offset * gain
        x = x.masked_fill(self.mask[None, :, None, None], float("-inf")).clamp(-3.0, float("inf"))
        x = x[..., 1:, ::2] + self.shift.to(dtype=torch.float32)[:, None, None]
        x = x.to(torch.device("cpu"), memory_format=torch.contiguous_format)
        tokens = x.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        pooled = tokens.mean(dim=1) + torch.tensor([0.5]) + x.size(1) * 1e-3 + x.shape[0]
        return {"out": Outputs(self.head(pooled), tokens), "list": [x, (pooled,)], "none": None}


class TwoModes(nn.Module):
    """Parts in different modes, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stem(x))


def in_two_modes() -> GraphModule:
    module = symbolic_trace(TwoModes().double())
    module.tail.eval()
    return module


def with_training_in_graph() -> GraphModule:
    """Dropout whose training argument is read from the module when it runs."""
    module = symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    (output,) = module.graph.find_nodes(op="output")
    with module.graph.inserting_before(output):
        mode = module.graph.create_node("get_attr", "training")
        dropped = module.graph.call_function(F.dropout, (output.args[0],), {"p": 1.0, "training": mode})
    output.args = (dropped,)
    module.recompile()
    return module


def zoo(name: str, **arguments: Any) -> Callable[[], GraphModule]:
    return lambda: symbolic_trace(torchvision.models.get_model(name, **arguments).eval())


NETWORKS: dict[str, Callable[[], GraphModule]] = {
    "strange": lambda: symbolic_trace(Strange().eval()),
    "two_modes": in_two_modes,
    "resnet18": zoo("resnet18"),
    "googlenet": zoo("googlenet", aux_logits=False, init_weights=False),
    "shufflenet": zoo("shufflenet_v2_x1_0"),
    "densenet121": zoo("densenet121"),
    "efficientnet_b0": zoo("efficientnet_b0"),
}

# named tuples that another process cannot import: what becomes of them in the code
NAMED_TUPLES = {
    "strange": ("tests_test_recipe_Outputs(head, getitem_2)", "tuple([head, getitem_2])"),
    "googlenet": (" -> torchvision_models_googlenet_GoogLeNetOutputs", ""),
}

ELSEWHERE = """
import sys, torch, safetensors.torch
from pathlib import Path
from torch.utils import _pytree as pytree
from conet_fx import recipe

for folder in sorted(Path(sys.argv[1]).iterdir()):
    module = recipe.load(folder)
    (folder / "code").write_text(module.code)
    given = safetensors.torch.load_file(folder / "input")
    outputs = pytree.tree_leaves(module(given["x"]))
    tensors = {str(i): t.detach().contiguous() for i, t in enumerate(outputs) if isinstance(t, torch.Tensor)}
    safetensors.torch.save_file(tensors, folder / "output")
"""


class Case(NamedTuple):
    module: GraphModule
    folder: Path
    x: Tensor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every network saved, then loaded and run by one process that has nothing but the files."""
    root = tmp_path_factory.mktemp("networks")
    cases = {}
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        module = make()
        x = torch.rand(2, 3, 64, 64, dtype=next(module.parameters()).dtype)
        recipe.save(
            module,
            root / name,
            groups={"shared#2": recipe.GroupSpec(6, 2)} if name == "strange" else {},
            model_id={"class": name},
        )
        safetensors.torch.save_file({"x": x}, root / name / "input")
        cases[name] = Case(module, root / name, x)
    subprocess.run([sys.executable, "-c", ELSEWHERE, root], check=True, cwd=root, timeout=300)
    return cases


@pytest.mark.parametrize("name", NETWORKS)
def test_another_process_builds_the_same_network(name: str, saved: dict[str, Case]) -> None:
    module, folder, x = saved[name]
    outputs = safetensors.torch.load_file(folder / "output")
    for i, value in enumerate(pytree.tree_leaves(copy.deepcopy(module)(x))):  # running it changes its batch norms
        assert value is None or torch.equal(outputs.pop(str(i)), value)
    assert not outputs
    assert (folder / "code").read_text() == module.code.replace(*NAMED_TUPLES.get(name, ("", "")))


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_kept(name: str, saved: dict[str, Case]) -> None:
    module, folder, _ = saved[name]
    loaded = recipe.load(folder)
    assert list(loaded.state_dict()) == list(module.state_dict())
    kinds = [{n: (t.dtype, t.requires_grad, t.shape) for n, t in named_tensors(m)} for m in (module, loaded)]
    assert kinds[0] == kinds[1]
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in module.state_dict().items())
    modes = [{path: m.training for path, m in net.named_modules(remove_duplicate=False)} for net in (module, loaded)]
    assert modes[0] == modes[1]
    leaves = [{path: repr(m) for path, m in net.named_modules() if not list(m.children())} for net in (module, loaded)]
    assert leaves[0] == leaves[1]


def test_sharing_is_kept(saved: dict[str, Case]) -> None:
    module, folder, _ = saved["strange"]
    loaded = recipe.load(folder)
    assert loaded.tied.weight is loaded.shared.weight
    # torch.fx of 2.9 itself forgets that a buffer is not persistent
    assert ("offset" in loaded.state_dict()) == ("offset" in module.state_dict())
    twice = symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 1)))
    twice.add_module("again", twice.get_submodule("0"))
    recipe.save(twice, saved["strange"].folder.parent.parent / "twice")
    loaded = recipe.load(saved["strange"].folder.parent.parent / "twice")
    assert loaded.again is loaded.get_submodule("0")


def test_the_mode_in_a_graph_is_read_when_it_runs(tmp_path: Path) -> None:
    module = with_training_in_graph()
    recipe.save(module, tmp_path)
    loaded = recipe.load(tmp_path)
    x = torch.rand(1, 3, 4, 4)
    assert loaded.code == module.code
    assert torch.equal(loaded.eval()(x), module.eval()(x))
    assert not loaded.train()(x).any()
    assert loaded.eval()(x).any()


def test_saving_and_loading_leave_the_world_alone(tmp_path: Path) -> None:
    module = in_two_modes()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    code, random = module.code, torch.get_rng_state()
    recipe.save(module, tmp_path)
    recipe.load(tmp_path)
    assert torch.equal(random, torch.get_rng_state())
    assert code == module.code
    assert all(torch.equal(tensor, module.state_dict()[key]) for key, tensor in before.items())


def test_the_module_that_made_a_call_is_kept(tmp_path: Path) -> None:
    module = trace(nn.Sequential(TwoModes(), OfFunctions()).eval(), torch.rand(2, 3, 8, 8)).graph_module
    recipe.save(module, tmp_path)
    nodes = {node.name: node for node in recipe.load(tmp_path).graph.nodes}
    assert nodes["relu"].meta["scope"] == "1"
    assert "scope" not in nodes["output"].meta


class OfFunctions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def test_read_tells_what_is_in_a_recipe(saved: dict[str, Case]) -> None:
    found = recipe.read(saved["resnet18"].folder)
    assert found.torch == torch.__version__
    assert found.sizes == {}  # no plan was there
    assert found.modules["layer1.0.conv1"].arguments["out_channels"] == 64
    assert found.nodes[-1].op == "output"


# --- module classes
# ---------------------------------------------------------------------------------------------

IMAGE, VOLUME, SEQUENCE, ROW = (2, 4, 6, 6), (2, 4, 5, 5, 5), (2, 4, 8), (2, 4)


def of_each_dimension(name: str, *arguments: Any, **keywords: Any) -> list[tuple[nn.Module, tuple[int, ...]]]:
    inputs = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}
    classes = {d: getattr(nn, f"{name}{d}d") for d in inputs if hasattr(nn, f"{name}{d}d")}
    return [(cls(*arguments, **keywords), inputs[d]) for d, cls in classes.items()]


LEAVES: list[tuple[nn.Module, tuple[int, ...]]] = [
    *of_each_dimension("Conv", 4, 6, 3, stride=2, padding=1, dilation=1, groups=2, bias=False),
    *of_each_dimension("Conv", 4, 6, 3, padding="same", padding_mode="reflect"),
    *of_each_dimension("ConvTranspose", 4, 6, 3, stride=2, output_padding=1),
    *of_each_dimension("BatchNorm", 4, eps=1e-3, momentum=None),
    *of_each_dimension("BatchNorm", 4, affine=False, track_running_stats=False),
    *of_each_dimension("InstanceNorm", 4, affine=True),
    *of_each_dimension("MaxPool", 3, stride=2, padding=1, ceil_mode=True),
    *of_each_dimension("AvgPool", 2, count_include_pad=False),
    *of_each_dimension("LPPool", 2, 2),
    *of_each_dimension("MaxUnpool", 2, stride=3, padding=1),
    *of_each_dimension("AdaptiveAvgPool", 2),
    *of_each_dimension("AdaptiveMaxPool", 2),
    *of_each_dimension("Dropout", 0.2),
    *of_each_dimension("ZeroPad", 1),
    *of_each_dimension("ConstantPad", 1, 0.5),
    *of_each_dimension("ReflectionPad", 1),
    *of_each_dimension("ReplicationPad", 1),
    *of_each_dimension("CircularPad", 1),
    (nn.AdaptiveAvgPool2d((None, 3)), IMAGE),
    *of_each_dimension("FractionalMaxPool", 2, output_ratio=0.5),
    *of_each_dimension("FractionalMaxPool", 2, output_size=3),
    (nn.AlphaDropout(0.1), ROW),
    (nn.FeatureAlphaDropout(0.1), IMAGE),
    (nn.Dropout(0.1, inplace=True), ROW),
    (nn.Linear(4, 3), ROW),
    (nn.Linear(4, 3, bias=False), ROW),
    (nn.GroupNorm(2, 4, eps=1e-4), IMAGE),
    (nn.GroupNorm(2, 4, affine=False), IMAGE),
    (nn.LayerNorm((6, 6)), IMAGE),
    (nn.LayerNorm(6, bias=False), IMAGE),
    (nn.LayerNorm(6, elementwise_affine=False), IMAGE),
    (nn.RMSNorm(6), IMAGE),
    (nn.LocalResponseNorm(3), IMAGE),
    (nn.CrossMapLRN2d(3), IMAGE),
    (nn.SyncBatchNorm(4), IMAGE),
    (nn.PReLU(4, init=0.1), IMAGE),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE),
    (nn.Upsample(size=(7, 9)), IMAGE),
    (nn.UpsamplingNearest2d(scale_factor=2), IMAGE),
    (nn.UpsamplingBilinear2d(size=3), IMAGE),
    (nn.PixelShuffle(2), IMAGE),
    (nn.PixelUnshuffle(2), IMAGE),
    (nn.ChannelShuffle(2), IMAGE),
    (nn.Flatten(), IMAGE),
    (nn.Flatten(2, -1), IMAGE),
    (nn.Unflatten(1, (2, 2)), IMAGE),
    (nn.Identity(), IMAGE),
    (nn.Softmax(dim=1), IMAGE),
    (nn.LogSoftmax(dim=1), IMAGE),
    (nn.Softmin(dim=1), IMAGE),
    (nn.Softmax2d(), IMAGE),
    (nn.Unfold(2, stride=2), IMAGE),
    (nn.Fold((3, 3), 2), (2, 4, 4)),
    *((getattr(nn, name)(), IMAGE) for name in
      ("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish",
       "LogSigmoid", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink",
       "Softsign", "Tanh", "Tanhshrink")),
    (nn.ReLU(inplace=True), IMAGE),
    (nn.GELU(approximate="tanh"), IMAGE),
    (nn.Hardtanh(-2, 2), IMAGE),
    (nn.Threshold(0.1, 20), IMAGE),
    (nn.GLU(dim=1), IMAGE),
    (nn.CosineSimilarity(dim=2, eps=1e-3), IMAGE),
    (nn.PairwiseDistance(1, eps=1e-3, keepdim=True), IMAGE),
    (nn.MultiheadAttention(4, 2, bias=False, kdim=4, vdim=4, batch_first=True), (2, 5, 4)),
    (nn.MultiheadAttention(4, 2, dropout=0.1, add_zero_attn=True), (2, 5, 4)),
    (nn.Embedding(4, 6, padding_idx=-1, max_norm=1.0, norm_type=1.0, scale_grad_by_freq=True), ROW),
    (nn.Embedding.from_pretrained(torch.eye(4)), ROW),
    (torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2, bias=False), IMAGE),
    (torchvision.ops.DeformConv2d(4, 6, (1, 3), padding=(0, 1)), IMAGE),
    (nn.RNN(8, 6), SEQUENCE),
    (nn.RNN(8, 6, 2, nonlinearity="relu", bias=False, batch_first=True, dropout=0.1, bidirectional=True), SEQUENCE),
    (nn.GRU(8, 6, 2, batch_first=True), SEQUENCE),
    (nn.GRU(8, 6, bias=False, bidirectional=True), SEQUENCE),
    (nn.LSTM(8, 6, 2, dropout=0.1, bidirectional=True), SEQUENCE),
    (nn.LSTM(8, 6, 2, bias=False, batch_first=True, proj_size=3), SEQUENCE),
    (nn.RNNCell(4, 6, bias=False, nonlinearity="relu"), ROW),
    (nn.GRUCell(4, 6), ROW),
    (nn.LSTMCell(4, 6, bias=False), ROW),
    (torchvision.ops.StochasticDepth(0.3, "row"), (2, 3, 4)),
    (SpectralNorm(torch.rand(4, 6, 3), 2), (4, 6, 3)),
    (SpectralNorm(torch.rand(4, 6, 3), dim=-1, eps=1e-6), (4, 6, 3)),
    (SpectralNorm(torch.rand(4, 6), dim=1), (4, 6)),
    (SpectralNorm(torch.rand(4)), (4,)),
]  # fmt: skip


def inputs_of(leaf: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    x = torch.rand(shape)
    match leaf:
        case nn.MultiheadAttention():
            return x, x, x
        case nn.CosineSimilarity() | nn.PairwiseDistance():
            return x, x.flip(0)
        case nn.Embedding():
            return ((x * leaf.num_embeddings).long(),)
        case torchvision.ops.DeformConv2d():
            return x, torch.rand(shape[0], 2 * leaf.weight[0, 0].numel(), *shape[2:])
        case nn.MaxUnpool1d() | nn.MaxUnpool2d() | nn.MaxUnpool3d():
            return x, torch.arange(x[0, 0].numel()).reshape(x[0, 0].shape).expand(shape)
    return (x,)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("leaf", "shape"), LEAVES, ids=lambda value: str(value).replace("\n", " ")[:60])
def test_each_class_is_rebuilt_from_its_attributes(leaf: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    leaf = leaf.eval()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = leaf

        def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Any:
            return self.leaf(*(given for given in (x, y, z) if given is not None))

    inputs = inputs_of(leaf, shape)
    recipe.save(trace(Net(), inputs, is_leaf=ops.knows).graph_module, tmp_path)
    loaded = recipe.load(tmp_path).leaf
    assert type(loaded) is type(leaf)
    assert repr(loaded) == repr(leaf)
    assert list(loaded.state_dict()) == list(leaf.state_dict())
    results = []
    for module in (leaf, loaded):
        torch.manual_seed(0)
        results.append(pytree.tree_leaves(module(*inputs)))
    assert all(map(torch.equal, *(filter(torch.is_tensor, result) for result in results)))


def test_each_class_that_a_recipe_may_name_is_tried() -> None:
    assert set(classes().values()) == {type(leaf) for leaf, _ in LEAVES}


class Subclassed(nn.Conv2d):
    """A convolution that only initialises itself in another way is a convolution."""

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


def test_a_subclass_that_computes_the_same_is_kept_as_its_base(tmp_path: Path) -> None:
    graph = torch.fx.Graph()
    graph.output(graph.call_module("conv", (graph.placeholder("x"),)))
    recipe.save(GraphModule({"conv": Subclassed(3, 4, 1, bias=False)}, graph), tmp_path)
    loaded = recipe.load(tmp_path)
    assert type(loaded.conv) is nn.Conv2d
    assert loaded.conv.weight.min() == 1


# --- resized networks
# ---------------------------------------------------------------------------------------------------


class Standardized(nn.Conv2d):
    """A convolution with a forward of its own, which reads its sizes."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ChannelsLast(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Mode(nn.Module):
    """Layers of ``layers`` one after another, then pooling and a linear layer."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.memory = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.stem(x).flatten(2).transpose(1, 2))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        with torch.autocast("cpu", enabled=False):
            x = self.body(x)
        return self.head(x.mean((2, 3)))


class Written(nn.Module):
    """Products of named dims, items that are assigned, results in named tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, 1:]
        y[..., 0] = 1.0
        if x.is_floating_point() and x.stride(-1) == 1:
            y = y + x.real * torch.eye(x.shape[2])
        found = self.body(y).aminmax(dim=2)
        weights = torch.einsum("bchw,bcij->bhwij", x, y).mean((2, 3, 4))
        return self.head(torch.einsum("bcw,bh->bc", found.max - found.min, weights))


VISION = torchvision.models
RESIZED: dict[str, tuple[Callable[[], nn.Module], int]] = {  # with the size of an image
    "vit": (lambda: VISION.VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32), 16),
    "swin": (lambda: VISION.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5), 32),
    "googlenet": (lambda: VISION.googlenet(num_classes=5, aux_logits=True, init_weights=False), 64),
    "recurrent": (Recurrent, 8),
    "attending": (Attending, 16),
    "weight_norm": (lambda: Mode(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.parametrizations.weight_norm(
            nn.Conv2d(4, 8, 3, groups=4)), nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(8, 6, 2)),
    ), 12),
    "standardized": (lambda: Mode(
        Standardized(3, 8, 3), ChannelsLast(8), Standardized(8, 8, 3, groups=8), Standardized(8, 6, 1, groups=2),
    ), 12),
    "without_gradients": (WithoutGradients, 8),
    "written": (Written, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIZED)
def test_a_resized_network_comes_back(name: str, tmp_path: Path) -> None:
    make, size = RESIZED[name]
    torch.manual_seed(0)
    model, x = make(), torch.rand(2, 3, size, size)
    plan = analyze(model, x, resize_linear=True)
    sizes = {group.name: group.size + group.quantum for group in plan.free}
    resized = plan.resize(sizes)
    assert sizes
    save(resized, plan, tmp_path)
    for twin in (recipe.load(tmp_path), recipe.apply(model, tmp_path)):
        assert_sizes_fit(twin)
        for found, wanted in zip(outputs_of(twin, x), outputs_of(resized, x), strict=True):
            assert torch.equal(found, wanted)


class OfTwoWidths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1)
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.one(x).flatten(2).permute(2, 0, 1), self.other(x).flatten(2).permute(2, 0, 1)
        return self.head(self.attention(query, key, key)[0].mean(0))


@pytest.mark.parametrize("width", [8, 10])
def test_an_attention_keeps_its_three_weights_where_widths_meet(width: int, tmp_path: Path) -> None:
    model, x = OfTwoWidths(), torch.rand(2, 3, 4, 4)
    resized = analyze(model, x, resize_linear=True).resize({"other": width})
    recipe.save(resized, tmp_path, model_id=recipe.identify(model))
    for twin in (recipe.load(tmp_path), recipe.apply(model, tmp_path)):
        assert twin.attention.kdim == width
        assert torch.equal(twin(x), resized(x))


def outputs_of(module: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    return [value for value in pytree.tree_leaves(copy.deepcopy(module)(x)) if isinstance(value, Tensor)]


def assert_sizes_fit(model: nn.Module) -> None:
    """The layers say of themselves what their weights are."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.ConvTranspose2d):
            assert layer.weight.shape[:2] == (layer.in_channels, layer.out_channels // layer.groups)
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.LayerNorm):
            assert layer.weight.shape == layer.normalized_shape
        elif isinstance(layer, nn.LSTM):
            assert layer.weight_ih_l0.shape == (4 * layer.hidden_size, layer.input_size)
            flat = zip(layer._flat_weights_names, layer._flat_weights, strict=True)
            assert all(weight is getattr(layer, name) for name, weight in flat)


# --- what cannot be saved
# ---------------------------------------------------------------------------------------


def reject(module: nn.Module, message: str, folder: Path) -> None:
    graph = module if isinstance(module, GraphModule) else symbolic_trace(module)
    with pytest.raises(RecipeError, match=message):
        recipe.save(graph, folder / "new")
    assert not (folder / "new").exists()


def test_a_module_that_its_arguments_do_not_describe_is_named(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    net[0].out_channels = 5
    reject(net, "module '0' .torch.nn.Conv2d. is not what its constructor makes .*tensors", tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 4, 1, padding_mode="reflect"))
    net[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]
    reject(net, "module '0' .*_reversed_padding_repeated_twice", tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    net[0].forward = lambda x: x  # type: ignore[method-assign]
    reject(net, "module '0' .*forward", tmp_path)
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)))
    graph = torch.fx.Graph()
    graph.output(graph.call_module("0", (graph.placeholder("x"),)))
    reject(GraphModule(net, graph), "module '0' is a .*, which is not among the classes", tmp_path)


def test_what_is_not_data_is_named(tmp_path: Path) -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(my_function, (x,)))
    reject(GraphModule(nn.Module(), graph), "node 'my_function' calls tests.test_recipe.my_function", tmp_path)
    graph = torch.fx.Graph()
    graph.output(graph.call_method("add", (graph.placeholder("x"), 1j)))
    reject(GraphModule(nn.Module(), graph), "node 'add' .*complex", tmp_path)
    lazy = torch.fx.Graph()
    lazy.output(lazy.call_module("0", (lazy.placeholder("x"),)))
    reject(GraphModule({"0": nn.LazyLinear(3)}, lazy), "LazyLinear", tmp_path)
    with torch.device("meta"):
        net = nn.Linear(3, 3)
    reject(symbolic_trace(nn.Sequential(net)), "'0.weight'.* on meta. has no plain data", tmp_path)
    flattened = symbolic_trace(OfDict(), concrete_args={"x": {"a": torch.fx.PH}})
    reject(flattened, "without concrete_args", tmp_path)


@dataclasses.dataclass
class Labelled:
    logits: Tensor
    loss: Tensor | None = None


class Items(OrderedDict[str, Any]):
    """As ``transformers.ModelOutput`` is: a data class and the dict of its fields that have a value."""

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        self.update({name: value for name, value in fields.items() if value is not None})


@dataclasses.dataclass
class ItemsLabelled(Items):
    logits: Tensor
    loss: Tensor | None = None


class OfDataClass(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.body, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.head(self.body(x))
        return self.kind(y, y + 1) if self.kind is Outputs else self.kind(y)


@pytest.mark.parametrize("kind", [Labelled, ItemsLabelled])
def test_a_data_class_comes_back_as_the_dict_of_its_fields(kind: type, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 4, 4)
    model = OfDataClass(kind)
    plan = conet_fx.analyze(model, x)
    resized = plan.resize({"body": 5})
    expected = resized(x)
    assert type(expected) is kind
    conet_fx.save(resized, plan, tmp_path)
    loaded = conet_fx.load(tmp_path)
    found = loaded(x)
    assert list(found) == (["logits", "loss"] if kind is Labelled else ["logits"])
    assert torch.equal(found["logits"], expected.logits)
    applied = conet_fx.apply(model, tmp_path)
    assert torch.equal(applied(x).logits, expected.logits)
    assert type(applied(x)) is kind
    again = conet_fx.analyze(loaded, x)
    assert again.sizes == plan.sizes | {"body": 5}
    conet_fx.save(again.resize({"body": 7}), again, tmp_path / "again")
    assert conet_fx.load(tmp_path / "again")(x).keys() == found.keys()
    conet_fx.export(tmp_path, tmp_path / "network.py")
    space: dict[str, Any] = {}
    exec((tmp_path / "network.py").read_text(), space)
    network = space["OfDataClass"]()
    network.load_state_dict(loaded.state_dict())
    assert torch.equal(network(x)["logits"], expected.logits)


def test_a_named_tuple_can_be_saved_again(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 4, 4)
    plan = conet_fx.analyze(OfDataClass(Outputs), x)
    conet_fx.save(plan.resize({}), plan, tmp_path / "first")
    first = conet_fx.load(tmp_path / "first")
    again = conet_fx.analyze(first, x)
    conet_fx.save(again.resize({}, init="inherit"), again, tmp_path / "second")
    assert all(map(torch.equal, conet_fx.load(tmp_path / "second")(x), first(x)))


def test_a_transformer_of_torch_is_saved(tmp_path: Path) -> None:
    """It asks its input whether it is nested."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.rand(2, 5, 8)
    traced = trace(net, x).graph_module
    recipe.save(traced, tmp_path)
    assert torch.equal(recipe.load(tmp_path).eval()(x), traced(x))


def test_padding_that_was_set_later_is_kept(tmp_path: Path) -> None:
    """As segmentation networks do with the strides of their encoders."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    for conv in (net[0], net[2]):
        conv.stride, conv.dilation, conv.padding = (1, 1), (2, 2), (2, 2)
    x = torch.rand(1, 3, 8, 8)
    recipe.save(trace(net, x).graph_module, tmp_path)
    assert torch.equal(recipe.load(tmp_path)(x), net(x))
    reflecting = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    reflecting[0].padding = (2, 2)
    reject(trace(reflecting, x).graph_module, "different: _reversed_padding_repeated_twice", tmp_path)


def test_what_has_another_way_is_told_it(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 4, 4)
    net = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Conv2d(3, 4, 1)), nn.ReLU())
    reject(trace(net, x).graph_module, "_Orthogonal, .* remove the parametrizations", tmp_path)


class OfDict(nn.Module):
    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return x["a"] + 1


def my_function(x: Tensor) -> Tensor:
    return x + 1


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1))) for _ in range(2))
    recipe.save(first, tmp_path)
    (tmp_path / "notes").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full_disk)
        with pytest.raises(OSError, match="no space"):
            recipe.save(second, tmp_path)
    assert torch.equal(recipe.load(tmp_path).state_dict()["0.weight"], first.state_dict()["0.weight"])
    with monkeypatch.context() as patch:  # the process dies between the two renames
        replace = Path.replace
        patch.setattr(Path, "replace", lambda a, b: full_disk() if a.suffix == ".json" else replace(a, b))
        with pytest.raises(OSError, match="no space"):
            recipe.save(second, tmp_path)
    with pytest.raises(RecipeError, match="of another save"):
        recipe.load(tmp_path)
    recipe.save(second, tmp_path)
    assert torch.equal(recipe.load(tmp_path).state_dict()["0.weight"], second.state_dict()["0.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "notes", "recipe.json"]


def full_disk(*_: Any) -> None:
    raise OSError("no space")


# --- apply
# ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A class whose sizes are arguments, with a tied weight, a bare parameter and an unused part."""

    def __init__(self, width: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.PReLU(hidden))
        self.twin = nn.Conv2d(width, hidden, 1, bias=False)
        self.twin.weight = self.body[0].weight
        self.scale = nn.Parameter(torch.rand(hidden, 1, 1))
        self.head = nn.Linear(hidden, 5)
        self.auxiliary = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((self.body(x) * self.scale + self.twin(x)).mean((2, 3)))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("through", [lambda folder: folder, recipe.read], ids=["dir", "recipe"])
def test_apply_gives_the_users_class(through: Callable[[Path], Any], tmp_path: Path) -> None:
    model, wanted = Net().eval(), Net(8, 10).double().eval()
    model.head.weight.requires_grad_(False)
    calls: list[int] = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    recipe.save(symbolic_trace(wanted), tmp_path, model_id=recipe.identify(wanted))
    before = snapshot(model)
    resized = recipe.apply(model, through(tmp_path))
    assert type(resized) is Net
    assert list(resized.state_dict()) == list(before)
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(resized(x), wanted(x))
    assert calls == [1]
    assert resized.twin.weight is resized.body[0].weight
    assert (resized.stem.out_channels, resized.body[1].num_features) == (8, 10)
    assert not resized.head.weight.requires_grad
    assert torch.equal(resized.auxiliary.weight, model.auxiliary.weight)
    assert not resized.training
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    assert model.stem.out_channels == 4


def test_apply_refuses_a_recipe_for_another_model(tmp_path: Path) -> None:
    recipe.save(symbolic_trace(Net()), tmp_path / "plain")
    with pytest.raises(RecipeError, match=r"the recipe has no 'auxiliary.weight'"):  # it says nothing of unused parts
        recipe.apply(Net(), tmp_path / "plain")
    recipe.save(symbolic_trace(Net()), tmp_path / "net", model_id=recipe.identify(Net()))
    smaller, other_class, other_stride = Net(), Net(), Net()
    del smaller.auxiliary
    other_class.body[2] = nn.ReLU()
    other_stride.stem.stride = (2, 2)
    with pytest.raises(RecipeError, match=r"made from tests.test_recipe.Net\).* with more parameters and buffers"):
        recipe.apply(smaller, tmp_path / "net")
    with pytest.raises(RecipeError, match=r"module 'body.2' is a torch.nn.ReLU.*the model has no 'body.2.weight'"):
        recipe.apply(other_class, tmp_path / "net")
    with pytest.raises(RecipeError, match=r"module 'stem' has stride=.*2, 2.* in the model, .*1, 1.* in the recipe"):
        recipe.apply(other_stride, tmp_path / "net")
    deeper = torchvision.models.resnet34()
    recipe.save(symbolic_trace(torchvision.models.resnet18()), tmp_path / "resnet18")
    with pytest.raises(RecipeError, match=r"the recipe has no 'layer1.2.conv1.weight'; .* and .* more"):
        recipe.apply(deeper, tmp_path / "resnet18")


# --- damaged and hostile files
# ----------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.inner = nn.Module()
        self.inner.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) * self.inner.scale
        return x.view(x.shape[0], -1)[:, ::2] * 2.0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    recipe.save(
        symbolic_trace(Small()), tmp_path, groups={"conv": recipe.GroupSpec(4, 2)}, model_id=recipe.identify(Small())
    )
    return tmp_path


def rewrite(folder: Path, document: dict[str, Any]) -> None:
    """Write a recipe whose checksum fits, as somebody would who means harm."""
    document = {key: value for key, value in document.items() if key != "sha256"}
    document["sha256"] = digest(document)
    (folder / "recipe.json").write_text(json.dumps(document))


def edited(folder: Path, *path: Any, to: Any) -> None:
    document = json.loads((folder / "recipe.json").read_text())
    *parents, last = path
    here = document
    for key in parents:
        here = here[key]
    if to is ...:
        del here[last]
    else:
        here[last] = to
    if path[0] == "nodes" in document:
        document["model"]["graph"] = digest(document["nodes"])
    rewrite(folder, document)


HUGE = 2**40
NO_OPERATOR, NO_VALUE, NO_NAME = (
    "not among the operators",
    "is no value that a recipe",
    "a name that Python does",
)
FAULTS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "another format": (("format",), "zip", "is not a conet-fx recipe"),
    "a later version": (("version",), 3, "has version 3, this conet-fx reads version 2"),
    "a missing entry": (("nodes",), ..., "does not have the entries"),
    "an unknown entry": (("run",), "me", "does not have the entries"),
    "a path that climbs": (("weights", "file"), "../../secret", "does not have the entries"),
    "a size that is none": (("groups", "conv", "size"), 0, "group 'conv' is to have 0 channels"),
    "a size beyond the weights": (("groups", "conv", "size"), HUGE, "channels in steps of 2, but what writes it has 4"),
    "a size that is no number": (("groups", "conv", "size"), True, "is no GroupSpec"),
    "a size off its quantum": (("groups", "conv", "quantum"), 3, "4 channels in steps of 3"),
    "a quantum that is none": (("groups", "conv", "quantum"), -4, "in steps of -4"),
    "a group of nothing": (("groups", "inner.conv"), {"size": 1}, "group 'inner.conv' is named after no module"),
    "an identity that is no text": (("model", "class"), 3, "'class' of the model is no text"),
    "another graph": (("model", "graph"), "0" * 64, "the identity of the model does not fit"),
    "no hash of the graph": (("model", "graph"), ..., "the identity of the model does not fit"),
    "more of an identity": (("model", "author"), "me", "the identity of the model does not fit"),
    "other weights": (("weights", "sha256"), "0" * 64, "its checksum does not fit"),
    "cut weights": (("weights", "bytes"), 10**6, "is cut short"),
    "too many weights": (("weights", "bytes"), 8, "more than the 8 that belong to it"),
    "no spec": (("modules", "conv"), [], "is no ModuleSpec"),
    "a mode that is none": (("modules", "conv", "training"), "yes", "is no ModuleSpec"),
    "an unknown class": (("modules", "conv", "cls"), "torch.nn.Sequential", "not among the classes"),
    "a class of the user": (("modules", "conv", "cls"), "os.system", "not among the classes"),
    "huge channels": (("modules", "conv", "arguments", "out_channels"), HUGE, "but a parameter of"),
    "huge kernel": (("modules", "conv", "arguments", "kernel_size"), [HUGE, HUGE], "module 'conv'"),
    "a device": (("modules", "conv", "arguments", "device"), "cpu", "takes no argument 'device'"),
    "a child of a leaf": (("modules", "conv.a"), {"training": True}, "which is no container"),
    "a loop": (("modules", "inner.loop"), {"training": True, "same_as": "inner"}, "is no leaf before it"),
    "a module without parent": (("modules", "a.b"), {"training": True}, "no container before it"),
    "an odd module name": (("modules", 'a"); import os; ("'), {"training": True}, "no path of a module"),
    "a name of Module's own": (("modules", "forward"), {"training": True}, "cannot be built"),
    "a deep module": (("modules", ".".join("a" * 100)), {"training": True}, "no path of a module"),
    "an odd tensor name": (("tensors", "a\nb"), {"parameter": True}, "no path of a module or tensor"),
    "a tensor too few": (("tensors", "conv.bias"), ..., "but not in recipe.json"),
    "a tensor too many": (("tensors", "conv.more"), {"parameter": True}, "but not in model"),
    "a tensor elsewhere": (("tensors", "b.a"), {"parameter": True, "same_as": "conv.bias"}, "cannot be"),
    "a wrong alias": (("tensors", "conv.bias"), {"parameter": True, "same_as": "no"}, "no tensor before it"),
    "another kind": (("tensors", "conv.bias", "parameter"), False, "cannot be built"),
    "an unknown function": (("nodes", 2, "target"), "os.system", NO_OPERATOR),
    "a dangerous attribute": (("nodes", 5, "args", 1), "__class__", NO_OPERATOR),
    "an unknown method": (("nodes", 7, "target"), "register_hook", NO_OPERATOR),
    "a method of no node": (("nodes", 7, "args"), ["text"], NO_OPERATOR),
    "an unknown op": (("nodes", 2, "op"), "exec", NO_OPERATOR),
    "a module that is no leaf": (("nodes", 1, "target"), "inner", NO_OPERATOR),
    "an attribute that is no tensor": (("nodes", 3, "target"), "conv.forward", NO_OPERATOR),
    "a node from the future": (("nodes", 1, "args", 0), {"node": "relu"}, NO_VALUE),
    "a name that is code": (("nodes", 2, "name"), "relu = __import__('os')", NO_NAME),
    "a keyword as a name": (("nodes", 2, "name"), "import", NO_NAME),
    "a name twice": (("nodes", 2, "name"), "x", "a name that is taken"),
    "a keyword argument that is code": (("nodes", 2, "kwargs"), {"a=print(1), b": 1}, NO_NAME),
    "an input that is code": (("nodes", 0, "target"), "x=print(1)", NO_OPERATOR),
    "an unknown tag": (("nodes", 2, "args", 0), {"eval": "1"}, NO_VALUE),
    "an unknown constant": (("nodes", 2, "args", 0), {"torch": "torch.load"}, NO_VALUE),
    "an unknown device": (("nodes", 2, "args", 0), {"device": "nowhere"}, "cannot be built"),
    "an unknown annotation": (("nodes", 2, "annotation"), "os.system", "no annotation"),
    "no output": (("nodes", -1), ..., "the graph has no output"),
    "no nodes": (("nodes",), [], "the recipe has no graph"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_recipe_is_refused_with_the_reason(fault: str, small: Path) -> None:
    path, value, message = FAULTS[fault]
    edited(small, *path, to=value)
    with pytest.raises(RecipeError, match=message):
        recipe.load(small)


MANY = 10**9
BOMBS: dict[str, tuple[str, dict[str, Any], str]] = {
    "layers": ("LSTM", {"num_layers": MANY}, "1000000000 recurrent layers of 4 tensors each, but has 4 tensors"),
    "one layer more": ("GRU", {"num_layers": 2}, "2 recurrent layers"),
    "other directions": ("RNN", {"bidirectional": True}, "1 recurrent layers of 8 tensors each, but has 4 tensors"),
    "layers as a text": ("LSTM", {"num_layers": "9" * 99}, "TypeError"),
    "layers as a float": ("LSTM", {"num_layers": 1e300}, "TypeError"),
    "a list of layers": ("LSTM", {"num_layers": [MANY]}, "TypeError"),
    "inputs": ("GRU", {"input_size": HUGE}, "but a parameter of"),
    "hidden units": ("LSTM", {"hidden_size": 2**62}, "module 'leaf'"),
    "projections": ("LSTM", {"hidden_size": HUGE, "proj_size": HUGE - 1}, "module 'leaf'"),
    "another nonlinearity": ("RNN", {"nonlinearity": "os.system"}, "Unknown nonlinearity"),
    "another mode": ("RNN", {"mode": "LSTM"}, "takes no argument 'mode'"),
    "rows": ("Embedding", {"num_embeddings": HUGE}, "but a parameter of"),
    "columns": ("Embedding", {"embedding_dim": 2**70}, "larger than any number that torch takes"),
    "a weight": ("Embedding", {"_weight": [0]}, "takes no argument '_weight'"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_sizes_beyond_the_tensors_are_refused_before_they_cost(bomb: str, tmp_path: Path) -> None:
    name, arguments, message = BOMBS[bomb]
    graph = torch.fx.Graph()
    graph.output(graph.call_module("leaf", (graph.placeholder("x"),)))
    recipe.save(GraphModule({"leaf": getattr(nn, name)(4, 6)}, graph), tmp_path)
    for argument, value in arguments.items():
        edited(tmp_path, "modules", "leaf", "arguments", argument, to=value)
    with pytest.raises(RecipeError, match=message):
        recipe.load(tmp_path)


def test_recurrent_layers_without_end_are_not_built(tmp_path: Path) -> None:
    """Tensors are cheap to name, and constructing a recurrent module takes time in the square of their number."""
    graph = torch.fx.Graph()
    graph.output(graph.call_module("leaf", (graph.placeholder("x"),)))
    with pytest.raises(RecipeError, match=r"257 recurrent layers .* no more than 256"):
        recipe.save(GraphModule({"leaf": nn.RNN(1, 1, 257)}, graph), tmp_path)


def test_deep_nesting_is_refused(small: Path) -> None:
    value: Any = 0
    for depth, message in ((70, "nested more than"), (200, "is nested too deep")):
        for _ in range(depth):
            value = {"tuple": [value]}
        edited(small, "nodes", 2, "args", to=[value])
        with pytest.raises(RecipeError, match=message):
            recipe.load(small)
    (small / "recipe.json").write_text('{"format":' * 100_000)
    with pytest.raises(RecipeError, match="is nested too deep"):
        recipe.load(small)


def test_files_that_are_not_there(small: Path) -> None:
    (small / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"there is no file .*model.safetensors"):
        recipe.read(small)
    with pytest.raises(RecipeError, match=r"there is no file .*recipe.json"):
        recipe.read(small / "nowhere")


@pytest.mark.parametrize("file", ["recipe.json", "model.safetensors"])
def test_any_changed_byte_is_noticed(file: str, small: Path) -> None:
    data = (small / file).read_bytes()
    expected = recipe.load(small)
    for position in range(0, len(data), 7):
        (small / file).write_bytes(
            data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]
        )
        try:
            loaded = recipe.load(small)
        except RecipeError:
            continue
        assert file == "recipe.json"  # a changed blank, for instance
        assert loaded.code == expected.code
    for length in range(0, len(data), 97):
        (small / file).write_bytes(data[:length])
        with pytest.raises(RecipeError):
            recipe.load(small)
