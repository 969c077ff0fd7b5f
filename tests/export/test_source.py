"""Networks as Python source: the same outputs to the last bit, the same names, and text that a person can read."""

from __future__ import annotations

import builtins
import contextlib
import copy
import importlib
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import ExportError, RecipeError
from conet_fx.export.layout import WIDTH
from tests import hostile, test_recipe
from tests.hostile import Files, bad_files, watch
from tests.passes.battery import call, random_sizes, tensors
from tests.passes.cases import CASES, Case, net
from tests.property.networks import Program, RandomNet, programs
from tests.property.profiles import EXAMPLES
from tests.tiny import TinyNet


def source_of(module: fx.GraphModule, folder: Path) -> str:
    """The source, which is the same from the module and from what it saves."""
    conet_fx.recipe.save(module, folder, model_id={"class": type(module).__name__})
    text = conet_fx.export(module, folder / "network.py").read_text()
    assert conet_fx.export(folder, folder / "again.py").read_text() == text
    return text


def made_from(text: str) -> nn.Module:
    """The network of a source, made where conet_fx cannot be imported."""

    def without_us(name: str, *rest: Any) -> Any:
        assert not name.startswith("conet_fx")
        return __import__(name, *rest)

    namespace: dict[str, Any] = {"__name__": "exported", "__builtins__": {**vars(builtins), "__import__": without_us}}
    exec(compile(text, "network.py", "exec"), namespace)
    made: nn.Module = namespace[re.findall(r"^class (\w+)", text, re.MULTILINE)[-1]]()
    return made


