"""Freedom (DESIGN 4, invariant 3): the channel groups are as fine as the network allows.

The oracle is brute force: try other sizes and see whether the network still runs. It knows nothing of depths,
ties and rules, and never reads a graph: a random network is a program, and a program can be carried out again
with other widths, where every layer is built for the operands that it really gets
(:func:`~tests.property.networks.op`). Widths are tried one after the other in the order of the program, and
torch itself says, by running the operator, whether the operands fit together. So whatever assignment reaches
the end is a network that runs, and the plan must have it: there must be sizes of its groups that give every
parameter the very shape that it has there. How shapes depend on group sizes is measured, by resizing one
group at a time.

PyTorch's symbolic shapes are the other oracle, in ``tests/passes/test_oracle.py``. They would not do here: numbers
that the program spells out (split sizes, the shape given to view, ``groups``) pin a symbol to its present value, but
a rewrite changes exactly these numbers.

What the search tries is growing up to three widths by up to four channels each; that the plan allows no more
than what runs is invariant 1, which is tested elsewhere. Three families of networks: channels that are cut into equal
pieces, concatenations of several values, and of one value with itself. DESIGN leaves proportional, or ties one by one,
the parts of what meets in two of these.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from torch import nn

from conet_fx.plan import ChannelPlan, analyze
from tests.property.networks import OPERATORS, Program, RandomNet, Shape, broadcasts, programs, resolve, result_shapes
from tests.property.profiles import EXAMPLES, Examples, few_left_out

GROWTH = range(5)
MOST_GROWN = 3
MOST_FOUND = 2000

# what a plan refuses in some spelling (transforms and indices along channels, conditions, numbers up to the count),
# slices that are as long as two others together
NOT_FOLLOWED = {"along_a_dim", "checked", "created_by_number", "reorder_slices"}
EQUAL_PIECES = {
    "attention", "channel_shuffle", "chunk", "computed_halves", "conv_function_of_groups", "dot_product_attention",
    "every_other", "first_chunk", "fold", "gated", "gated_vector", "group_norm", "grouped_conv", "groups_in_the_batch",
    "interleave", "linear_to_map", "maxout", "multihead_attention", "norm_function", "pixel_shuffle",
    "pixel_unshuffle", "slice_half", "split_by_size", "transposed_conv", "unfold",
}  # fmt: skip
CONCATENATIONS = {
    "cat", "cat3", "cat_plus_cat", "cat_vectors", "conv_plus_cat", "nested_cats", "pad_channels", "shared_head",
    "slice_channels", "split_by_list", "written", "zero_shortcut",
}  # fmt: skip
COPIES = {"cat_twice", "depthwise_conv", "repeat", "space_to_channels"}  # several channels for each of the operand
FAMILIES = [EQUAL_PIECES, CONCATENATIONS, COPIES]


def family(pieces: set[str]) -> list[str]:
    """The operators that do not meddle with channels, and those of one family that does."""
    return [name for name in OPERATORS if name not in NOT_FOLLOWED.union(*FAMILIES) - pieces]


def is_width(option: str, cut_may_move: bool) -> bool:
    """Whether an option is a number of channels that a resize may change."""
    return option.startswith(("width", "channels")) or (option in ("first", "at") and cut_may_move)


def holding_the_input(program: Program) -> set[int]:
    """The values that may hold channels of the network's input."""
    held = {0}
    for statement in program.statements:
        layers = any(name.startswith("width") for name in OPERATORS[statement.operator].options)
        if not layers and held.intersection(statement.operands):
            held.update(statement.results)
    return held


def concatenates_pieces(program: Program) -> bool:
    """Whether pieces of a cut are concatenated, which may be in another order: DESIGN ties them one by one with the
    value that they are of, though sums have no order.
    """
    pieces: set[int] = set()
    for statement in program.statements:
        options = OPERATORS[statement.operator].options
        from_pieces = pieces.intersection(statement.operands)
        if from_pieces and statement.operator in CONCATENATIONS and len(statement.operands) > 1:
            return True
        layers = any(name.startswith("width") for name in options)
        if {"first", "at"}.intersection(options) or (from_pieces and not layers):
            pieces.update(statement.results)
    return False


