"""``recipe.json`` and ``model.safetensors``: Recipe -> JSON -> Recipe, with checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from conet_fx.errors import RecipeError
from conet_fx.recipe.spec import ModuleSpec, NodeSpec, Recipe, TensorSpec

FORMAT = "conet-fx recipe"
VERSION = 1
WEIGHTS = "model.safetensors"
RECIPE = "recipe.json"

_MAX_RECIPE_BYTES = 2**26


def to_json(recipe: Recipe, weights: Path) -> dict[str, Any]:
    """The content of ``recipe.json``; the last entry is the checksum of all others."""
    with weights.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "torch": recipe.torch,
        "model": recipe.model,
        "sizes": recipe.sizes,
        "weights": {"bytes": weights.stat().st_size, "sha256": checksum},
        "modules": {path: to_entry(spec) for path, spec in recipe.modules.items()},
        "tensors": {name: to_entry(spec) for name, spec in recipe.tensors.items()},
        "nodes": [to_entry(spec) for spec in recipe.nodes],
    }
    return document | {"sha256": digest(document)}


def parse(folder: Path) -> Recipe:
    """Both files, undamaged and of the right form; what they ask for is for ``build`` to judge.

    Raises:
        RecipeError: a file is missing, damaged, or of another form.
    """
    path = folder / RECIPE
    try:
        document = json.loads(_read_bytes(path, at_most=_MAX_RECIPE_BYTES), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RecipeError(f"{path} is not a {FORMAT}")
    if document.get("version") != VERSION:
        raise RecipeError(f"{path} has version {document.get('version')!r}, this conet-fx reads version {VERSION}")
    match document:
        case {
            "torch": str(written_by),
            "model": dict(model),
            "sizes": dict(sizes),
            "weights": {"bytes": int(length), "sha256": str(weights_sum), **unknown},
            "modules": dict(modules),
            "tensors": dict(tensors),
            "nodes": list(nodes),
            "sha256": str(own_sum),
            **others,
        } if others.keys() == {"format", "version"} and not unknown:
            pass
        case _:
            raise RecipeError(f"{path} does not have the entries of a {FORMAT}")
    if own_sum != digest({key: value for key, value in document.items() if key != "sha256"}):
        raise RecipeError(f"{path} was changed or damaged: its checksum does not fit its content")
    for name, text in model.items():
        if not isinstance(text, str):
            raise RecipeError(f"{path}: {name!r} of the model is no text")
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise RecipeError(f"{path}: group {name!r} has size {size!r}, not a positive number of channels")
    return Recipe(
        written_by,
        model,
        sizes,
        {name: _from_entry(ModuleSpec, entry) for name, entry in modules.items()},
        {name: _from_entry(TensorSpec, entry) for name, entry in tensors.items()},
        tuple(_from_entry(NodeSpec, entry) for entry in nodes),
        _read_weights(folder / WEIGHTS, length, weights_sum),
    )


def _read_weights(path: Path, length: int, checksum: str) -> dict[str, Tensor]:
    data = _read_bytes(path, at_most=length)
    if len(data) < length:
        raise RecipeError(f"{path} is cut short: {len(data)} bytes, {length} were saved")
    if hashlib.sha256(data).hexdigest() != checksum:
        raise RecipeError(f"{path} is damaged or of another save than {RECIPE}: its checksum does not fit")
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(data)
    except Exception as error:  # whatever safetensors has against an unknown file
        raise RecipeError(f"{path}: {type(error).__name__}: {error}") from error
    return weights


_Spec = TypeVar("_Spec", ModuleSpec, TensorSpec, NodeSpec)
_JSON_TYPES: dict[Any, Any] = {Any: object, list[Any]: list, Mapping[str, Any]: dict}
_FIELDS: dict[type, dict[str, Any]] = {
    cls: {name: _JSON_TYPES.get(hint, hint) for name, hint in typing.get_type_hints(cls).items()}
    for cls in (ModuleSpec, TensorSpec, NodeSpec)
}


def to_entry(spec: ModuleSpec | TensorSpec | NodeSpec) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    return {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) not in (field.default, {})
    }


def _from_entry(cls: type[_Spec], entry: Any) -> _Spec:
    kinds = _FIELDS[cls]
    try:
        if all(isinstance(value, kinds[name]) for name, value in entry.items()):
            return cls(**entry)
    except (AttributeError, KeyError, TypeError):
        pass
    raise RecipeError(f"{str(entry)[:200]} is no {cls.__name__}: it has {', '.join(kinds)}")


def _read_bytes(path: Path, at_most: int) -> bytes:
    try:
        if not path.is_file():
            raise RecipeError(f"there is no file {path}")
        if path.stat().st_size > at_most:
            raise RecipeError(f"{path} has {path.stat().st_size} bytes, more than the {at_most} that belong to it")
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def digest(data: Any) -> str:
    """sha256 of JSON data, whatever its layout in a file."""
    return hashlib.sha256(json.dumps(data, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk (Windows cannot open directories, nor need it to)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
