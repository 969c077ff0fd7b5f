"""Tracing: the caller's model stays as it is, Python that asks for sizes is followed, errors name the user's line."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import TraceError
from conet_fx.passes.nodes import tensors
from conet_fx.passes.trace import Trace, trace
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)
HERE = str(Path(__file__))


def line_of(function: Callable[..., Any], text: str) -> str:
    """ "file:line" of the line of ``function`` that contains ``text``."""
    lines, first = inspect.getsourcelines(function)
    return f"{HERE}:{first + next(i for i, line in enumerate(lines) if text in line)}"


def same_outputs(traced: Trace, model: nn.Module, *inputs: Any, **keywords: Any) -> None:
    """In eval mode the traced module gives the bits of the model."""
    expected = model.eval()(*inputs, **keywords)
    assert torch.equal(traced.graph_module.eval()(*inputs, **keywords), expected)


# --- the caller's side -----------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Fails unless ``channels`` is 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = conv(3, channels)
        self.norm = nn.BatchNorm2d(channels).eval()

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(self.norm(self.a(x)), 0.5, self.training)
        return y + torch.rand(2, 5, 8, 8)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_caller_changes(fails: bool) -> None:
    model = Noisy(4 if fails else 5)
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    model.a.register_forward_pre_hook(lambda *_: calls.append("a"))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    if fails:
        with pytest.raises(TraceError, match="add"):
            trace(model, IMAGE)
    else:
        trace(model, IMAGE)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "model" not in calls
    if not fails:
        calls.clear()
        model(IMAGE)
        assert calls == ["a", "model"]


@pytest.mark.parametrize("used", [False, True])
def test_cuda_is_not_initialised_for_a_trace(used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight GPUs, of which the process uses none, or some."""
    kept: dict[int, str] = {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.update({device: state}))
    trace(Noisy(5), IMAGE)
    assert kept == ({n: f"state {n}" for n in range(8)} if used else {})


def test_parameters_are_shared_with_the_caller() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2))
    traced = trace(model, IMAGE)
    assert traced.graph_module.get_submodule("0") is model[0]
    same_outputs(traced, model, IMAGE)


# --- where a node comes from -----------------------------------------------------------------------------------------


def test_nodes_know_their_line() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return y.relu()

    graph = trace(net(forward, a=conv(3, 4)), IMAGE).graph_module.graph
    found = {node.name: node.meta["source"] for node in graph.nodes if node.op in ("call_module", "call_method")}
    assert found == {"a": line_of(forward, "self.a"), "relu": line_of(forward, "relu()")}


def test_values_are_meta_tensors_of_the_right_shape() -> None:
    traced = trace(nn.Sequential(conv(3, 4), nn.Flatten()), IMAGE)
    values = {node.name: node.meta["val"] for node in traced.graph_module.graph.nodes if node.op == "call_module"}
    assert {name: tuple(value.shape) for name, value in values.items()} == {"_0": (2, 4, 8, 8), "_1": (2, 256)}
    assert all(value.is_meta for value in values.values())