class Oracle:
    """Finds other widths with which a program still runs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.holding_the_input = holding_the_input(program)
        self.known: dict[tuple[int, tuple[Shape, ...], tuple[object, ...]], list[Shape] | None] = {}

    def assignments(self) -> Iterator[tuple[tuple[object, ...], ...]]:
        """The options of each statement in networks that run, the present ones first."""
        return itertools.islice(self._from(0, [self.program.shapes[0]], [], MOST_GROWN), MOST_FOUND)

    def _from(
        self, index: int, shapes: list[Shape], chosen: list[tuple[object, ...]], left: int
    ) -> Iterator[tuple[tuple[object, ...], ...]]:
        if index == len(self.program.statements):
            if all(shapes[i] == self.program.shapes[i] for i in self.program.outputs):
                yield tuple(chosen)
            return
        statement = self.program.statements[index]
        operands = [shapes[i] for i in statement.operands]
        for options in self._options(index, operands[0], left):
            grown = sum(a != b for a, b in zip(options, statement.options, strict=True))
            found = self._results(index, operands, options)
            if found is not None and self._cuts_agree([*chosen, options]):
                yield from self._from(index + 1, shapes + found, [*chosen, options], left - grown)

    def _cuts_agree(self, chosen: Sequence[tuple[object, ...]]) -> bool:
        """Cuts that are at one place now stay together: a plan knows pieces, not cuts."""
        moved: dict[tuple[int, object], object] = {}
        for statement, options in zip(self.program.statements, chosen, strict=False):
            for name, old, new in zip(OPERATORS[statement.operator].options, statement.options, options, strict=True):
                channels = self.program.shapes[statement.operands[0]][1]
                if name in ("first", "at") and moved.setdefault((channels, old), new) != new:
                    return False
        return True

    def _options(self, index: int, operand: Shape, left: int) -> Iterator[tuple[object, ...]]:
        statement = self.program.statements[index]
        # A cut moves with the channels that it cuts. In those of the network's input it could move, too, but there is
        # no layer whose channels these would be, and no group.
        first = statement.operands[0]
        cut_may_move = operand != self.program.shapes[first] and first not in self.holding_the_input
        names = OPERATORS[statement.operator].options
        growths = [GROWTH if is_width(name, cut_may_move) else (0,) for name in names]
        for growth in itertools.product(*growths):
            if sum(map(bool, growth)) <= left:
                yield tuple(
                    value + more if more else value for value, more in zip(statement.options, growth, strict=True)
                )

    def _results(self, index: int, shapes: list[Shape], options: tuple[object, ...]) -> list[Shape] | None:
        key = (index, tuple(shapes), options)
        if key not in self.known:
            self.known[key] = self._run(index, shapes, options)
        return self.known[key]

    def _run(self, index: int, shapes: list[Shape], options: tuple[object, ...]) -> list[Shape] | None:
        statement = self.program.statements[index]
        kinds = OPERATORS[statement.operator].kinds
        for kind, shape, old in zip(kinds, shapes, [self.program.shapes[i] for i in statement.operands], strict=True):
            if kind == "same" and shape != shapes[0]:
                return None
            if kind == "smaller" and not (ones([shape]) == ones([old]) and broadcasts(shape, shapes[0])):
                return None
        try:
            found = result_shapes(OPERATORS[statement.operator], self.program.dims, shapes, options, limit=10**9)
        except (RuntimeError, ValueError):  # torch: the operands do not fit together
            return None
        before = [self.program.shapes[i] for i in statement.results]
        return found if found is not None and ones(found) == ones(before) else None


def ones(shapes: Sequence[Shape]) -> list[list[bool]]:
    """Where the length is 1: what broadcasts must go on to broadcast, and nothing else."""
    return [[n == 1 for n in shape] for shape in shapes]


def with_options(program: Program, options: Sequence[tuple[object, ...]]) -> Program:
    """The same program with other options."""
    statements, shapes = [], [program.shapes[0]]
    for statement, given_options in zip(program.statements, options, strict=True):
        statements.append(type(statement)(statement.operator, statement.operands, given_options, statement.results))
        operands = [shapes[i] for i in statement.operands]
        found = result_shapes(OPERATORS[statement.operator], program.dims, operands, given_options, limit=10**9)
        assert found is not None
        shapes += found
    return dataclasses.replace(program, statements=tuple(statements), shapes=tuple(shapes))


def dimensions(module: nn.Module) -> dict[tuple[str, int], int]:
    """Every axis of every parameter."""
    return {(name, axis): n for name, tensor in module.named_parameters() for axis, n in enumerate(tensor.shape)}


class Reach:
    """The parameter shapes that a plan can give."""

    def __init__(self, model: nn.Module, plan: ChannelPlan) -> None:
        self.plan = plan
        self.present = dimensions(model)
        self.step: dict[str, dict[tuple[str, int], int]] = {}
        for group in plan.free:
            grown = dimensions(plan.resize({group.name: group.size + group.quantum}))
            self.step[group.name] = {
                axis: n - self.present[axis] for axis, n in grown.items() if n != self.present[axis]
            }

    def steps_to(self, wanted: dict[tuple[str, int], int]) -> list[Fraction] | None:
        """How many quanta each free group has to grow for the shapes ``wanted``; None where that cannot be."""
        rows = [
            [*(Fraction(step.get(axis, 0)) for step in self.step.values()), Fraction(wanted[axis] - n)]
            for axis, n in self.present.items()
        ]
        return solve(rows)


def solve(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """One solution of the linear equations ``row[:-1] . x = row[-1]``, or None."""
    rows = [row for row in dict.fromkeys(map(tuple, rows)) if any(row)]
    matrix = [list(row) for row in rows]
    count = len(matrix[0]) - 1 if matrix else 0
    pivots: list[int] = []
    for column in range(count):
        pivot = next((i for i in range(len(pivots), len(matrix)) if matrix[i][column]), None)
        if pivot is None:
            continue
        place = len(pivots)
        matrix[place], matrix[pivot] = matrix[pivot], matrix[place]
        matrix[place] = [value / matrix[place][column] for value in matrix[place]]
        for i, row in enumerate(matrix):
            if i != place and row[column]:
                factor = row[column]
                matrix[i] = [a - factor * b for a, b in zip(row, matrix[place], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in matrix[len(pivots) :]):
        return None
    solution = [Fraction(0)] * count
    for row, column in zip(matrix, pivots, strict=False):
        solution[column] = row[-1]
    return solution


def check(program: Program, **options: bool) -> None:
    model = RandomNet(program)
    plan = analyze(model, program.input(), resize_linear=True, **options)
    reach = Reach(model, plan)
    for chosen in Oracle(program).assignments():
        other = with_options(program, chosen)
        steps = reach.steps_to(dimensions(RandomNet(other)))
        reached = steps is not None and all(step.denominator == 1 for step in steps)
        assert reached, f"this network runs:\n{other!r}but the plan has no sizes for it:\n{plan.explain()}"


@EXAMPLES
@given(programs(family(EQUAL_PIECES), most=8))
def test_groups_are_as_fine_as_networks_with_equal_pieces_allow(program: Program) -> None:
    check(program)


@few_left_out
@EXAMPLES
@given(programs(family(CONCATENATIONS), most=8))
def test_groups_are_as_fine_as_networks_with_concatenations_allow(program: Program) -> None:
    Examples.leave_out(concatenates_pieces(program))
    check(program)


@EXAMPLES
@given(programs(family(COPIES), most=8))
def test_groups_are_as_fine_as_networks_with_copies_allow(program: Program) -> None:
    check(program)


def test_the_oracle_notices_groups_that_are_too_coarse() -> None:
    program = resolve(2, 3, 4, [("conv_plus_cat", (0, 0)), ("conv1", (0, 0))])
    check(program)
    with pytest.raises(AssertionError, match="the plan has no sizes for it"):
        check(program, tie_concat=True)
