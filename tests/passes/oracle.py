"""PyTorch's own symbolic shapes as a second opinion on channel sizes: an oracle that uses none of our passes.

A copy of the model is run under fake tensors. Every channel dim of every weight, bias and buffer has a symbol of its
own as its size (kernels, inputs and dims of length 1 stay numbers), and so have the ``groups`` of a depthwise
convolution and the ``normalized_shape`` of a layer norm. PyTorch guards whatever its operators need to be equal or
divisible; the outputs are held at their present shapes. What comes out is linear algebra: the sizes of all channel
axes, the equations between them, and what must be a multiple of what.

A number that the program spells out (the sizes given to view or split, ``groups``) pins a size here, whereas a rewrite
changes the number; the remainder of a floor division is taken to stay.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import FloorDiv, Max, Mod, PythonMod

Axis = tuple[str, int]  # parameter or buffer by name, dim
Row = dict[Any, Fraction]  # a linear form: variable -> coefficient, without its constant


@dataclasses.dataclass(frozen=True)
class Relations:
    """What PyTorch asks of channel sizes. ``axes``: the size of each axis of each tensor that the model used.

    ``equal``: differences that stay zero. ``divisible``: forms that stay multiples of a number. Only changes count, so
    no form has a constant: the present sizes fulfil everything. ``unread``: equalities that are not linear.
    """

    axes: Mapping[Axis, Row]
    equal: Sequence[Row]
    divisible: Sequence[tuple[Row, int]]
    unread: Sequence[str]


def relations(model: nn.Module, inputs: Sequence[torch.Tensor]) -> Relations:
    """Run a copy of ``model`` on fake ``inputs`` and read what PyTorch's shape environment noted."""
    world = _World()
    model = copy.deepcopy(model).eval()
    with world.mode:
        axes = world.make_symbolic(model)
        fakes = [world.mode.from_tensor(t, static_shapes=True) for t in inputs]
        with torch.no_grad(), enable_python_dispatcher(), world.used:
            result = model(*fakes)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                for length in leaf.shape:
                    int(length)  # guards that it is what it is now
    reader = _Reader(world.hints)
    reader.read([guard.expr for guard in world.env.guards])
    reader.read([sympy.Eq(symbol, size, evaluate=False) for symbol, size in world.env.replacements.items()])
    left = None
    while reader.unread and len(reader.unread) != left:  # what is equal may make them linear
        left = len(reader.unread)
        reader.read_again()
    used = {axis: _form(size) for axis, (size, tensor) in axes.items() if id(tensor) in world.used.seen}
    return Relations(used, reader.equal, reader.divisible, list(map(str, reader.unread)))


