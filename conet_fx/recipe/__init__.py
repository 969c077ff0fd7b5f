"""Networks on disk without pickle: ``model.safetensors`` holds the weights, ``recipe.json`` all the rest as
data.

A recipe lists the modules (class and constructor arguments), the tensors and the fx nodes of one
``GraphModule``. Reading one runs no code that the files bring along: functions, methods and module classes
are looked up by name in the operator table (and torch's own list of tensor functions), names are checked
before fx writes them into Python source, and modules are constructed on the meta device, where a size costs
no memory, before they are held against the weights that are really there. Every fault is a
:class:`~conet_fx.errors.RecipeError`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import nn
from torch.fx import GraphModule

from conet_fx.passes.inputs import Arguments
from conet_fx.recipe.build import build, need_graph
from conet_fx.recipe.describe import CodeError, describe
from conet_fx.recipe.files import RECIPE, WEIGHTS, parse, sync, to_json
from conet_fx.recipe.spec import GroupSpec, ModuleSpec, NodeSpec, Recipe, TensorSpec
from conet_fx.recipe.transfer import identify, transfer

__all__ = [
    "CodeError",
    "GroupSpec",
    "ModuleSpec",
    "NodeSpec",
    "Recipe",
    "TensorSpec",
    "apply",
    "identify",
    "load",
    "read",
    "save",
]


def save(
    module: nn.Module,
    dir: str | os.PathLike[str],
    *,
    groups: Mapping[str, GroupSpec] | None = None,
    model_id: Mapping[str, str] | None = None,
    call: Arguments | None = None,
    with_graph: bool = True,
) -> None:
    """Write ``module`` to ``dir`` (made if missing) as ``model.safetensors`` and ``recipe.json``.

    Kept: the graph, parameters and buffers (non-persistent ones too), their sharing, dtypes and
    ``requires_grad``, the mode (train or eval) of each module. Not kept: devices and strides, hooks,
    ``meta``, the classes of containers. A named tuple in the graph becomes a tuple, and an annotation that is
    more than tensors, plain numbers and their unions, lists, tuples and dicts is dropped.

    Both files are written under temporary names, synced and renamed, the recipe last. When an overwriting
    save is cut short between the two renames, the old recipe's checksum does not fit the new weights, and
    reading says so.

    A module that is no GraphModule (what ``plan.resize`` gives for a detector, which is traced in pieces) is saved
    without a graph: :func:`apply` puts its sizes and weights into the user's class, :func:`load` refuses.

    Not saved, with an error that says what to do instead: data classes in the graph, layers with parametrizations
    other than ``weight_norm`` and ``spectral_norm``, modules and functions that the operator table does not know.

    Args:
        module: for instance the result of ``plan.resize``. It is not changed.
        dir: the directory; other files in it are left alone.
        groups: the channel groups by name, as far as they are known.
        model_id: what :func:`identify` says of the user's model, so that :func:`apply` can tell it from
            others.
        call: what the network was traced on. With it, :func:`apply` can check that the user's class follows.
        with_graph: False: without the graph, as for a module that has none.

    Raises:
        CodeError: a class or operator in the graph that a recipe may not name.
        RecipeError: a module that its constructor arguments do not describe, or the like. Nothing has been written
            then.
    """
    recipe = describe(module, dict(groups or {}), dict(model_id or {}), call, with_graph)
    build(recipe)  # what could not be loaded is not saved
    folder = Path(dir)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".save-", dir=folder) as temporary:
        weights, text = Path(temporary, WEIGHTS), Path(temporary, RECIPE)
        safetensors.torch.save_file(dict(recipe.weights), weights)
        text.write_text(json.dumps(to_json(recipe, weights), indent=1), encoding="utf-8")
        parse(Path(temporary))  # a recipe beyond the limits is not written either
        for path in (weights, text):
            sync(path)
        for path in (weights, text):
            path.replace(folder / path.name)
        sync(folder)


def load(dir: str | os.PathLike[str]) -> GraphModule:
    """Build the network that :func:`save` wrote to ``dir``, on the CPU, without the class it was traced from.

    Raises:
        RecipeError: the files are missing, damaged or of another format, or they ask for what a recipe may
            not, or the recipe has no graph, since the model was traced in pieces.
    """
    recipe = _read(Path(dir))
    need_graph(recipe)
    return build(recipe)


def read(dir: str | os.PathLike[str]) -> Recipe:
    """Read and check the recipe in ``dir``.

    Raises:
        RecipeError: as :func:`load`.
    """
    recipe = _read(Path(dir))
    build(recipe)
    return recipe


def _read(folder: Path) -> Recipe:
    """The recipe, whose weights are read once all that can be checked without them was."""
    draft, weights = parse(folder)
    build(draft)
    return dataclasses.replace(draft, weights=weights.read())


def apply(model: nn.Module, source: str | os.PathLike[str] | Recipe) -> nn.Module:
    """A deep copy of ``model``, of the user's own class, with the sizes and the weights of a recipe.

    The leaf modules get the recorded constructor arguments, the parameters and buffers the recorded values. Of a
    convolution, linear layer or norm that was traced through (``weight_norm``, a subclass with a ``forward`` of its
    own) the sizes are set to those of its weight.
    State dict keys, hooks, modes, devices, ``requires_grad`` and tensors outside the graph stay as in
    ``model``, which is not changed. A ``forward`` that spells out channel counts (``x.view(-1, 512)``) is
    code, which a recipe cannot resize: it is followed on the meta device, on inputs like those of the recipe, and
    refused with the line to change. Where the count is an attribute (``x.view(-1, self.width)``, an item of
    ``x.split(self.parts, 1)``) that is a width and nothing else, or computed from one, the attribute is set.

    Args:
        model: an instance, of any sizes, of the class that the recipe was made from.
        source: a directory that :func:`save` wrote, or the result of :func:`read`.

    Raises:
        RecipeError: the recipe cannot be read, or it was made for another model (the first differences are
            named), or the graph does not tell the groups of a convolution that was traced through, or ``forward``
            spells out a width that the recipe has changed (its line is named).
    """
    return transfer(model, source if isinstance(source, Recipe) else read(source))
