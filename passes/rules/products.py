"""Products that sum over dims: matmul and its relatives, einsum, tensordot, attention as one function.

All of them are one behaviour: each dim of an operand has a *letter*, as in ``einsum``. Dims of one letter are tied, a
letter that the result lacks is summed over, and each dim of the result is that of its letter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import torch
from torch import fx, nn

from conet_fx.passes.call import Call, Layer, NoRule, Tensor, Value
from conet_fx.passes.depth import Dim, is_fixed
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.nodes import attribute
from conet_fx.passes.rules.base import NodeKind, Rule

Letters = tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True)
class Spelling:
    """A product: each operand with the letters of its dims, and the letters of the result.

    ``addend``: an operand that is added to the result; its letters are the last ones of the result.
    """

    operands: tuple[tuple[fx.Node, Letters], ...]
    result: Letters
    addend: fx.Node | None = None

    def terms(self, call: Call | MarkCall) -> Iterator[tuple[fx.Node, Letters]]:
        """All tensors that come in, with their letters."""
        yield from self.operands
        if self.addend is not None:
            ndim = _ndim(call, self.addend)
            yield self.addend, self.result[len(self.result) - ndim :]


class Product(Rule):
    """Two operands (or one) multiplied and summed over the letters that the result lacks."""

    kind: ClassVar[NodeKind] = "summation"
    pairs: ClassVar[bool] = True

    def spelling(self, call: Call | MarkCall) -> Spelling:
        raise NotImplementedError

    def depth(self, call: Call) -> Value:
        spelling = self.spelling(call)
        found: dict[Hashable, list[Dim]] = {letter: [] for letter in spelling.result}
        for node, letters in spelling.terms(call):
            dims = call.value(node).dims
            if len(set(letters)) < len(letters) and not all(is_fixed(dim) for dim in dims):
                raise NoRule("takes a diagonal")
            for letter, dim in zip(letters, dims, strict=True):
                found.setdefault(letter, []).append(dim)
        lengths = {letter: call.meet(dims) for letter, dims in found.items()}
        read = self._weights(call, spelling)
        for letter, dim in lengths.items():
            if letter not in spelling.result and letter not in read:
                call.mixes(dim)
        self.cost(call, spelling, lengths)
        return Tensor(tuple(lengths[letter] for letter in spelling.result))

    @staticmethod
    def _weights(call: Call, spelling: Spelling) -> set[Hashable]:
        """The letters along which parameters read the other operands, as linear layers do: new channels are zeros.

        A parameter then writes what comes with it to the result, or to the parameters that read it in turn.
        """
        owners = [_parameter(call, node) for node, _ in spelling.operands]
        given = {letter for (_, letters), owner in zip(spelling.operands, owners, strict=True) if not owner
                 for letter in letters}  # fmt: skip
        weights = [(layer, *operand) for operand, layer in zip(spelling.operands, owners, strict=True) if layer]
        read: set[Hashable] = set()
        while weights:
            for number, (layer, node, own) in enumerate(weights):
                others = {letter for _, _, letters in weights[:number] + weights[number + 1 :] for letter in letters}
                dims = dict(zip(own, call.value(node).dims, strict=True))
                reads = {letter for letter in own if letter in given and letter not in spelling.result}
                writes = [letter for letter in own if letter not in given and letter in others.union(spelling.result)]
                roles = {role for letter in reads for role, dim in layer.dims.items() if dim == dims[letter]}
                if reads and writes and len(roles) >= len(reads):
                    break
            else:
                return read
            call.facts.reading |= {(layer.path, role) for role in roles}
            call.facts.readers[layer.path] = tuple(part for letter in own if letter in reads for part in dims[letter])
            call.facts.writers[layer.path] = tuple(part for letter in writes for part in dims[letter])
            call.facts.linear.add(layer.path)
            read |= reads
            given.update(own)
            del weights[number]
        return read

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        """Count the multiply-adds: the product of all letters but those that one operand sums by itself."""
        (_, a), (_, b) = spelling.operands
        alone = (set(a) ^ set(b)) - set(spelling.result)
        call.count(1, *(dim for letter, dim in lengths.items() if letter not in alone))

    def labels(self, call: MarkCall) -> Any:
        spelling, marker = self.spelling(call), call.marker
        order: list[Hashable] = list(spelling.result)
        for _, letters in spelling.terms(call):
            order += [letter for letter in letters if letter not in order]
        summed = tuple(range(len(spelling.result), len(order)))
        meeting: dict[int, torch.Tensor] = {}
        for node, letters in spelling.terms(call):
            places = [order.index(letter) for letter in letters]
            shape = call.shape_of(node)
            for dim, field in call.fields_of(node).items():
                place = places[dim]
                if shape[dim] == 1 and place not in summed and call.out[place] != 1:
                    continue
                field = _laid_out(field, places, len(order))
                field = marker.collapse(field, tuple(axis for axis in summed if axis != place))
                if place in meeting and meeting[place].shape[place] == field.shape[place]:
                    marker.link(meeting[place], field)
                elif place not in meeting or meeting[place].shape[place] == 1:
                    meeting[place] = field
        out: Fields = {}
        for axis in range(len(spelling.result)):
            if not is_fixed(call.result.dims[axis]):
                out[axis] = meeting[axis].reshape(meeting[axis].shape[: len(spelling.result)])
        return out


def _parameter(call: Call, node: fx.Node) -> Layer | None:
    """The parameter that an operand is, perhaps with its dims in another order, or in another type."""
    while isinstance(node, fx.Node) and node.target in _THE_SAME and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    if node.op != "get_attr" or not isinstance(attribute(call.root, str(node.target)), nn.Parameter):
        return None
    return call.facts.layers.get(str(node.target))


_THE_SAME = {
    *("t", "transpose", "permute", "to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous"),
    *(torch.t, torch.transpose, torch.permute),
}


def _laid_out(field: torch.Tensor, places: list[int], ndim: int) -> torch.Tensor:
    """The field with its dims at ``places`` of ``ndim``."""
    by_place = sorted(range(len(places)), key=lambda dim: places[dim])
    shape = [1] * ndim
    for dim, place in enumerate(places):
        shape[place] = field.shape[dim]
    return field.permute(by_place).reshape(shape)


def _ndim(call: Call | MarkCall, node: fx.Node) -> int:
    """Dims of an operand. Raises ``NoRule`` where it is no tensor."""
    val = node.meta["val"] if isinstance(node, fx.Node) else None
    if not isinstance(val, torch.Tensor):
        raise NoRule("one of its operands is not a tensor")
    return val.ndim


class MatMul(Product):
    """torch.matmul, mm, bmm, mv, dot, ``@``: the inner dims are summed over, those before the last two broadcast."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        return _matrices(call, call.raw("input"), call.raw("other"))

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        if len(spelling.operands[1][1]) > 1:  # a product with a vector counts as nothing
            super().cost(call, spelling, lengths)