def test_values_of_fake_tensors_are_plain_ones() -> None:
    """A convolution of a part of the channels runs on fake tensors; on these, what follows would take far longer."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.norm(self.b(self.a(x).chunk(2, 1)[1])).relu()

    graph = trace(net(forward, a=conv(3, 4), b=conv(2, 4), norm=nn.BatchNorm2d(4)), IMAGE).graph_module.graph
    values = [value for node in graph.nodes for value in tensors(node.meta["val"])]
    assert {type(value) for value in values} == {Tensor}
    assert all(value.is_meta for value in values)


def test_an_operator_that_fails_names_shapes_and_line() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y)

    with pytest.raises(TraceError) as caught:
        trace(net(forward, a=conv(3, 4), b=conv(5, 4)), IMAGE)
    assert line_of(forward, "self.b") in str(caught.value)
    assert "(2, 4, 8, 8)" in str(caught.value)


# --- control flow ----------------------------------------------------------------------------------------------------


def test_a_branch_on_data_names_its_line() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.sum() > 0:
            y = -y
        return y

    with pytest.raises(TraceError, match="depends on the data") as caught:
        trace(net(forward, a=conv(3, 4)), IMAGE)
    assert line_of(forward, "if y.sum()") in str(caught.value)


@pytest.mark.parametrize("ask", [int, float, lambda s: [0] * s])
def test_a_number_from_data_is_an_error(ask: Callable[[Any], Any]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        ask(x.argmax())
        return self.a(x)

    with pytest.raises(TraceError):
        trace(net(forward, a=conv(3, 4)), IMAGE)


@pytest.mark.parametrize(
    ("compute", "advice"),
    [
        (lambda x: torch.from_numpy(np.hanning(x.shape[2])), r"give it int\(x\.shape\[2\]\)"),
        (lambda x: torch.from_numpy(np.stack(np.meshgrid(np.arange(x.shape[2])))), r"give it int\(x\.shape\[2\]\)"),
        (lambda x: torch.vmap(lambda image: image / image.amax())(x), "put this part into a module of its own"),
        (lambda x: torch.func.grad(lambda y: (y**2).sum())(x), "put this part into a module of its own"),
        (lambda x: torch.FloatTensor(x.size(0), 1, 1, 1).uniform_(), r"call torch\.empty\(n\) in its place"),
    ],
)
def test_what_takes_no_symbolic_values_says_what_to_do(compute: Callable[[Any], Any], advice: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) * compute(x)

    with pytest.raises(TraceError, match=advice):
        trace(net(forward, a=conv(3, 4)), IMAGE)


def test_python_that_asks_for_shapes_is_followed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.shape[1] > 3:
            y = -y
        for axis in range(y.dim()):
            y = y.flip(axis) if y.size(axis) == 8 else y
        b, c, h, w = y.shape
        assert isinstance(int(c), int)
        assert len(y.shape) == 4
        y = y.view(b, -1, int(h) * w)
        scale = 1.0 / float(c)
        *first, _ = y.unbind(0)
        return y * scale if len(first) == 1 else y

    model = net(forward, a=conv(3, 4))
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)
    assert sum(node.target == "flip" for node in traced.graph_module.graph.nodes) == 2


def test_numbers_and_types_as_text() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = getattr(self, f"for_{x.shape[1]}")(x)
        assert (
            f"{y.shape[1]:03d} {y.dtype} {str(y.device).split(':')[0]} {x.shape!s}"
            == "004 torch.float32 cpu {}".format("torch.Size([2, 3, 8, 8])")
        )
        assert "%d %s" % (y.shape[1], x.dtype) == "4 torch.float32"  # noqa: UP031
        assert f"{x}" != ""
        z: Tensor = y * 2
        return z

    model = net(forward, for_3=conv(3, 4))
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)


def test_zip_and_unpacking() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        parts = self.a(x).chunk(2, 1)
        return torch.cat([part * (i + 1) for i, part in enumerate(reversed(list(parts)))], 1)

    model = net(forward, a=conv(3, 4))
    same_outputs(trace(model, IMAGE), model, IMAGE)


def test_isinstance_sees_a_tensor() -> None:
    """torchvision's DenseNet and many others wrap a single tensor in a list."""

    def forward(self: Any, x: Tensor | list[Tensor]) -> Tensor:
        features = [x] if isinstance(x, Tensor) else x
        assert isinstance(features[0].shape[1], int)
        return torch.cat([self.a(feature) for feature in features], 1)

    model = net(forward, a=conv(3, 4))
    same_outputs(trace(model, IMAGE), model, IMAGE)
    assert "isinstance" not in globals()


def test_tensors_of_computed_sizes_follow_the_batch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        ones = torch.ones(y.size(0), 1, 1, 1) + torch.zeros((y.shape[0],) + (1,) * (y.ndim - 1))
        return y + ones + torch.zeros(*y.shape) + torch.full((y.shape[0], 1, 1, 1), 2.0)

    model = net(forward, a=conv(3, 4))
    zeros = torch.zeros
    traced = trace(model, IMAGE)
    assert torch.zeros is zeros
    same_outputs(traced, model, torch.randn(5, 3, 6, 6))


def test_a_parameter_that_the_forward_replaces_is_refused_with_advice() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.scale = nn.Parameter(self.scale.softmax(0))
        return self.a(x) * self.scale

    with pytest.raises(TraceError, match="No optimiser has a parameter that the forward makes"):
        trace(net(forward, a=conv(3, 4), scale=nn.Parameter(torch.rand(4, 1, 1))), IMAGE)


