"""Networks as programs of torch.export and ONNX: what is written runs, with batches of any size, and says why not."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import ExportError
from tests.passes.cases import net
from tests.tiny import TinyNet

FORMATS = ["torch-export", "onnx"]
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx"}


def run(path: Path, *inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    """The outputs of an exported program."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})  # type: ignore[no-any-return]
    outputs = torch.export.load(path).module()(*inputs)
    return [output.numpy(force=True) for output in torch.utils._pytree.tree_leaves(outputs)]


def close(found: list[np.ndarray[Any, Any]], expected: Any) -> None:
    expected = [tensor.numpy(force=True) for tensor in torch.utils._pytree.tree_leaves(expected)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> fx.GraphModule:
    torch.manual_seed(0)
    return conet_fx.analyze(TinyNet(), torch.rand(2, 1, 6, 6)).resize({"a": 6, "b": 5}, init="inherit")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_batches_of_any_size(format: Any, batch: int, tiny: fx.GraphModule, tmp_path: Path) -> None:
    module = copy.deepcopy(tiny).train()
    module.norm.eval()
    modes, random = [part.training for part in module.modules()], torch.get_rng_state()
    example = torch.zeros(batch, 1, 6, 6)
    path = conet_fx.export(module, tmp_path / f"net{SUFFIX[format]}", example_inputs=example)
    assert modes == [part.training for part in module.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert [*tmp_path.iterdir()] == [path]
    for size in (1, 2, 5):
        x = torch.rand(size, 1, 6, 6)
        close(run(path, x), module.eval()(x))


@pytest.mark.parametrize("format", FORMATS)
def test_a_directory_and_a_users_own_class(format: Any, tiny: fx.GraphModule, tmp_path: Path) -> None:
    conet_fx.recipe.save(tiny, tmp_path / "saved")
    x = torch.rand(2, 1, 6, 6)
    path = conet_fx.export(tmp_path / "saved", tmp_path / "a", format=format, example_inputs={"x": x})
    close(run(path.rename(tmp_path / f"a{SUFFIX[format]}"), x), copy.deepcopy(tiny).eval()(x))
    model = TinyNet()
    close(
        run(conet_fx.export(model, tmp_path / f"b{SUFFIX[format]}", example_inputs=x), x),
        copy.deepcopy(model).eval()(x),
    )


class Several(nn.Module):
    """Two inputs of which one has no batch, a nest of outputs, dropout, and an input that is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        y = self.conv(x)
        return {"map": y * scale, "pair": (y.mean((2, 3)), y.argmax(1))}


@pytest.mark.parametrize("format", FORMATS)
def test_several_inputs_and_outputs(format: Any, tmp_path: Path) -> None:
    x, scale = torch.randn(2, 3, 4, 4), torch.rand(4, 1, 1)
    module = conet_fx.analyze(Several(), (x, scale)).resize({}, init="inherit")
    before = x.clone()
    path = conet_fx.export(module, tmp_path / f"net{SUFFIX[format]}", example_inputs=(x, scale))
    assert torch.equal(x, before)
    more = torch.randn(5, 3, 4, 4)
    close(run(path, more.clone(), scale), module.eval()(more.clone(), scale))


class FixedBatch(nn.Module):
    """A forward that spells out how many samples there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(2, -1)


@pytest.mark.parametrize("format", FORMATS)
def test_no_program_of_one_batch_size_by_accident(format: Any, tmp_path: Path) -> None:
    x = torch.rand(2, 3, 4, 4)
    module = conet_fx.analyze(FixedBatch(), x).resize({}, init="inherit")
    path = tmp_path / f"net{SUFFIX[format]}"
    with pytest.raises(ExportError, match=r"batch of any size .*dynamic_batch=False .*for 2 samples at a time"):
        conet_fx.export(module, path, example_inputs=x)
    assert not [*tmp_path.iterdir()]
    conet_fx.export(module, path, example_inputs=x, dynamic_batch=False)
    close(run(path, x), module(x))


def refuse(module: nn.Module, message: str, folder: Path, error: type[Exception] = ExportError, **options: Any) -> None:
    with pytest.raises(error, match=message):
        conet_fx.export(module, folder / "net.onnx", **options)
    assert not [*folder.iterdir()]


def test_arguments(tiny: fx.GraphModule, tmp_path: Path) -> None:
    refuse(tiny, "onnx records a run .*pass example_inputs .*--shape", tmp_path, ValueError)
    refuse(
        tiny, r"TinyNet does not run on inputs of shape \(2, 3, 6, 6\)", tmp_path, example_inputs=torch.rand(2, 3, 6, 6)
    )
    refuse(tiny, "example_inputs hold no tensor", tmp_path, TypeError, example_inputs=(1,))
    no_batch = net(lambda self, x: x * 2)
    refuse(no_batch, "has no dims, and so no batch", tmp_path, example_inputs=torch.tensor(1.0))


def test_a_fault_of_an_exporter_is_noticed(
    tiny: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = torch.export.load

    class Wrong(NamedTuple):
        program: Any

        def module(self) -> Any:
            return lambda x: self.program.module()(x) + 1e-3

    monkeypatch.setattr(torch.export, "load", lambda file: Wrong(wrong(file)))
    with pytest.raises(ExportError, match=r"the .pt2 file gives other outputs than TinyNet, by 0.001"):
        conet_fx.export(tiny, tmp_path / "net.pt2", example_inputs=torch.rand(2, 1, 6, 6))
    assert not [*tmp_path.iterdir()]


def test_random_numbers_in_eval_mode(tmp_path: Path) -> None:
    refuse(
        net(lambda self, x: x + torch.rand_like(x)), "draws random numbers", tmp_path, example_inputs=torch.rand(2, 3)
    )


def test_what_torch_does_not_export_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_data = net(lambda self, x: x * 2 if x.sum() > 0 else x)
    refuse(
        by_data, "torch.export cannot export Net with a batch of any size .*", tmp_path, example_inputs=torch.rand(2, 3)
    )
    no_onnx = net(lambda self, x: torch.linalg.eigh(x @ x.mT)[0])
    refuse(no_onnx, "torch.onnx has no ONNX form of Net", tmp_path, example_inputs=torch.rand(2, 3, 3))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # cannot be imported
    refuse(by_data, "ONNX needs onnxruntime, .*pip install 'conet-fx.onnx.'", tmp_path, example_inputs=torch.rand(2, 3))
