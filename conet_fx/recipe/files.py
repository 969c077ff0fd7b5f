"""``recipe.json`` and ``model.safetensors``: Recipe -> JSON -> Recipe, with checksums."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from conet_fx.errors import RecipeError
from conet_fx.recipe.names import short
from conet_fx.recipe.spec import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_NAME,
    MAX_VALUES,
    CallSpec,
    GroupSpec,
    ModuleSpec,
    NodeSpec,
    Recipe,
    TensorSpec,
)

FORMAT = "conet-fx recipe"
VERSION = 2
WEIGHTS = "model.safetensors"
RECIPE = "recipe.json"


def to_json(recipe: Recipe, weights: Path) -> dict[str, Any]:
    """The content of ``recipe.json``; the last entry is the checksum of all others."""
    with weights.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "torch": recipe.torch,
        "model": recipe.model,
        "groups": {name: dataclasses.asdict(group) for name, group in recipe.groups.items()},
        "weights": {"bytes": weights.stat().st_size, "sha256": checksum},
        "modules": {path: to_entry(spec) for path, spec in recipe.modules.items()},
        "tensors": {name: to_entry(spec) for name, spec in recipe.tensors.items()},
        "nodes": [to_entry(spec) for spec in recipe.nodes],
    }
    if recipe.call:
        document["inputs"] = to_entry(recipe.call)
    return document | {"sha256": digest(document)}


def graph_hash(nodes: Iterable[NodeSpec]) -> str:
    """The sha256 of a graph as a recipe holds it."""
    return digest([to_entry(node) for node in nodes])


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """``model.safetensors`` as the recipe describes it: where, how many bytes, their sha256."""

    path: Path
    length: int
    checksum: str

    def placeholders(self) -> dict[str, Tensor]:
        """The tensors without their data, on the meta device, as the header of the file declares them."""
        with _opened(self.path, self.length) as file:
            found = os.fstat(file.fileno()).st_size
            if found < self.length:
                raise RecipeError(f"{self.path} is cut short: {found} bytes, {self.length} were saved")
            size = int.from_bytes(file.read(8), "little")
            if size > min(MAX_BYTES, self.length):
                raise RecipeError(f"{self.path} declares a header of {size} bytes, more than it can have")
            header = _loads(self.path, file.read(size))
        if not isinstance(header, dict):
            raise RecipeError(f"{self.path} has no header of safetensors")
        header.pop("__metadata__", None)
        if len(header) > MAX_ENTRIES:
            raise RecipeError(f"{self.path} has {len(header)} tensors, more than {MAX_ENTRIES}")
        return {name: self._placeholder(name, entry) for name, entry in header.items()}

    def _placeholder(self, name: str, entry: Any) -> Tensor:
        match entry:
            case {"shape": list(shape), "data_offsets": [int(start), int(end)]} if len(shape) <= MAX_DEPTH:
                if all(type(n) is int and n >= 0 for n in shape) and 0 <= start <= end <= self.length:
                    if math.prod(shape) > 2 * (end - start):  # a number takes half a byte at least
                        have = f"{end - start} bytes"
                        raise RecipeError(f"{self.path} has {have} for {short(name)} of shape {short(shape)}")
                    with contextlib.suppress(RuntimeError, TypeError):  # sizes beyond what torch counts
                        return torch.empty(shape, device="meta")
        raise RecipeError(f"{self.path} declares {short(name)} as {short(entry)}, which is no tensor")

    def read(self) -> dict[str, Tensor]:
        """The tensors. Takes twice the memory of the file while it runs."""
        with _opened(self.path, self.length) as file:
            data = file.read(self.length + 1)
        if len(data) != self.length or hashlib.sha256(data).hexdigest() != self.checksum:
            raise RecipeError(f"{self.path} is damaged or of another save than {RECIPE}: its checksum does not fit")
        try:
            weights: dict[str, Tensor] = safetensors.torch.load(data)
        except Exception as error:  # whatever safetensors has against an unknown file
            raise RecipeError(f"{self.path}: {type(error).__name__}: {short(str(error))}") from error
        return weights


def parse(folder: Path) -> tuple[Recipe, WeightsFile]:
    """The recipe, undamaged and of the right form, its weights on the meta device, and the file that has them.

    What the recipe asks for is for ``build`` to judge.

    Raises:
        RecipeError: a file is missing, damaged, or of another form.
    """
    path = folder / RECIPE
    with _opened(path, MAX_BYTES) as file:
        document = _loads(path, file.read(MAX_BYTES + 1))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RecipeError(f"{path} is not a {FORMAT}")
    if type(document.get("version")) is not int or document["version"] != VERSION:
        found = short(document.get("version"))
        raise RecipeError(f"{path} has version {found}, this conet-fx reads version {VERSION}: save the network anew")
    match document:
        case {
            "torch": str(written_by),
            "model": dict(model),
            "groups": dict(groups),
            "weights": {"bytes": int(length), "sha256": str(weights_sum), **unknown},
            "modules": dict(modules),
            "tensors": dict(tensors),
            "nodes": list(nodes),
            "sha256": str(own_sum),
            **others,
        } if others.keys() - {"inputs"} == {"format", "version"} and not unknown:
            pass
        case _:
            raise RecipeError(f"{path} does not have the entries of a {FORMAT}")
    if own_sum != digest({key: value for key, value in document.items() if key != "sha256"}):
        raise RecipeError(f"{path} was changed or damaged: its checksum does not fit its content")
    for name, text in (*model.items(), ("torch", written_by)):
        if not isinstance(text, str) or len(text) > MAX_NAME:
            raise RecipeError(f"{path}: {short(name)} of the model is no text, or none of this length")
    if model.keys() - {"class", "keys"} != {"graph"} or model["graph"] != digest(nodes):
        raise RecipeError(f"{path}: the identity of the model does not fit: class, keys and the hash of its graph")
    if length > memory():
        raise RecipeError(f"{path} wants {length} bytes of weights, more than the memory of this machine")
    weights = WeightsFile(folder / WEIGHTS, length, weights_sum)
    recipe = Recipe(
        written_by,
        model,
        {name: _from_entry(GroupSpec, entry) for name, entry in groups.items()},
        {name: _from_entry(ModuleSpec, entry) for name, entry in modules.items()},
        {name: _from_entry(TensorSpec, entry) for name, entry in tensors.items()},
        tuple(_from_entry(NodeSpec, entry) for entry in nodes),
        weights.placeholders(),
        _from_entry(CallSpec, document["inputs"]) if "inputs" in document else None,
    )
    return recipe, weights


def memory() -> int:
    """Bytes of memory of this machine, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**63