OF_CONSTANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "expand": lambda c, x: c.expand(x.shape[0], 3, -1, -1),
    "new_zeros": lambda c, x: c.new_zeros(x.shape[0], 3, 1, 1),
    "new_ones": lambda c, x: c.new_ones(x.shape[0], 1, x.shape[2], 1),
    "new_empty": lambda c, x: c.new_empty(x.shape[0], 3, 1, 1).fill_(0.5),
    "new": lambda c, x: c.new(x.shape[0], 3, 1, 1).fill_(0.5),
    "roll": lambda c, x: c.roll(x.shape[2] // 2, 2),
    "torch.roll": lambda c, x: torch.roll(c, shifts=x.shape[2] // 2, dims=2),
    "split": lambda c, x: c.split(x.shape[1], 2)[1][:, :, :1],
    "torch.split": lambda c, x: torch.split(c, x.shape[1], 2)[1][:, :, :1],
    "interpolate": lambda c, x: F.interpolate(c, size=x.shape[2:]),
    "interpolate to a tuple": lambda c, x: F.interpolate(c, (x.shape[2], x.shape[3])),
    "type": lambda c, x: c.double().type(x.type())[:, :, :1] * torch.arange(3)[:, None, None].type(x.dtype),
    "divmod": lambda c, x: c[:, :, sum(divmod(x.shape[2], 5)) :][:, :, :1] * divmod(9, x.shape[3])[0],
}


@pytest.mark.parametrize("use", OF_CONSTANTS)
def test_numbers_of_the_graph_are_given_to_constants(use: str) -> None:
    """Tables that are no buffers: where no tensor is a value of the graph, torch itself asks for numbers of Python."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x + OF_CONSTANTS[use](self.table, x))

    model = net(forward, a=conv(3, 4), table=torch.rand(1, 1, 8, 1))
    methods = dict(vars(torch.Tensor))
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)
    same_outputs(traced, model, torch.randn(5, 3, 8, 8))
    assert dict(vars(torch.Tensor)) == methods


class Double(torch.autograd.Function):
    """As one whose forward is a kernel in another language: it takes tensors and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            raise TypeError("the kernel takes tensors")
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 7  # not the derivative


def test_an_autograd_function_keeps_its_backward_in_a_module_that_is_one_call() -> None:
    inner = net(lambda self, x: Double.apply(x))
    model = net(lambda self, x: self.inner(self.a(x)), a=conv(3, 4), inner=inner)
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)
    gradients = []
    for module in (model, traced.graph_module):
        model.zero_grad()
        module(IMAGE).sum().backward()
        gradients.append(model.a.weight.grad)
    assert torch.equal(*gradients)


def test_an_autograd_function_in_the_root_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        TraceError, match=r"Double is a torch.autograd.Function.*the kernel takes tensors.*register_module"
    ):
        trace(net(lambda self, x: Double.apply(self.a(x)), a=conv(3, 4)), IMAGE, in_pieces=False)


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_tuple_of_inputs() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.a(y)

    model = net(forward, a=conv(3, 4))
    traced = trace(model, (IMAGE, -IMAGE))
    assert traced.inputs == ("x", "y")
    same_outputs(traced, model, IMAGE, -IMAGE)


def test_keyword_inputs() -> None:
    def forward(self: Any, x: Tensor, *, mask: Tensor, scale: float = 2.0) -> Tensor:
        return self.a(x * mask) * scale

    model = net(forward, a=conv(3, 4))
    traced = trace(model, {"mask": IMAGE, "x": IMAGE})
    assert set(traced.inputs) == {"x", "mask"}
    same_outputs(traced, model, x=IMAGE, mask=IMAGE)


def test_defaults_that_the_example_leaves_out_are_no_inputs() -> None:
    def forward(self: Any, x: Tensor, mask: Tensor | None = None, factor: int = 3) -> Tensor:
        y = self.a(x) * factor
        return y if mask is None else y * mask

    model = net(forward, a=conv(3, 4))
    traced = trace(model, IMAGE)
    assert traced.inputs == ("x",)
    same_outputs(traced, model, IMAGE)