class _Used(TorchFunctionMode):
    """Remembers which tensors some operator was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        return func(*args, **(kwargs or {}))


_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.ParameterList,
    parametrize.ParametrizationList,
    parametrizations._SpectralNorm,
    nn.Sequential,
)


class _World:
    """A shape environment, its fake tensors, and the present value of each symbol."""

    def __init__(self) -> None:
        self.env = ShapeEnv(duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.mode.cache_enabled = False  # costs more than it saves here
        self.used = _Used()
        self.hints: dict[sympy.Symbol, int] = {}

    def size(self, name: str, length: int) -> Any:
        """A symbol of its own with ``length`` as its present value; a length of 1 stays 1, since it may broadcast."""
        if length == 1:
            return 1
        source = ConstantSource(name)
        symbol = self.env.create_symbol(length, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
        self.hints[symbol] = length
        return self.env.create_symintnode(symbol, hint=length, source=source)

    def make_symbolic(self, model: nn.Module) -> dict[Axis, tuple[Any, torch.Tensor]]:
        """Fake tensors of symbolic sizes in place of all others; the size and the tensor of each axis by name.

        Layers of torch.nn that are not convolutions, linear layers, norms or embeddings keep their numbers.
        """
        axes: dict[Axis, tuple[Any, torch.Tensor]] = {}
        fakes: dict[int, torch.Tensor] = {}
        for path, module in model.named_modules():
            if type(module).__module__.startswith("torch.nn.") and not isinstance(module, _LAYERS):
                continue
            depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
            groups = self.size(f"{path}.groups", module.groups) if depthwise else 1
            plain = {name for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
            for name in (*module._parameters, *module._buffers, *sorted(plain)):
                tensor = getattr(module, name)
                where = f"{path}.{name}".lstrip(".")
                if not isinstance(tensor, torch.Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                    continue
                if id(tensor) not in fakes:
                    sizes = self._sizes(module, where, tensor)
                    if depthwise and name == "weight":
                        sizes = [groups * (tensor.shape[0] // module.groups), *tensor.shape[1:]]
                    fake = torch.empty(sizes, dtype=tensor.dtype)
                    fakes[id(tensor)] = nn.Parameter(fake) if isinstance(tensor, nn.Parameter) else fake
                    if name not in plain:
                        axes |= {(where, axis): (n, fakes[id(tensor)]) for axis, n in enumerate(sizes)}
                setattr(module, name, fakes[id(tensor)])
            self._set_numbers(path, module, groups)
        return {axis: (n, fake) for axis, (n, fake) in axes.items() if isinstance(n, torch.SymInt)}

    def _sizes(self, module: nn.Module, where: str, tensor: torch.Tensor) -> list[Any]:
        """Symbols for all dims but those of a kernel: of a convolution's weight, or (3, 3) at the end of a filter."""
        space = set(tensor.shape[2:])
        kernel = isinstance(module, nn.modules.conv._ConvNd) or (len(space) == 1 and space != {1} and tensor.dim() > 3)
        symbols = [self.size(f"{where}.{axis}", n) for axis, n in enumerate(tensor.shape[: 2 if kernel else None])]
        return [*symbols, *tensor.shape[len(symbols) :]]

    def _set_numbers(self, path: str, module: nn.Module, groups: Any) -> None:
        """The numbers of channels that ``forward`` of a layer reads."""
        if isinstance(module, nn.modules.conv._ConvNd) and not isinstance(groups, int):
            module.groups = groups
        elif isinstance(module, nn.modules.instancenorm._InstanceNorm):
            module.num_features = self.size(f"{path}.num_features", module.num_features)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            shape = module.normalized_shape
            module.normalized_shape = tuple(self.size(f"{path}.shape.{axis}", n) for axis, n in enumerate(shape))


class _Reader:
    """Turns guards into linear equations and divisibilities, near the present sizes."""

    def __init__(self, hints: Mapping[sympy.Symbol, int]) -> None:
        self._hints = hints
        self.equal: list[Row] = []
        self.divisible: list[tuple[Row, int]] = []
        self.unread: list[Any] = []
        self._known = Span()

    def read(self, guards: Iterable[Any]) -> None:
        """Note equalities; inequalities choose between kernels and say nothing of sizes."""
        for guard in guards:
            if guard.has(sympy.Eq):
                try:
                    for equality in self._facts(guard):
                        self._equality(equality)
                except _NotLinearError:
                    self.unread.append(guard)

    def read_again(self) -> None:
        """Try what was not linear with all sizes written in terms of those that are independent."""
        self._known = Span(self.equal)
        guards, self.unread = self.unread, []
        self.read(guards)

    def _facts(self, guard: Any) -> Sequence[Any]:
        """The equalities that a guard asks for."""
        if isinstance(guard, sympy.And):
            return guard.args
        if isinstance(guard, sympy.Or):
            true = [fact for fact in guard.args if self._now(fact) == sympy.true]
            weakest = [fact for fact in true if fact.has(Mod, PythonMod)] or true
            if len(weakest) != 1:
                raise _NotLinearError
            return weakest
        return [guard]

    def _equality(self, fact: Any) -> None:
        if not isinstance(fact, sympy.Eq):
            raise _NotLinearError
        left, right = fact.args
        if isinstance(left, (Mod, PythonMod)) and right == 0:
            self._multiple(*left.args)
            return
        try:
            self.equal.append(self._linear(left - right))
        except _NotLinearError:  # a product is zero where a factor is, and sizes are not zero
            difference = self._largest(left - right)
            factors = [factor for factor, _ in sympy.factor_list(difference)[1]] if difference != 0 else []
            vanishing = [factor for factor in factors if self._now(factor) == 0]
            if len(vanishing) > 1:
                raise
            self.equal += map(self._linear, vanishing)

    def _multiple(self, form: Any, of: Any) -> None:
        if not self._linear(of):
            self.divisible.append((self._linear(form), int(self._now(of))))
        else:  # of another size: it is now, and stays so many times that size
            times = Fraction(int(self._now(form)), int(self._now(of)))
            self.equal.append(_plus(self._linear(form), self._linear(of), -times))

    def _linear(self, form: Any) -> Row:
        """The form without its constant."""
        if form.is_Integer:
            return {}
        if form.is_Symbol:
            return self._known.rest({form: Fraction(1)})
        if isinstance(form, sympy.Add):
            return functools.reduce(_plus, map(self._linear, form.args), {})
        if isinstance(form, sympy.Mul):
            rows = {factor: self._linear(factor) for factor in form.args if not factor.is_Rational}
            constant = sympy.Mul(*(factor for factor in form.args if not rows.get(factor)))
            moving = [row for row in rows.values() if row]
            if len(moving) <= 1:
                value = Fraction(str(self._now(constant)))
                return {var: value * times for var, times in moving[0].items()} if moving else {}
        if isinstance(form, FloorDiv):
            return self._floor(*form.args)
        if isinstance(form, (Max, sympy.Max)):
            return self._linear(self._largest(form))
        raise _NotLinearError

    def _floor(self, form: Any, by: Any) -> Row:
        a, b = self._linear(form), self._linear(by)
        if not b:
            count = int(self._now(by))
            self.divisible.append((a, count))
            return {var: value / count for var, value in a.items()}
        (first, value), *_ = b.items()
        if not a or _plus(a, b, -a.get(first, Fraction(0)) / value):
            raise _NotLinearError
        return {}  # a ratio that stays

    def _largest(self, form: Any) -> Any:
        """The form with each maximum replaced by what it is now."""
        return form.replace(lambda e: isinstance(e, (Max, sympy.Max)), lambda e: max(e.args, key=self._now))

    def _now(self, form: Any) -> Any:
        return form.subs({symbol: self._hints[symbol] for symbol in form.free_symbols})


