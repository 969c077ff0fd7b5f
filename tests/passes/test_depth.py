"""The channel algebra by itself: tie, cut, pieces, scale, multiples, freezing; no sequence of them breaks it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conet_fx.passes.depth import Depths, Dim, Slot, is_fixed


def only_root(depths: Depths, dim: Dim) -> int:
    (root,) = depths.roots(dim)
    return root


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_new_depth_is_one_slot_of_its_size() -> None:
    depths = Depths()
    dim = depths.new(12)
    assert dim == (Slot(0),)
    assert depths.size(dim) == 12
    assert depths.steps(only_root(depths, dim)) == 12
    assert depths.frozen(only_root(depths, dim)) is None
    assert not is_fixed(dim)


def test_fixed_channels_have_a_size_and_no_class() -> None:
    depths = Depths()
    assert depths.size((3, 4)) == 7
    assert depths.roots((3, 4)) == []
    assert is_fixed((3,))
    assert is_fixed(())


def test_size_under_scales() -> None:
    depths = Depths()
    a, b = depths.new(8), depths.new(6)
    scales = {only_root(depths, a): Fraction(3, 2)}
    assert depths.size((*a, *b, 3), scales) == 12 + 6 + 3
    assert depths.size((*a, *b, 3)) == 8 + 6 + 3


def test_a_size_that_is_no_integer_is_a_fault() -> None:
    depths = Depths()
    a = depths.new(8)
    with pytest.raises(AssertionError, match="has the size"):
        depths.size(a, {only_root(depths, a): Fraction(1, 3)})


# --- tie -------------------------------------------------------------------------------------------------------------


def test_tie_merges_classes_and_keeps_the_smaller_steps() -> None:
    depths = Depths()
    a, b = depths.new(8), depths.new(8)
    depths.multiple(b, 4, "grouped")
    depths.tie(a, b, "sum")
    assert depths.roots(a) == depths.roots(b)
    assert depths.steps(only_root(depths, a)) == 2


def test_tie_of_unequal_sizes_is_a_fault() -> None:
    depths = Depths()
    with pytest.raises(AssertionError, match="8 and 9 channels are not equal"):
        depths.tie(depths.new(8), depths.new(9), "sum")


def test_a_depth_that_meets_a_concatenation_becomes_the_sum() -> None:
    depths = Depths()
    a, b, c = depths.new(5), depths.new(3), depths.new(8)
    depths.tie((*a, *b), c, "sum")
    assert depths.roots(c) == [*depths.roots(a), *depths.roots(b)]
    assert depths.roots(a) != depths.roots(b)
    assert depths.size(c, {only_root(depths, a): Fraction(2)}) == 13


def test_a_sum_reaches_all_depths_that_were_tied_before() -> None:
    """Back-propagation of Algorithm 1: ``d`` was tied to ``c`` earlier and becomes the same sum."""
    depths = Depths()
    a, b, c, d = depths.new(5), depths.new(3), depths.new(8), depths.new(8)
    depths.tie(c, d, "residual")
    depths.tie(c, (*a, *b), "sum")
    assert depths.roots(d) == [*depths.roots(a), *depths.roots(b)]


def test_boundaries_inside_both_sides() -> None:
    depths = Depths()
    a, b, c, d = depths.new(8), depths.new(4), depths.new(4), depths.new(8)
    depths.tie((*a, *b), (*c, *d), "sum")
    assert [depths.share(a, root) for root in depths.roots(a)] == [4, 4]
    assert depths.roots(a) == [*depths.roots(c), depths.roots(d)[0]]
    assert depths.roots(d) == [depths.roots(a)[1], *depths.roots(b)]
    assert len(depths.roots((*a, *b))) == 3


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_depth_that_meets_itself_twice_as_long(size: int) -> None:
    """A cut would move the boundary that it is made for; what holds is that both are as many."""
    depths = Depths()
    a, b = depths.new(size), depths.new(size)
    depths.tie((*a, *b), depths.scale(b, 2, "depthwise"), "sum")
    assert depths.steps(only_root(depths, (*a, *b))) == size


def test_where_no_cut_is_possible_all_keep_their_proportion() -> None:
    """A quarter step of 12 channels cannot be cut at 4 when only thirds of it are whole."""
    depths = Depths()
    a, b, c = depths.new(8), depths.new(4), depths.new(12)
    depths.multiple(c, 6, "grouped")
    depths.tie((*a, *b), c, "sum")
    assert depths.roots((*a, *b)) == depths.roots(c)
    assert depths.steps(only_root(depths, c)) == 2
    assert depths.size(a, {only_root(depths, c): Fraction(1, 2)}) == 4


def test_fixed_channels_freeze_what_they_meet_and_nothing_else() -> None:
    depths = Depths()
    a, b = depths.new(8), depths.new(12)
    depths.tie((2, *a, 2), b, "padding")
    assert [depths.frozen(root) for root in depths.roots(b)] == ["padding", None, "padding"]
    assert depths.roots(b)[1:2] == depths.roots(a)


def test_one_class_on_both_sides_is_equal_already() -> None:
    depths = Depths()
    a = depths.new(8)
    half = depths.scale(a, Fraction(1, 2), "half")
    depths.tie((*half, *half), a, "glued")
    assert depths.steps(only_root(depths, a)) == 4


# --- proportion, multiple, scale -------------------------------------------------------------------------------------


def test_proportion() -> None:
    depths = Depths()
    a, b = depths.new(12), depths.new(4)
    depths.proportion([a, b], "tie_concat")
    root = only_root(depths, (*a, *b))
    assert depths.steps(root) == 4
    assert depths.size((*a, *b), {root: Fraction(3, 4)}) == 12


def test_proportion_with_fixed_channels_freezes() -> None:
    depths = Depths()
    a = depths.new(12)
    depths.proportion([(3, *a)], "why")
    assert depths.frozen(only_root(depths, a)) == "why"


@pytest.mark.parametrize(("size", "q", "steps"), [(12, 4, 3), (12, 1, 12), (12, 12, 1), (30, 4, None)])
def test_multiple(size: int, q: int, steps: int | None) -> None:
    depths = Depths()
    a = depths.new(size)
    depths.multiple(a, q, "groups")
    root = only_root(depths, a)
    assert (depths.steps(root) if steps else depths.frozen(root)) == (
        steps or "30 channels are no multiple of 4: groups"
    )


def test_multiples_multiply_only_as_far_as_they_must() -> None:
    depths = Depths()
    a = depths.new(24)
    depths.multiple(a, 4, "groups")
    depths.multiple(a, 6, "groups")
    assert depths.steps(only_root(depths, a)) == 2  # multiples of 12


def test_multiple_of_a_sum_keeps_the_parts_free() -> None:
    depths = Depths()
    a, b = depths.new(8), depths.new(4)
    depths.multiple((*a, *b), 4, "groups")
    assert len(depths.roots((*a, *b))) == 2
    assert [depths.steps(root) for root in depths.roots((*a, *b))] == [2, 1]


def test_multiple_of_a_sum_with_odd_parts_ties_them() -> None:
    depths = Depths()
    a, b = depths.new(9), depths.new(3)
    depths.multiple((*a, *b), 4, "groups")
    root = only_root(depths, (*a, *b))
    assert depths.steps(root) == 3
    assert depths.size(a, {root: Fraction(1, 3)}) == 3


def test_scale() -> None:
    depths = Depths()
    a = depths.new(12)
    assert depths.size(depths.scale(a, 9, "flatten")) == 108
    quarter = depths.scale(a, Fraction(1, 4), "pixel shuffle")
    assert depths.size(quarter) == 3
    assert depths.steps(only_root(depths, a)) == 3


# --- cut and pieces --------------------------------------------------------------------------------------------------


def test_cut_makes_independent_pieces() -> None:
    depths = Depths()
    a = depths.new(12)
    left, middle, right = depths.cut(a, [3, 7], "slices")
    assert [depths.size(piece) for piece in (left, middle, right)] == [3, 4, 5]
    assert len(depths.roots(a)) == 3
    assert depths.resolve(a) == (*left, *middle, *right)


def test_cut_on_a_boundary_changes_nothing() -> None:
    depths = Depths()
    a, b = depths.new(5), depths.new(3)
    assert depths.cut((*a, *b), [5], "split") == [a, b]


def test_cut_of_fixed_channels() -> None:
    depths = Depths()
    assert depths.cut((8,), [3], "split") == [(3,), (5,)]


def test_a_cut_where_no_step_ends_keeps_proportions() -> None:
    depths = Depths()
    a = depths.new(12)
    depths.multiple(a, 4, "groups")
    left, right = depths.cut(a, [2], "split")
    root = only_root(depths, a)
    assert (depths.size(left), depths.size(right)) == (2, 10)
    assert depths.steps(root) == 1
    assert depths.size(left, {root: Fraction(2)}) == 4


def test_cut_reaches_the_repeats_of_a_depth() -> None:
    """Behind a flatten each channel stands for 4 positions: a cut at 8 is a cut at channel 2."""
    depths = Depths()
    a = depths.new(6)
    flat = depths.scale(a, 4, "flatten")
    left, right = depths.cut(flat, [8], "slice")
    assert (depths.size(left), depths.size(right)) == (8, 16)
    assert [depths.share(a, root) for root in depths.roots(a)] == [2, 4]


def test_pieces_of_one_depth() -> None:
    depths = Depths()
    a = depths.new(12)
    pieces = depths.pieces(a, 3, "chunk")
    assert [depths.size(piece) for piece in pieces] == [4, 4, 4]
    assert depths.steps(only_root(depths, a)) == 4


def test_a_cut_between_pieces_of_one_depth() -> None:
    """The pieces stay as they are, and the cut is where one of them ends."""
    depths = Depths()
    a = depths.new(12)
    piece, *_ = depths.pieces(a, 3, "chunk")
    left, right = depths.cut(a, [4], "slice")
    root = only_root(depths, a)
    assert (depths.size(left), depths.size(right), depths.steps(root)) == (4, 8, 4)
    depths.tie(piece, left, "meet")
    depths.tie((*piece, *piece), right, "meet")
    assert only_root(depths, a) == root
    assert depths.steps(root) == 4


def test_a_cut_within_pieces_of_one_depth() -> None:
    """Each piece is cut where another one is: the first channels of all pieces are as many."""
    depths = Depths()
    a = depths.new(12)
    piece, *_ = depths.pieces(a, 2, "chunk")
    depths.cut(a, [6], "slice")
    first, rest = depths.cut(piece, [2], "slice")
    assert (depths.share(a, only_root(depths, first)), depths.share(a, only_root(depths, rest))) == (4, 8)


def test_a_cut_between_pieces_of_pieces() -> None:
    depths = Depths()
    a = depths.new(16)
    half, *_ = depths.pieces(a, 2, "chunk")
    depths.pieces(half, 2, "chunk")
    depths.cut(a, [4], "slice")
    assert depths.steps(only_root(depths, a)) == 4


def test_pieces_on_the_boundaries_of_a_cat() -> None:
    depths = Depths()
    a, b = depths.new(6), depths.new(6)
    first, second = depths.pieces((*a, *b), 2, "chunk")
    assert depths.roots(first) == depths.roots(second) == depths.roots(a)
    assert depths.steps(only_root(depths, a)) == 6


def test_uneven_pieces_freeze() -> None:
    depths = Depths()
    a = depths.new(10)
    assert depths.pieces(a, 4, "chunk") == [(3,), (3,), (3,), (1,)]
    assert "10 channels are cut in 4 unequal pieces" in str(depths.frozen(only_root(depths, a)))


# --- freezing and notes ----------------------------------------------------------------------------------------------


def test_the_first_reason_stays_and_survives_merging() -> None:
    depths = Depths()
    a, b = depths.new(8), depths.new(8)
    depths.freeze(a, "first")
    depths.freeze(a, "second")
    depths.tie(b, a, "sum")
    assert depths.frozen(only_root(depths, b)) == "first"


def test_parts_of_a_frozen_depth_are_frozen() -> None:
    depths = Depths()
    a = depths.new(8)
    depths.freeze(a, "output")
    depths.note(a, "softmax")
    depths.cut(a, [3], "slice")
    assert [depths.frozen(root) for root in depths.roots(a)] == ["output", "output"]
    assert [depths.notes(root) for root in depths.roots(a)] == [("softmax",), ("softmax",)]


# --- properties ------------------------------------------------------------------------------------------------------


class Story:
    """A random sequence of operations, with all that must stay true of it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.depths = Depths()
        self.dims: list[Dim] = []
        self.equal: list[tuple[Dim, Dim]] = []
        self.multiples: list[tuple[Dim, int]] = []
        self.sums: list[tuple[Dim, list[Dim]]] = []

    def pick(self) -> Dim:
        return self.data.draw(st.sampled_from(self.dims))

    def new(self) -> None:
        self.dims.append(self.depths.new(self.data.draw(st.integers(1, 24))))

    def cat(self) -> None:
        fixed = self.data.draw(st.sampled_from([(), (), (3,)]))
        self.dims.append((*self.pick(), *fixed, *self.pick()))

    def tie(self) -> None:
        a = self.pick()
        same = [dim for dim in self.dims if self.depths.size(dim) == self.depths.size(a)]
        b = self.data.draw(st.sampled_from([*same, self.depths.new(self.depths.size(a))]))
        self.depths.tie(a, b, "tie")
        self.dims.append(b)
        self.equal.append((a, b))

    def cut(self) -> None:
        dim = self.pick()
        size = self.depths.size(dim)
        if size > 1:
            inner = st.integers(1, size - 1)
            offsets = sorted(self.data.draw(st.lists(inner, min_size=1, max_size=3, unique=True)))
            pieces = self.depths.cut(dim, offsets, "cut")
            bounds = [0, *offsets, size]
            assert [self.depths.size(p) for p in pieces] == [b - a for a, b in itertools.pairwise(bounds)]
            self.sums.append((dim, pieces))
            self.dims += pieces

    def pieces(self) -> None:
        dim = self.pick()
        count = self.data.draw(st.integers(2, 4))
        pieces = self.depths.pieces(dim, count, "pieces")
        if self.depths.size(dim) % count == 0:
            self.equal += [(pieces[0], piece) for piece in pieces[1:]]
        self.sums.append((dim, pieces))
        self.dims.append(pieces[0])

    def scale(self) -> None:
        dim = self.pick()
        factor = self.data.draw(st.sampled_from([Fraction(2), Fraction(3), Fraction(1, 2), Fraction(1, 3)]))
        if self.depths.size(dim) % factor.denominator == 0 and self.depths.size(dim) < 200:
            self.dims.append(self.depths.scale(dim, factor, "scale"))

    def multiple(self) -> None:
        dim, q = self.pick(), self.data.draw(st.integers(2, 4))
        self.depths.multiple(dim, q, "multiple")
        if self.depths.size(dim) % q == 0:
            self.multiples.append((dim, q))

    def proportion(self) -> None:
        self.depths.proportion([self.pick(), self.pick()], "proportion")

    def freeze(self) -> None:
        self.depths.freeze(self.pick(), "frozen")


