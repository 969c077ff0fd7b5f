"""A resized network is called as its model is, wherever it goes, and refuses what it was not traced for."""

from __future__ import annotations

import copy
import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import conet_fx
from tests.export.test_programs import close, run
from tests.passes.cases import conv

IMAGE = torch.randn(2, 3, 8, 8)


class Options(nn.Module):
    """Takes a number, two tensors that may be left out, and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 4)
        self.b = conv(4, 4)

    def forward(
        self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None, y: Tensor | None = None, *, flat: bool = True
    ) -> Tensor:
        z = self.b(self.a(x).relu()) * scale
        if mask is not None:
            z = z * mask
        if y is not None:
            z = z + self.b(self.a(y))
        return z.mean((2, 3)) if flat else z


CALLS: dict[str, dict[str, Any]] = {
    "a number": {"x": IMAGE, "scale": 0.5},
    "a gap": {"x": IMAGE, "y": -IMAGE},
    "a flag": {"x": IMAGE, "flat": False},
    "all": {"x": IMAGE, "scale": 2.0, "mask": IMAGE[:, :1], "y": IMAGE, "flat": False},
}


def pickled(network: fx.GraphModule, *_: Any) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


def saved(network: fx.GraphModule, plan: conet_fx.ChannelPlan, path: Path, call: Any) -> nn.Module:
    conet_fx.save(network, plan, path / "net")
    return conet_fx.load(path / "net")


def applied(network: fx.GraphModule, plan: conet_fx.ChannelPlan, path: Path, call: Any) -> nn.Module:
    conet_fx.save(network, plan, path / "net")
    return conet_fx.apply(Options(), path / "net")


def written(network: fx.GraphModule, plan: conet_fx.ChannelPlan, path: Path, call: Any) -> nn.Module:
    conet_fx.export(network, path / "net.py", example_inputs=call)
    module: nn.Module = runpy.run_path(str(path / "net.py"))["Options"]()
    module.load_state_dict(network.state_dict())
    return module


def traced_again(network: fx.GraphModule, plan: conet_fx.ChannelPlan, path: Path, call: Any) -> nn.Module:
    again = conet_fx.analyze(network, call)
    assert len(again.resize(again.sizes).graph.nodes) == len(network.graph.nodes)
    return again.resize(again.sizes, init="inherit")


def traced_by_fx(network: fx.GraphModule, *_: Any) -> nn.Module:
    return fx.symbolic_trace(network)


def compiled(network: fx.GraphModule, *_: Any) -> nn.Module:
    module: nn.Module = torch.compile(network, backend="eager")  # type: ignore[assignment]
    return module


WAYS: list[Callable[..., nn.Module]] = [
    *(lambda network, *_: network, lambda network, *_: copy.deepcopy(network)),
    *(pickled, saved, applied, written, traced_again, traced_by_fx, compiled),
]
NAMES = ["resized", "copied", "pickled", "saved", "applied", "written", "traced again", "traced by fx", "compiled"]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("name", CALLS)
def test_it_is_called_as_the_model_is(name: str, way: Callable[..., nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = CALLS[name]
    plan = conet_fx.analyze(Options(), call)
    network = plan.resize({"a": 7}, init="inherit")
    expected = network(**call)
    found = way(network, plan, tmp_path, call)
    assert torch.equal(found(**call), expected)
    if "scale" in call:
        given = [call[key] for key in ("x", "scale", "mask", "y") if key in call]
        assert torch.equal(found(*given, **{key: call[key] for key in ("flat",) if key in call}), expected)
    if way is applied:
        return  # the user's own class, which takes anything
    for key, value in {"scale": 3.0, "flat": True, "mask": IMAGE[:1, :1, :1, :1]}.items():
        # what the example gave, or what stands before a tensor that it gave, is checked; Python knows of no other
        # argument; torch.compile reports the assertion as an error of its own
        if not (key == "mask" and "mask" in call):
            with pytest.raises((AssertionError, TypeError, RuntimeError), match=f"{key} was|'{key}'"):
                found(**{**call, key: value})


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", CALLS)
def test_programs(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = CALLS[name]
    network = conet_fx.analyze(Options(), call).resize({"a": 7}).eval()
    code = network.code
    path = conet_fx.export(network, tmp_path / f"net{suffix}", example_inputs=call)
    assert network.code == code
    if suffix == ".onnx":
        close(run(path, *[value for value in call.values() if isinstance(value, Tensor)]), network(**call))
    else:
        program = torch.export.load(path).module()
        found = program(IMAGE, y=-IMAGE) if name == "a gap" else program(*call.values())
        close([found.numpy(force=True)], network(**call))


@pytest.mark.parametrize("name", CALLS)
def test_torch_export_takes_all_arguments_by_position(name: str) -> None:
    call = CALLS[name]
    network = conet_fx.analyze(Options(), call).resize({"a": 7}).eval()
    named = {"x": IMAGE, "scale": 1.0, "mask": None, "y": None, "flat": True} | call
    declared = [str(node.target) for node in network.graph.find_nodes(op="placeholder")]
    args = tuple(named[key] for key in declared)
    program = torch.export.export(network, args)
    assert torch.equal(program.module()(*args), network(**call))
    assert torch.equal(fx.Interpreter(network).run(*args), network(**call))


def test_a_search_gives_the_network_what_the_loader_gives() -> None:
    batches = [({"x": torch.randn(4, 3, 8, 8), "scale": 0.5}, torch.randint(4, (4,))) for _ in range(2)]
    result = conet_fx.optimize(
        Options(), batches, trials=1, epochs_per_trial=2, initial_channels=4, progress=False, accelerator="cpu"
    )
    images, _ = batches[0]
    assert result.model(**images).shape == (4, 4)


def test_a_tracer_of_ours_knows_that_a_tensor_is_not_none() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)

        def forward(self, x: Tensor, y: Any = None) -> Tensor:
            return self.a(x if y == None else x + y)  # noqa: E711

    model = Given()
    graph = conet_fx.analyze(model, (IMAGE, IMAGE)).trace.graph_module
    assert torch.equal(graph(IMAGE, IMAGE), model(IMAGE, IMAGE))
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] != []