def scaled(self: Any, x: Tensor, scale: float = 1.0, mask: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    """A forward with an argument that is no tensor, and two that may be left out."""
    z = self.a(x) * scale
    if mask is not None:
        z = z * mask
    return z if y is None else z + self.a(y)


@pytest.mark.parametrize(
    ("example", "signature", "calls", "refused"),
    [
        (
            (IMAGE, 0.5),
            "(x, scale=0.5)",
            [((IMAGE, 0.5), {}), ((IMAGE,), {"scale": 0.5})],
            [((IMAGE, 0.25), {}, "scale was 0.5")],
        ),
        (
            {"x": IMAGE, "y": -IMAGE},
            "(x, scale=1.0, mask=None, y=None)",
            [((IMAGE,), {"y": -IMAGE}), ((IMAGE, 1.0, None, -IMAGE), {}), ((), {"y": IMAGE, "x": IMAGE, "mask": None})],
            [
                ((IMAGE,), {}, "y was a tensor"),
                ((IMAGE, 1.0, IMAGE[:1, :1, :1, :1], IMAGE), {}, "mask was None"),
                ((IMAGE,), {"scale": 2, "y": IMAGE}, "scale was 1.0"),
            ],
        ),
        (
            {"x": IMAGE, "scale": 2, "mask": IMAGE[:, :1]},
            "(x, scale=2, mask=None)",
            [((IMAGE, 2, IMAGE[:, 1:2]), {}), ((IMAGE,), {"scale": 2.0, "mask": IMAGE[:, :1]})],
            [((IMAGE, None, IMAGE[:, :1]), {}, "scale was 2")],
        ),
    ],
)
def test_the_graph_is_called_as_the_model_is(example: Any, signature: str, calls: Any, refused: Any) -> None:
    model = net(scaled, a=conv(3, 4))
    traced = trace(model, example)
    for graph in (traced.graph_module, trace(traced.graph_module, example).graph_module):
        assert str(inspect.signature(graph.forward)).replace(" -> torch.Tensor", "") == signature
        for args, kwargs in calls:
            assert torch.equal(graph(*args, **kwargs), model(*args, **kwargs))
        for args, kwargs, text in refused:
            with pytest.raises(AssertionError, match=text):
                graph(*args, **kwargs)


def test_what_has_no_default_has_none_in_the_graph() -> None:
    def forward(self: Any, x: Tensor, flip: bool, y: Tensor, *, sizes: list[int], kind: torch.dtype) -> Tensor:
        z = self.a(x) + F.interpolate(self.a(y), sizes).to(kind)
        return z.flip(1) if flip else z

    model = net(forward, a=conv(3, 4))
    call: dict[str, Any] = {"x": IMAGE, "flip": True, "y": IMAGE, "sizes": [8, 8], "kind": torch.float32}
    graph = trace(model, call).graph_module
    assert str(inspect.signature(graph.forward)).startswith("(x, flip, y, sizes=[8, 8], kind=torch.float32)")
    assert torch.equal(graph(**call), model(**call))
    assert torch.equal(graph(IMAGE, True, IMAGE), model(**call))
    with pytest.raises(TypeError, match="'y'"):
        graph(IMAGE, True)
    for wrong in ({"flip": False}, {"sizes": [4, 4]}, {"kind": torch.float64}):
        with pytest.raises(AssertionError, match=f"{next(iter(wrong))} was"):
            graph(**{**call, **wrong})


@pytest.mark.parametrize("value", [float("nan"), object(), [object()], {1: 2}, 1 + 2j], ids=lambda v: type(v).__name__)
def test_an_argument_that_code_cannot_hold_is_fixed_and_no_argument_of_the_graph(value: Any) -> None:
    def forward(self: Any, x: Tensor, value: Any) -> Tensor:
        return self.a(x)

    model = net(forward, a=conv(3, 4))
    graph = trace(model, (IMAGE, value)).graph_module
    assert torch.equal(graph(IMAGE), model(IMAGE, value))
    with pytest.raises(TypeError):
        graph(IMAGE, value)


def test_variable_number_of_inputs() -> None:
    def forward(self: Any, *images: Tensor) -> Tensor:
        return torch.cat([self.a(image) for image in images], 1)

    model = net(forward, a=conv(3, 4))
    traced = trace(model, (IMAGE, -IMAGE, IMAGE))
    same_outputs(traced, model, IMAGE, -IMAGE, IMAGE)


def test_a_list_of_images_in_one_argument() -> None:
    def forward(self: Any, images: list[Tensor]) -> Tensor:
        return torch.cat([self.a(image) for image in images], 1)

    model = net(forward, a=conv(3, 4))
    traced = trace(model, ([IMAGE, -IMAGE],))
    same_outputs(traced, model, [IMAGE, -IMAGE])


class Pair(NamedTuple):
    """Two results."""

    first: Tensor
    second: Tensor


def test_named_tuple_as_output() -> None:
    def forward(self: Any, x: Tensor) -> Pair:
        y = self.a(x)
        return Pair(y, -y)

    model = net(forward, a=conv(3, 4))
    traced = trace(model, IMAGE)
    result = traced.graph_module.eval()(IMAGE)
    assert torch.equal(result[1], -result[0])
    assert torch.equal(result[0], model.eval()(IMAGE).first)


@pytest.mark.parametrize(
    ("model", "example", "kind", "text"),
    [
        (lambda x: x, IMAGE, TypeError, "model must be a torch.nn.Module, not function"),
        (conv(3, 4), "image", TypeError, "example_inputs must be a tensor"),
        (conv(3, 4), 3, TypeError, "example_inputs must be a tensor"),
        (conv(3, 4), (), TypeError, "do not fit Conv2d.forward"),
        (conv(3, 4), (IMAGE, IMAGE), TypeError, "do not fit Conv2d.forward"),
        (conv(3, 4), {"image": IMAGE}, TypeError, "do not fit Conv2d.forward"),
        (conv(3, 4), (3,), TypeError, "hold no tensor"),
        (conv(3, 4), torch.empty(0, 3, 8, 8), ValueError, "are empty"),
        (nn.Sequential(nn.LazyConv2d(4, 1)), IMAGE, TraceError, "is lazy and has no shape yet"),
    ],
)
def test_bad_arguments(model: Any, example: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        trace(model, example)


# --- modes -----------------------------------------------------------------------------------------------------------


def test_functional_dropout_follows_the_mode_of_the_traced_module() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.dropout(self.a(x), 0.5, training=self.training)

    model = net(forward, a=conv(3, 4))
    for training in (True, False):
        traced = trace(model.train(training), IMAGE)
        module = traced.graph_module
        assert not traced.one_mode
        assert module.training == training
        assert torch.equal(module.eval()(IMAGE), model.a(IMAGE))
        assert (module.train()(IMAGE) == 0).float().mean() > 0.3


def test_what_one_mode_alone_runs_is_marked() -> None:
    model = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=4)
    traced = trace(model.eval(), torch.randn(1, 3, 64, 64))
    assert not traced.one_mode
    modes = {str(node.target)[:4]: node.meta.get("only_in") for node in traced.graph_module.graph.nodes}
    assert (modes["aux1"], modes["aux2"], modes["fc"]) == ("train", "train", None)


def test_batch_norm_that_is_frozen_stays_so() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 4), nn.BatchNorm2d(4)).train()
    model[1].eval()
    module = trace(model, IMAGE).graph_module
    assert module.training
    assert [module.get_submodule(name).training for name in "0123"] == [True, False, True, True]


