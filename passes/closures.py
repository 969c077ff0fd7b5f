"""Copies of modules whose functions call the copies: deepcopy leaves what a function closes over as it was."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_module(root: Module, memo: dict[int, Any]) -> Module:
    """``copy.deepcopy`` with this memo. The functions that modules keep (``self.act = lambda x: self.conv(x)``,
    ``model.forward = wrapped(model.forward)``) call the copied modules; what torch.compile made of such a function is
    the function again.
    """
    twin = copy.deepcopy(root, memo)
    renewed = _Renewed(memo)
    for module in twin.modules():
        for name, value in vars(module).items():
            if type(value) in _KINDS and name not in _TORCHS:
                vars(module)[name] = renewed.of(value)
    return twin


class _Renewed:
    """Values with copies in place of the modules that they hold."""

    def __init__(self, memo: Mapping[int, Any]) -> None:
        self._memo = memo
        self._cells: dict[int, types.CellType] = {}

    def of(self, value: Any) -> Any:
        """``value`` itself where it holds none of the modules."""
        return self._renewed(value) if self._holds(value, set()) else value

    def _holds(self, value: Any, seen: set[int]) -> bool:
        if isinstance(value, nn.Module):
            return id(value) in self._memo
        if type(value) not in _KINDS or id(value) in seen:
            return False
        seen.add(id(value))
        return any(self._holds(part, seen) for part in _parts(value))

    def _renewed(self, value: Any) -> Any:
        match value:
            case nn.Module():
                return self._memo[id(value)]
            case types.MethodType():
                return types.MethodType(value.__func__, self.of(value.__self__))
            case functools.partial():
                options = {name: self.of(item) for name, item in value.keywords.items()}
                return functools.partial(self.of(value.func), *map(self.of, value.args), **options)
            case types.FunctionType():
                if hasattr(value, _COMPILED):
                    return self.of(getattr(value, _COMPILED))
                cells = tuple(self._cell(cell) for cell in value.__closure__ or ())
                defaults = self.of(value.__defaults__)
                new = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells)
                new.__kwdefaults__ = self.of(value.__kwdefaults__)
                new.__dict__.update(value.__dict__)
                return new
            case dict():
                return {name: self.of(item) for name, item in value.items()}
        return type(value)(map(self.of, value))

    def _cell(self, cell: types.CellType) -> types.CellType:
        """A cell with the copy of its content, one for all functions that share it."""
        if id(cell) not in self._cells:
            new = self._cells[id(cell)] = types.CellType()  # known before its content: a function may call itself
            for content in _contents(cell):
                new.cell_contents = self.of(content)
        return self._cells[id(cell)]


_TORCHS = frozenset(vars(nn.Module()))  # tables of parts and hooks
_KINDS = frozenset((types.FunctionType, types.MethodType, functools.partial, list, tuple, dict))
_COMPILED = "_torchdynamo_orig_callable"  # where torch.compile keeps what it compiles


def _parts(value: Any) -> Iterable[Any]:
    """What a value of ``_KINDS`` holds."""
    match value:
        case types.MethodType():
            return (value.__self__,)
        case functools.partial():
            return (value.func, *value.args, *value.keywords.values())
        case types.FunctionType():
            cells = [content for cell in value.__closure__ or () for content in _contents(cell)]
            return (*cells, value.__defaults__, value.__kwdefaults__, getattr(value, _COMPILED, None))
        case dict():
            return value.values()
    return cast(Iterable[Any], value)


def _contents(cell: types.CellType) -> list[Any]:
    """What is in a cell: nothing where its variable has no value yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