def check(module: fx.GraphModule, inputs: Any, folder: Path) -> str:
    """Export, load the saved weights, and compare in both modes. Returns the source."""
    text = source_of(module, folder)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    made = made_from(text)
    made.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=True)
    assert made.state_dict().keys() == module.state_dict().keys()
    for training in (False, True):
        outputs = []
        for network in (module, made):
            torch.manual_seed(0)
            outputs.append(list(tensors(call(copy.deepcopy(network).train(training), copy.deepcopy(inputs)))))
        for ours, theirs in zip(*outputs, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.requires_grad == theirs.requires_grad
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    return text


# --- the catalogue, and random networks ---------------------------------------------------------------------

# what has no source, and why: all of it has no recipe either
REFUSED = {
    "computed-orthogonal": "remove the parametrizations",
    "computed-parametrized_norm": "remove the parametrizations",
    "spellings-types_and_devices": "not among the operators",
}


@pytest.mark.filterwarnings("ignore")  # what torch thinks of the spellings in the catalogue
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_catalogue(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = conet_fx.analyze(case.build(), case.inputs(), **case.options)
    resized = plan.resize(random_sizes(plan.free, 0.5, 1.5, seed=0))
    if case.name in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[case.name]):
            conet_fx.export(resized, tmp_path / "network.py")
        assert not (tmp_path / "network.py").exists()
    else:
        check(resized, case.inputs(), tmp_path)


@pytest.mark.filterwarnings("ignore")
@settings(EXAMPLES, max_examples=EXAMPLES.max_examples // 3)
@given(programs())
def test_random_networks(program: Program) -> None:
    plan = conet_fx.analyze(RandomNet(program).double(), program.input())
    resized = plan.resize(random_sizes(plan.free, 0.5, 1.5, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        check(resized, program.input(), Path(folder))


# --- networks of torchvision, and strange ones --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* inherits only")  # shuffles move channels
@pytest.mark.parametrize(
    ("name", "init"),
    [
        *(("resnet18", "reset"), ("resnet18", "inherit"), ("shufflenet_v2_x0_5", "inherit")),
        *(("mobilenet_v3_small", "reset"), ("swin_t", "inherit"), ("googlenet", "reset")),
    ],
)
def test_networks_of_torchvision(name: str, init: Any, tmp_path: Path) -> None:
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    image = torch.rand(2, 3, 64, 64)
    plan = conet_fx.analyze(model.eval(), image)
    text = check(plan.resize(random_sizes(plan.free, 0.5, 1.5, seed=0), init=init), image, tmp_path)
    assert f"class {type(model).__name__}(nn.Module):" in text


@pytest.mark.parametrize("name", ["strange", "two_modes"])
def test_what_a_recipe_can_hold(name: str, tmp_path: Path) -> None:
    module = test_recipe.NETWORKS[name]().train()
    check(module, torch.rand(2, 3, 16, 16, dtype=next(module.parameters()).dtype), tmp_path)


class Strange(nn.Module):
    """Names, tensors and operators that take care to write down."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([nn.Parameter(torch.rand(3, 1, 1)) for _ in range(2)])
        self.named = nn.ParameterDict({"a b": nn.Parameter(torch.rand(3, 1, 1)), "ok": nn.Parameter(torch.rand(1))})
        self.add_module("__x", nn.Conv2d(3, 3, 1))
        self.register_buffer("table", torch.rand(3, 8, 8), persistent=False)
        self.register_buffer("constants", torch.tensor([1.0, float("inf"), -0.0]), persistent=False)
        self.register_buffer("numbers", torch.arange(64).view(8, 8))
        self.integers = nn.Parameter(torch.arange(3), requires_grad=False)
        self.linear = nn.Linear(8, 8)
        self.linear.weight.requires_grad_(False)
        self.narrow = nn.Linear(8, 8).bfloat16()
        self.heads = nn.ModuleList([nn.Conv2d(3, 2, 1) for _ in range(3)])
        self.chain = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU())
        self.chain.add_module("3", self.chain[1])

    def forward(self, input: Tensor, gain: float = 2.0) -> dict[str, Any]:
        y = input * self.listed[0] + self.listed[1] * self.named["a b"] - self.named["ok"]
        y = self.get_submodule("__x")(y) + self.table + self.numbers * self.integers[:, None, None]
        y = self.narrow(self.linear(y - self.constants[2]).bfloat16()).float()
        y = self.chain(y)
        z = y.clone()
        z[:, 0, 1:3] = y[:, 1, 2:4] * gain
        z[..., -1] += 2
        h, w = z.shape[-2:]
        z = z.view(-1, z.size(1), h * w // 2, 2) - -(1**2)
        z = -((z + 1) ** 2)
        z = (z + 1) * (z - (1 - z)) / (z * z + 1)
        values, indices = y.max(1)
        best = torch.topk(y, 2, dim=-1)
        return {"a": [head(y) for head in self.heads], "b": (z.relu_(), values, indices), "c": best.values, "n": None}


def test_strange_networks(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 8, 8)
    text = check(conet_fx.analyze(Strange(), x).resize({}, init="inherit"), x, tmp_path)
    assert 'float("inf"), -0.0' in text
    assert "self.listed[1] * self.named.get_parameter(" in text
    assert "self.linear.weight.requires_grad_(False)" in text
    assert "nn.Linear(8, 8).to(torch.bfloat16)" in text


def test_tensors_that_no_state_dict_has_are_asked_for(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 8, 8)
    module = conet_fx.analyze(Strange(), x).resize({}, init="inherit")
    made = made_from(source_of(module, tmp_path))
    with pytest.raises(KeyError, match=r"table is in no state dict: load model.safetensors"):
        made.load_state_dict(module.state_dict())


class Tied(nn.Module):
    """Parameters and buffers under several names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 1)
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        self.inner[1].weight = self.a.weight
        self.bias = self.a.bias
        self.register_buffer("one", torch.rand(40))
        self.register_buffer("other", self.one)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.a(x)) * self.bias[None, :, None, None] + self.one[:1] + self.other[1]


def test_shared_tensors_stay_shared(tmp_path: Path) -> None:
    module = conet_fx.analyze(Tied(), torch.rand(1, 3, 2, 2)).resize({}, init="inherit")
    check(module, torch.rand(1, 3, 2, 2), tmp_path)
    made = made_from((tmp_path / "network.py").read_text())
    made.load_state_dict(module.state_dict(), strict=True)
    assert made.inner[1].weight is made.a.weight
    assert made.bias is made.a.bias


def test_modules_under_two_names(tmp_path: Path) -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    module.add_module("again", module.get_submodule("0"))
    check(module, torch.rand(1, 3, 2, 2), tmp_path)
    made = made_from((tmp_path / "network.py").read_text())
    assert made.again is made.get_submodule("0")


def test_attention_and_recurrent_layers(tmp_path: Path) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y, _ = self.apart(self.joined(x, x, x)[0], x, x)
        return self.lstm(y)

    apart = nn.MultiheadAttention(6, 2, vdim=4)  # has come to be of one width by a resize
    apart.vdim, apart.v_proj_weight = 6, nn.Parameter(torch.rand(6, 6))
    model = net(forward, apart=apart, joined=nn.MultiheadAttention(6, 2), lstm=nn.LSTM(6, 5, 2, bidirectional=True))
    text = check(fx.symbolic_trace(model), torch.rand(2, 5, 6), tmp_path)
    assert "self.apart = unpacked_attention(6, 2" in text


def test_one_type_for_all(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double().requires_grad_(False)
    text = check(fx.symbolic_trace(model), torch.rand(2, 3, 2, 2, dtype=torch.float64), tmp_path)
    assert "self.to(torch.float64)" in text
    assert "self.requires_grad_(False)" in text


# --- how it reads -------------------------------------------------------------------------------------------

EXPECTED = """
class Block(nn.Module):
    def __init__(self, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(4, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv1(x)
        y = self.bn1(y)
        y = F.relu(y)
        y = F.interpolate(y, size=x.shape[-2:])
        y = self.conv2(y)
        return x + y


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.blocks = nn.Sequential(Block(6, 1), Block(7, 2))
        self.dropout = nn.Dropout(p=0.1)

    def forward(self, x):
        x = self.stem(x)
        x = self.blocks(x)
        chunk = x.chunk(2, dim=1)
        dropout = F.dropout(chunk[0], p=0.2, training=self.training)
        y = torch.cat((chunk[1], dropout), 1)
        y = self.dropout(y)
        return y.view(y.size(0), -1)
"""


class ReadableBlock(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(F.relu(self.bn1(self.conv1(x))), x.shape[-2:])
        return x + self.conv2(y)


def readable(self: Any, x: Tensor) -> Tensor:
    first, second = self.blocks(self.stem(x)).chunk(2, dim=1)
    x = self.dropout(torch.cat((second, F.dropout(first, 0.2, self.training)), 1))
    return x.view(x.size(0), -1)


def test_a_person_can_read_it(tmp_path: Path) -> None:
    model = net(
        readable,
        stem=nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
        blocks=nn.Sequential(ReadableBlock(6, 1), ReadableBlock(6, 2)),
        dropout=nn.Dropout(0.1),
    )
    plan = conet_fx.analyze(model, torch.rand(2, 3, 8, 8))
    text = check(plan.resize({"blocks.1.conv1": 7}, init="inherit"), torch.rand(2, 3, 8, 8), tmp_path)
    assert text.partition("\n\n\n")[2].strip() == EXPECTED.strip()


def test_a_module_that_is_called_twice_has_one_class(tmp_path: Path) -> None:
    block = net(lambda self, x: F.relu(self.conv(x)) + x, conv=nn.Conv2d(3, 3, 1))
    layers = nn.ModuleList([nn.Conv2d(3, 3, 1) for _ in range(2)])

    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(self.block(x))
        return x

    module = conet_fx.analyze(net(forward, block=block, layers=layers), torch.rand(1, 3, 2, 2)).resize({})
    text = check(module, torch.rand(1, 3, 2, 2), tmp_path)
    assert text.count("x = self.block(x)") == 2
    assert "self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])" in text


def test_a_graph_of_somebody_else_is_readable_too(tmp_path: Path) -> None:
    """Without the scopes that our trace leaves, functions go with the layers around them."""
    module = fx.symbolic_trace(torchvision.models.resnet18(num_classes=10))
    text = check(module, torch.rand(2, 3, 32, 32), tmp_path)
    assert "self.layer1 = nn.Sequential(LayerBlock(" in text


# --- what is refused ----------------------------------------------------------------------------------------


def refuse(module: Any, message: str, folder: Path, error: type[Exception] = ExportError, **options: Any) -> None:
    with pytest.raises(error, match=message):
        conet_fx.export(module, folder / "network.py", **options)
    assert not (folder / "network.py").exists()
    assert not [*folder.glob(".export*")]


@pytest.mark.parametrize("name", ["torch", "F"])
def test_an_input_whose_name_is_needed(name: str, tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder(name)
    graph.output(graph.call_function(F.relu, (graph.call_function(torch.abs, (x,)),)))
    refuse(fx.GraphModule(nn.Module(), graph), f"an input of the network is called '{name}'", tmp_path)


def test_tensors_of_several_types_in_a_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].weight.data = model[1].weight.data.double()
    refuse(fx.symbolic_trace(model), "module '1' has tensors of several types .*float32.*float64", tmp_path)


def test_what_is_no_graph(tmp_path: Path) -> None:
    refuse(TinyNet(), "TinyNet is no torch.fx.GraphModule.*analyze", tmp_path)
    refuse(tmp_path / "nowhere", "there is no file", tmp_path, RecipeError)


def test_arguments(tmp_path: Path) -> None:
    module = fx.symbolic_trace(TinyNet())
    with pytest.raises(ValueError, match=r"net.txt could be of any format"):
        conet_fx.export(module, tmp_path / "net.txt")
    refuse(module, "format must be one of python, torch-export, onnx", tmp_path, ValueError, format="tf")
    with pytest.raises(ExportError, match="is a directory"):
        conet_fx.export(module, tmp_path, format="python")
    with pytest.raises(TypeError, match="do not fit"):
        conet_fx.export(module, tmp_path / "net.py", example_inputs={"y": torch.rand(1)})


def test_outputs_are_compared_where_there_is_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fx.symbolic_trace(TinyNet())
    x = torch.rand(2, 1, 6, 6)
    assert conet_fx.export(module, tmp_path / "net.py", example_inputs=x) == tmp_path / "net.py"
    package = importlib.import_module("conet_fx.export")
    monkeypatch.setattr(package, "write_source", lambda recipe, name: WRONG.format(name))
    refuse(module, "gives other outputs", tmp_path, example_inputs=x)


WRONG = """
from torch import nn
class {}(nn.Module):
    def load_state_dict(self, state_dict): pass
    def forward(self, x): return x[:, 0, 0, :3] * 0
"""


@pytest.mark.parametrize(
    "scope", ["a.b", "conv", "conv.weight", "x y", "forward", "a" * 300, "..", 'a"]; print(1)', "training", "0.1"]
)
def test_scopes_of_an_unknown_file_are_hints(scope: str, tmp_path: Path) -> None:
    graph = fx.Graph()
    y = graph.call_module("conv", (graph.placeholder("x"),))
    relu = graph.call_function(F.relu, (y,))
    relu.meta["scope"] = scope
    graph.output(graph.call_method("abs", (relu,)))
    module = fx.GraphModule({"conv": nn.Conv2d(3, 4, 1)}, graph)
    check(module, torch.rand(1, 3, 2, 2), tmp_path)


def test_the_world_is_left_alone(tmp_path: Path) -> None:
    module = fx.symbolic_trace(TinyNet()).train()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random = torch.get_rng_state()
    conet_fx.export(module, tmp_path / "net.py", example_inputs=torch.rand(2, 1, 6, 6, generator=torch.Generator()))
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [part.training for part in module.modules()]
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in before.items())


@given(bad=bad_files())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_recipes_of_an_attacker_are_refused_or_written(bad: Files) -> None:
    """The source is run once to check it: nothing that a file says may run then."""
    watch()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, on constants that make no sense
        Path(folder, "recipe.json").write_bytes(bad.recipe)
        Path(folder, "model.safetensors").write_bytes(bad.weights)
        with contextlib.suppress(ExportError, RecipeError):
            conet_fx.export(folder, Path(folder, "network.py"))
    assert not hostile.seen