# --- modules, parameters, buffers ------------------------------------------------------------------------------------


def in_one_mode(*names: str, mode: bool) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        for name in names:
            getattr(self, name).train(mode)
        return self.out(self.drop(self.norm(self.a(x))))

    return forward


def flag_by_hand(self: Any, x: Tensor) -> Tensor:
    """Detection heads of YOLO have this line."""
    self.training |= self.export
    y = self.out(self.drop(self.norm(self.a(x))))
    return y if self.training else y.sigmoid()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("forward", "export"),
    [
        (in_one_mode("norm", mode=False), False),
        (in_one_mode("norm", mode=True), False),
        (in_one_mode("drop", mode=True), False),
        (in_one_mode("norm", "drop", "out", mode=False), False),
        (flag_by_hand, False),
        (flag_by_hand, True),
    ],
)
def test_modes_that_the_forward_sets(forward: Callable[[Any, Tensor], Tensor], export: bool, training: bool) -> None:
    model = net(forward, a=conv(3, 4), norm=nn.BatchNorm2d(4), drop=nn.Dropout(0.5), out=conv(4, 5), export=export)
    plan = conet_fx.analyze(model.train(training), IMAGE)
    assert [group.name for group in plan.free] == ["a"]
    same = plan.resize({}, init="inherit")
    for mode in (True, False, True):
        outputs = []
        for each in (model, same):
            torch.manual_seed(0)
            outputs.append(each.train(mode)(IMAGE))
        assert torch.equal(*outputs)
    assert torch.equal(same.norm.running_mean, model.norm.running_mean)
    assert plan.resize({"a": 7})(IMAGE).shape == (2, 5, 8, 8)


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x if self.training and x.sum() > 0 else x