def _matrices(call: Call | MarkCall, a: fx.Node, b: fx.Node) -> Spelling:
    batch = tuple(range(max(_ndim(call, a), _ndim(call, b)) - 2, 0, -1))
    before = {node: batch[len(batch) - max(_ndim(call, node) - 2, 0) :] for node in (a, b)}
    rows = ("row",) if _ndim(call, a) > 1 else ()
    columns = ("column",) if _ndim(call, b) > 1 else ()
    operands = ((a, (*before[a], *rows, "inner")), (b, (*before[b], "inner", *columns)))
    return Spelling(operands, (*batch, *rows, *columns))


@dataclasses.dataclass(frozen=True)
class AddedMatMul(MatMul):
    """torch.baddbmm, addmm, addmv: a tensor plus a product of matrices."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        product = _matrices(call, call.raw("first"), call.raw("second"))
        return dataclasses.replace(product, addend=call.raw("input"))


class AddedSum(AddedMatMul):
    """torch.addbmm: the products of a batch are added up."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        product = super().spelling(call)
        return dataclasses.replace(product, result=product.result[1:])

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        """Nothing, as it is counted."""


class Einsum(Product):
    """torch.einsum. Several operands are multiplied one after the other, as torch does without opt_einsum."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        equation, nodes = call.raw("equation"), call.raw("operands")
        if isinstance(nodes, fx.Node) and isinstance(nodes.meta["val"], torch.Tensor):
            nodes = (nodes,)
        if not isinstance(equation, str) or isinstance(nodes, fx.Node):
            raise NoRule("an einsum that is not operands with letters")
        inputs, arrow, output = equation.replace(" ", "").partition("->")
        terms = inputs.split(",")
        wide = [_ndim(call, node) - len(term.replace("...", "")) for node, term in zip(nodes, terms, strict=True)]
        dots = max((count for count, term in zip(wide, terms, strict=True) if "..." in term), default=0)

        def letters(term: str, count: int) -> Letters:
            head, ellipsis, tail = term.partition("...")
            return (*head, *(range(count, 0, -1) if ellipsis else ()), *tail)

        if not arrow:
            seen = inputs.replace(",", "").replace("...", "")
            output = "..." * ("..." in inputs) + "".join(sorted(c for c in set(seen) if seen.count(c) == 1))
        operands = tuple(zip(nodes, map(letters, terms, wide), strict=True))
        return Spelling(operands, letters(output, dots))

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        terms = [set(letters) for _, letters in spelling.operands]
        long = [
            {letter for letter, dim in zip(letters, call.value(node).dims, strict=True) if call.size(dim) != 1}
            for node, letters in spelling.operands
        ]
        term, have = terms[0], long[0]
        for number in range(1, len(terms)):
            term, both = term | terms[number], have & long[number]
            ended = (have | long[number]).difference(spelling.result, *long[number + 1 :])
            if both & ended:  # else it multiplies element by element, which counts as nothing
                met = [dim for letter, dim in lengths.items() if letter in term - (ended - both)]
                call.count(1, *met, summed=tuple(lengths[letter] for letter in both & ended))
            term, have = term - ended, (have | long[number]) - ended


class TensorDot(Product):
    """torch.tensordot over the last dims of one and the first of the other, or over pairs of dims; torch.inner."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        a, b = call.raw("input"), call.raw("other")
        na, nb = _ndim(call, a), _ndim(call, b)
        dims = call.number("dims")
        if isinstance(dims, torch.Tensor):
            raise NoRule("dims that are given as a tensor")
        if isinstance(dims, int):
            dims = (range(na - dims, na), range(dims))
        here, there = (
            [d % n for d in ([ds] if isinstance(ds, int) else ds)] for ds, n in zip(dims, (na, nb), strict=True)
        )
        first: list[Hashable] = [("first", dim) for dim in range(na)]
        second: list[Hashable] = [("second", dim) for dim in range(nb)]
        for i, j in zip(here, there, strict=True):
            second[j] = first[i]
        shared = set(first) & set(second)
        result = tuple(letter for letter in (*first, *second) if letter not in shared)
        return Spelling(((a, tuple(first)), (b, tuple(second))), result)


