"""Networks for where conet-fx is not: as Python source, as a program of torch.export, as ONNX."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from torch import nn
from torch.fx import GraphModule

from conet_fx import recipe
from conet_fx.errors import ExportError
from conet_fx.export import programs
from conet_fx.export.source import check_outputs, class_name, write_source
from conet_fx.passes.inputs import Inputs
from conet_fx.recipe.describe import describe
from conet_fx.recipe.files import sync

__all__ = ["Format", "export"]

Format = Literal["python", "torch-export", "onnx"]
_SUFFIXES: Mapping[str, Format] = {".py": "python", ".pt2": "torch-export", ".onnx": "onnx"}


def export(
    source: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    example_inputs: Inputs | None = None,
    dynamic_batch: bool = True,
) -> Path:
    """Write a network to ``path`` in a form that other programs read. Returns the path.

    * ``"python"``: the source of a ``torch.nn.Module`` class that needs torch only (torchvision too where its operators
      are used), with the module names of the network. It has no weights: its ``load_state_dict`` takes
      ``model.safetensors`` of :func:`conet_fx.save`, and the ``state_dict()`` of ``source``.
    * ``"torch-export"``: a ``.pt2`` file of ``torch.export``, weights included.
    * ``"onnx"``: an ONNX file, weights included (those beyond 2 GB lie beside it). Needs ``conet-fx[onnx]``.

    The two programs are of eval mode, for inputs like ``example_inputs`` in batches of any size, and are run before
    ``path`` is written: their outputs equal those of the network, up to 1e-5 of the largest, at two sizes of batches.
    The file appears as a whole or not at all. ``source`` is not changed.

    Args:
        source: a GraphModule that ``plan.resize`` gave (for the two programs any module), or a directory that
            :func:`conet_fx.save` wrote.
        format: by default what the suffix of ``path`` says: .py, .pt2 or .onnx.
        example_inputs: a batch, as :func:`conet_fx.analyze` takes it: needed for the two programs. Where it is given
            for ``"python"``, the outputs of the source are checked to be bit-identical to those of ``source``.
        dynamic_batch: False for programs of batches of exactly the example's size. The batch is dim 0 of the first
            tensor among the inputs, and of those that are as long there.

    Raises:
        ExportError: it cannot be written in this form, with the reason and what to do.
        RecipeError: the directory cannot be read, or ``source`` has what no recipe can name (for ``"python"``).
        TypeError, ValueError: arguments that do not fit.
    """
    path = Path(path)
    format = format or _format_of(path)
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, not {format!r}")
    if format != "python":
        if example_inputs is None:
            raise ValueError(f"{format} records a run of the network: pass example_inputs (--shape), one batch for it")
        module = source if isinstance(source, nn.Module) else recipe.load(source)
        writer = programs.write_onnx if format == "onnx" else programs.write_torch_export
        call = programs.example_call(module, example_inputs)
        _write(path, lambda file: writer(module, call, file, dynamic_batch))
        return path
    if isinstance(source, nn.Module) and not isinstance(source, GraphModule):
        raise ExportError(
            f"a {type(source).__name__} is no torch.fx.GraphModule, whose graph the source is written from: export "
            "what conet_fx.analyze(model, example).resize(sizes) gives. A model that was traced in pieces "
            "(plan.trace.pieces) keeps its class there, whose source you have: conet_fx.save and conet_fx.apply keep "
            "its sizes and weights"
        )
    found = describe(source, {}, {}) if isinstance(source, GraphModule) else recipe.read(source)
    name = class_name(type(source).__name__ if isinstance(source, nn.Module) else found.model.get("class", ""))
    text = write_source(found, name)
    if example_inputs is not None:
        check_outputs(text, name, found, example_inputs)
    _write(path, lambda file: file.write_text(text, encoding="utf-8"))
    return path


def _format_of(path: Path) -> Format:
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"{path} could be of any format: give it the suffix {', '.join(_SUFFIXES)}, or pass format= (--format)"
        )
    return _SUFFIXES[path.suffix]


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file, and put it (and others that it made) in its place as a whole."""
    if path.is_dir():
        raise ExportError(f"{path} is a directory: name the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as temporary:
        main = Path(temporary, path.name)
        write(main)
        for made in sorted(Path(temporary).iterdir(), key=lambda made: made == main):  # the file that names others last
            sync(made)
            made.replace(path.parent / made.name)
    sync(path.parent)