def test_a_mode_that_no_graph_can_hold_is_refused() -> None:
    with pytest.raises(TraceError, match=r"the forward switches the mode of part \(Undecided\)"):
        trace(net(lambda self, x: self.part.train()(self.a(x)), a=conv(3, 4), part=Undecided()), IMAGE)


def test_a_recurrent_layer_in_a_mode_of_its_own() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.lstm.eval()
        return self.lstm(self.a(x).flatten(2).transpose(1, 2))[0]

    model = net(forward, a=conv(3, 4), lstm=nn.LSTM(4, 4, 2, dropout=0.5))
    plan = conet_fx.analyze(model, IMAGE)
    same_outputs(plan.trace, model, IMAGE)
    assert "not in the table" in (plan.group("a").frozen or "")


def test_a_subclass_with_its_own_init_is_a_leaf_and_one_with_its_own_forward_is_not() -> None:
    class Conv3x3(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3, padding=1)

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(Conv3x3(3, 4), Scaled(4, 4, 1))
    traced = trace(model, IMAGE)
    targets = [node.target for node in traced.graph_module.graph.nodes if node.op == "call_module"]
    assert targets == ["0"]
    same_outputs(traced, model, IMAGE)


def test_a_shared_module_has_one_name() -> None:
    shared = conv(4, 4)
    model = nn.Sequential(conv(3, 4), shared, nn.ReLU(), shared)
    traced = trace(model, IMAGE)
    targets = [node.target for node in traced.graph_module.graph.nodes if node.op == "call_module"]
    assert targets == ["0", "1", "2", "1"]
    same_outputs(traced, model, IMAGE)


def test_tensors_in_plain_attributes_and_made_in_forward() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x) * self.scale + torch.ones(4, 1, 1)
        return y - self.table["shift"].to(y.dtype)

    model = net(forward, a=conv(3, 4), scale=torch.rand(4, 1, 1), table={"shift": torch.rand(4, 1, 1)})
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)
    assert set(traced.graph_module.state_dict()) == set(model.state_dict())


def test_assignment_to_a_slice_is_recorded() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, 1:3] = 0
        return y

    model = net(forward, a=conv(3, 4))
    traced = trace(model, IMAGE)
    same_outputs(traced, model, IMAGE)


def test_buffers_keep_their_persistence() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.rand(4, 1, 1))
            self.register_buffer("derived", torch.rand(4, 1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.kept + self.derived

    model = nn.Sequential(conv(3, 4), Shift())
    module = trace(model, IMAGE).graph_module
    assert set(module.state_dict()) == {"0.weight", "0.bias", "1.kept"}
    assert dict(module.named_buffers()).keys() == {"1.kept", "1.derived"}


def test_a_name_that_fx_uses_itself_is_refused_in_words() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.code(x)

    with pytest.raises(TraceError, match=r"'code' cannot be in a torch.fx.GraphModule"):
        trace(net(forward, code=conv(3, 4)), IMAGE)


def test_a_tensor_that_a_model_keeps_with_its_gradient_is_refused_with_advice() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.last = self.a(x)
        return self.last

    model = net(forward, a=conv(3, 4))
    model(IMAGE)
    with pytest.raises(TraceError, match="kept as attributes"):
        trace(model, IMAGE)


def test_integers_and_half_precision_inputs() -> None:
    def forward(self: Any, ids: Tensor) -> Tensor:
        return self.a(self.embed(ids).permute(0, 3, 1, 2))

    model = net(forward, embed=nn.Embedding(10, 3), a=conv(3, 4))
    ids = torch.randint(0, 10, (2, 8, 8))
    same_outputs(trace(model, ids), model, ids)
    trace(conv(3, 4).to(torch.bfloat16), IMAGE.to(torch.bfloat16))


def test_a_single_layer_is_a_model() -> None:
    model = conv(3, 4)
    same_outputs(trace(model, IMAGE), model, IMAGE)
