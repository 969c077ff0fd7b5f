"""The arguments of fx nodes as JSON data, and back."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from conet_fx.errors import RecipeError
from conet_fx.recipe.names import qualified_name, short
from conet_fx.recipe.spec import MAX_DEPTH, MAX_KEYS, MAX_NUMBERS, CallSpec

_CONSTANTS = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format)
}


def encode(value: object) -> Any:
    """An fx argument as JSON data: plain values and lists as they are, all else as ``{tag: content}``.

    Raises:
        TypeError: there is no such form of ``value``.
    """
    match value:
        case None | bool() | str():
            return value
        case int() if type(value) is int:
            return value
        case float():
            return float(value) if math.isfinite(value) else {"float": str(value)}
        case Node():
            return {"node": value.name}
        case tuple():
            return {"tuple": [encode(item) for item in value]}
        case list():
            return [encode(item) for item in value]
        case dict():
            return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
        case slice():
            return {"slice": [encode(value.start), encode(value.stop), encode(value.step)]}
        case torch.device():
            return {"device": str(value)}
        case types.EllipsisType():
            return {"ellipsis": None}
        case torch.dtype() | torch.layout() | torch.memory_format():
            return {"torch": str(value)}
    raise TypeError(f"{value!r} of type {qualified_name(type(value))} cannot be written as data")


def decode(value: Any, nodes: Mapping[str, Any], depth: int = 0) -> Any:
    """What :func:`encode` encoded, with its nodes looked up by name. Raises :class:`RecipeError`."""

    def inner(item: Any) -> Any:
        return decode(item, nodes, depth + 1)

    if depth > MAX_DEPTH:
        raise RecipeError(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, list):
        return [inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    match next(iter(value.items()), None) if len(value) == 1 else None:
        case "float", "inf" | "-inf" | "nan" as number:
            return float(number)
        case "node", str(name) if name in nodes:
            return nodes[name]
        case "tuple", list(items):
            return tuple(inner(item) for item in items)
        case "dict", list(items) if len(items) <= MAX_KEYS:
            return {inner(key): inner(item) for key, item in items}
        case "slice", [start, stop, step]:
            return slice(inner(start), inner(stop), inner(step))
        case "device", str(name):
            return torch.device(name)
        case "ellipsis", None:
            return ...
        case "torch", str(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
    raise RecipeError(f"{short(value)} is no value that a recipe may hold, or a node that is not before it")


def encode_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallSpec | None:
    """The arguments of a network as data, without the numbers in their tensors; None where they are not plain data."""
    names = Graph()
    tensors: dict[str, Any] = {}

    def name(a: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        node = names.placeholder("input")
        tensors[node.name] = {"shape": list(a.shape), "dtype": str(a.dtype)}
        return node

    try:
        given = encode(map_aggregate(list(args), name))
        return CallSpec(given, {key: encode(map_aggregate(value, name)) for key, value in kwargs.items()}, tensors)
    except TypeError:  # an object of the user's, which no file can hold
        return None


def decode_call(call: CallSpec) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What :func:`encode_call` encoded, with meta tensors. Raises :class:`RecipeError`."""
    tensors = {name: _meta_tensor(name, entry) for name, entry in call.tensors.items()}
    return tuple(decode(call.args, tensors)), {key: decode(value, tensors) for key, value in call.kwargs.items()}


def _meta_tensor(name: str, entry: Any) -> Tensor:
    match entry:
        case {"shape": list(shape), "dtype": str(name_of_dtype), **more} if not more and len(shape) <= MAX_DEPTH:
            dtype = _CONSTANTS.get(name_of_dtype)
            plain = all(type(n) is int and n >= 0 for n in shape)
            if plain and isinstance(dtype, torch.dtype) and math.prod(shape) <= MAX_NUMBERS:
                return torch.empty(shape, dtype=dtype, device="meta")
    raise RecipeError(f"input {short(name)} is declared as {short(entry)}, which is no tensor that a network takes")


_TYPES: dict[str, Any] = {"Tensor": Tensor, "None": type(None), "bool": bool, "float": float, "int": int}
_TEXT = re.compile(r"[\w.\[\], |]{1,200}", re.ASCII)  # names only: typing.get_type_hints evaluates it
_GENERICS: dict[str, Any] = {"Union": typing.Union, "dict": dict, "list": list, "tuple": tuple}


def encode_annotation(annotation: Any) -> Any:
    """A type annotation as JSON data: a name, or ``{generic: arguments}``; None for one that is dropped."""
    if isinstance(annotation, str):  # as ``from __future__ import annotations`` leaves it
        return {"text": annotation} if _TEXT.fullmatch(annotation) else None
    generic: Any = typing.get_origin(annotation)
    if generic is types.UnionType:
        generic = typing.Union
    if generic is typing.Union or isinstance(annotation, types.GenericAlias):  # typing.List is another object
        arguments = [encode_annotation(argument) for argument in typing.get_args(annotation)]
        name = next((name for name, member in _GENERICS.items() if member is generic), None)
        return {name: arguments} if name and arguments and None not in arguments else None
    return next((name for name, member in _TYPES.items() if member is annotation), None)


def decode_annotation(data: Any, depth: int = 0) -> Any:
    """What :func:`encode_annotation` encoded. Raises :class:`RecipeError`."""
    if isinstance(data, str) and data in _TYPES:
        return _TYPES[data]
    if isinstance(data, dict) and len(data) == 1 and depth < MAX_DEPTH:
        ((name, arguments),) = data.items()
        if name == "text" and isinstance(arguments, str) and _TEXT.fullmatch(arguments):
            return arguments
        if name in _GENERICS and isinstance(arguments, list) and arguments:
            return _GENERICS[name][tuple(decode_annotation(argument, depth + 1) for argument in arguments)]
    raise RecipeError(f"{short(data)} is no annotation that a recipe may hold")