OPERATIONS = ["new", "cat", "tie", "tie", "cut", "pieces", "scale", "multiple", "proportion", "freeze"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_story_ends_well(data: st.DataObject) -> None:
    story = Story(data)
    story.new()
    for name in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=14)):
        getattr(story, name)()
    depths = story.depths
    present = {dim: depths.size(dim) for dim in story.dims}
    roots = {root for dim in story.dims for root in depths.roots(dim)}
    scales = {}
    for root in sorted(roots):
        assert depths.steps(root) >= 1
        if depths.frozen(root) is None:
            scales[root] = Fraction(data.draw(st.integers(1, 6)), depths.steps(root))
    for dim in story.dims:
        assert depths.size(dim) == present[dim]
        assert depths.size(depths.resolve(dim)) == present[dim]
        assert depths.size(dim, scales) >= (1 if present[dim] else 0)  # an integer, or size() raises
    for a, b in story.equal:
        assert depths.size(a, scales) == depths.size(b, scales)
    for dim, q in story.multiples:
        assert depths.size(dim, scales) % q == 0
    for dim, pieces in story.sums:
        assert depths.size(dim, scales) == sum(depths.size(piece, scales) for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_two_cats_of_the_same_size_share_all_boundaries(parts: list[int], data: st.DataObject) -> None:
    """Tying two concatenations is as fine as it can be: one class for each piece between boundaries of either."""
    total = sum(parts)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, total - 1)), max_size=4)) - {total})
    depths = Depths()
    a = tuple(part for size in parts for part in depths.new(size))
    bounds = [0, *cuts, total]
    b = tuple(part for x, y in itertools.pairwise(bounds) for part in depths.new(y - x))
    depths.tie(a, b, "sum")
    ends = {sum(parts[: i + 1]) for i in range(len(parts))} | set(cuts)
    assert len(depths.roots(a)) == len(ends)
    assert depths.roots(a) == depths.roots(b)