_Spec = TypeVar("_Spec", CallSpec, GroupSpec, ModuleSpec, TensorSpec, NodeSpec)
_JSON_TYPES: dict[Any, Any] = {Any: object, list[Any]: list, Mapping[str, Any]: dict}
_FIELDS: dict[type, dict[str, Any]] = {
    cls: {name: _JSON_TYPES.get(hint, hint) for name, hint in typing.get_type_hints(cls).items()}
    for cls in (CallSpec, GroupSpec, ModuleSpec, TensorSpec, NodeSpec)
}


def to_entry(spec: CallSpec | ModuleSpec | TensorSpec | NodeSpec) -> dict[str, Any]:
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
            long = [value for value in entry.values() if isinstance(value, str) and len(value) > MAX_NAME]
            if not long and not any(type(value) is bool for name, value in entry.items() if kinds[name] is int):
                return cls(**entry)
    except (AttributeError, KeyError, TypeError):
        pass
    raise RecipeError(f"{short(entry)} is no {cls.__name__}: it has {', '.join(kinds)}")


@contextlib.contextmanager
def _opened(path: Path, at_most: int) -> Iterator[BinaryIO]:
    """A plain file of the directory itself that is no longer than ``at_most`` bytes."""
    try:
        if not path.is_file():
            raise RecipeError(f"there is no file {path}")
        if path.resolve().parent != path.parent.resolve():
            raise RecipeError(f"{path} is a link out of its directory, to {path.resolve()}: put a copy in its place")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > at_most:
                raise RecipeError(f"{path} has {size} bytes, more than the {at_most} that belong to it")
            yield file
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a path with a null in it
        raise RecipeError(f"{path} cannot be read: {error}") from error


def _loads(path: Path, text: bytes) -> Any:
    """JSON without what people do not write: keys that stand twice, numbers that no tensor takes, towers of lists."""
    try:
        document = json.loads(
            text.decode(),
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=_unique,
        )
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deep") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    level, count = [document], 1
    for _ in range(4 * MAX_DEPTH):
        level = [
            item
            for value in level
            if isinstance(value, list | dict)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        count += len(level)
        if count > MAX_VALUES:
            raise RecipeError(f"{path} holds more than {MAX_VALUES} values")
        if not level:
            return document
    raise RecipeError(f"{path} is nested too deep")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 2**64
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{short(digits)} is larger than any number that torch takes")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{short(digits)} is larger than any number that torch takes")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {short(name)} stands there twice")
        found[name] = value
    return found


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