class Outer(Product):
    """torch.outer: every entry of a vector with every entry of another."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        a, b = call.raw("input"), call.raw("other")
        return Spelling(((a, ("row",)), (b, ("column",))), ("row", "column"))

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        """Nothing: it multiplies element by element."""


class ScaledDotProduct(Product):
    """F.scaled_dot_product_attention: softmax(query key^T / sqrt(width)) value, with a mask added to the scores."""

    def spelling(self, call: Call | MarkCall) -> Spelling:
        query, key, value, mask = (call.raw(name) for name in ("query", "key", "value", "attn_mask"))
        batch: Letters = tuple(range(max(_ndim(call, node) for node in (query, key, value)) - 2, 0, -1))
        grouped = bool(call.number("enable_gqa"))

        def before(node: fx.Node) -> Letters:
            letters = batch[len(batch) - (_ndim(call, node) - 2) :]
            return (*letters[:-1], "shared head") if grouped and node is not query and letters else letters

        operands = [
            (query, (*before(query), "row", "width")),
            (key, (*before(key), "column", "width")),
            (value, (*before(value), "column", "through")),
        ]
        if isinstance(mask, fx.Node):
            scores = (*batch, "row", "column")
            operands.append((mask, scores[len(scores) - _ndim(call, mask) :]))
        return Spelling(tuple(operands), (*batch, "row", "through"))

    def depth(self, call: Call) -> Value:
        if call.number("enable_gqa"):
            heads = [call.dims(name)[-3] for name in ("query", "key", "value")]
            call.freeze(*heads, because="shares the heads of keys and values")
        return super().depth(call)

    def cost(self, call: Call, spelling: Spelling, lengths: dict[Hashable, Dim]) -> None:
        scores = [lengths[letter] for letter in (*spelling.result[:-1], "column")]
        call.count(1, *scores, lengths["width"])
        call.count(1, *scores, lengths["through"])