class _NotLinearError(Exception):
    """An expression that is no linear form of sizes."""


def _form(size: torch.SymInt) -> Row:
    expression = size.node._expr
    (symbol,) = expression.free_symbols
    return {symbol: Fraction(int(expression.coeff(symbol)))}


def _plus(a: Row, b: Row, times: Fraction = Fraction(1)) -> Row:
    total = {**a}
    for var, value in b.items():
        total[var] = total.get(var, Fraction(0)) + times * value
        if not total[var]:
            del total[var]
    return total


class Span:
    """The linear span of rows, kept in reduced form: each row has a variable (its pivot) that no other row has."""

    def __init__(self, rows: Iterable[Row] = (), last: Iterable[Any] = ()) -> None:
        """``last``: variables that become pivots only where a row has no other."""
        self.rows: dict[Any, Row] = {}
        self._users: dict[Any, set[Any]] = {}
        self._last = set(last)
        for row in rows:
            self.add(row)

    def rest(self, row: Row) -> Row:
        """``row`` without what the span explains; empty where it lies in it."""
        for var in [var for var in row if var in self.rows]:
            row = _plus(row, self.rows[var], -row[var])
        return row

    def add(self, row: Row) -> bool:
        """False where the row lies in the span already."""
        row = self.rest(row)
        if not row:
            return False
        pivot = next((var for var in row if var not in self._last), next(iter(row)))
        row = {var: value / row[pivot] for var, value in row.items()}
        for other in self._users.pop(pivot, set()):
            if pivot not in self.rows[other]:  # gone since
                continue
            self.rows[other] = _plus(self.rows[other], row, -self.rows[other][pivot])
            self._note(other)
        self.rows[pivot] = row
        self._note(pivot)
        return True

    def _note(self, pivot: Any) -> None:
        for var in self.rows[pivot]:
            if var != pivot:
                self._users.setdefault(var, set()).add(pivot)

    def __len__(self) -> int:
        return len(self.rows)

    def null(self, variables: Iterable[Any]) -> list[Row]:
        """A basis of what all rows map to zero: one vector for each variable that is no pivot."""
        basis: dict[Any, Row] = {var: {var: Fraction(1)} for var in variables if var not in self.rows}
        for pivot, row in self.rows.items():
            for var, value in row.items():
                if var != pivot:
                    basis.setdefault(var, {var: Fraction(1)})[pivot] = -value
        return list(basis.values())
