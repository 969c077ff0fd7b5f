"""The channel algebra: depths, how they add up, and which of them must change together.

A *dim* of a value is a run of parts, each a fixed number of channels or a :class:`Slot` of some *depth* (the channel
count of a value). A concatenation joins parts; a flatten multiplies the repeat of each slot; a split cuts a depth in
two, and the depth *becomes the sum* of its halves wherever it is used (paper, Algorithm 1, back-propagation).

Depths whose sizes must stay proportional form a class. Within a class all sizes are ``present size * t / steps`` with
one integer ``t >= 1``: ``steps`` is the number of equal steps in which the class can be built up from nothing, and
one number holds every divisibility rule (grouped convolutions, pixel shuffles, chunks): a rule "N must stay a
multiple of q" divides the steps by nothing more than it has to, ``gcd(steps, N / q)``.

Only sizes live here. *Which* channel stands where (it matters when weights are inherited) is the work of
:mod:`conet_fx.passes.labels`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

Number = int | Fraction


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A run of ``repeat * size(depth)`` channels of one depth."""

    depth: int
    repeat: Number = 1


Part = Slot | int
Dim = tuple[Part, ...]


def is_fixed(dim: Dim) -> bool:
    """True when the dim holds no depth, so that its size never changes."""
    return all(isinstance(part, int) for part in dim)


class Depths:
    """All depths of one graph, the sums that they became, and the classes that change together.

    ``tie_sums``: the parts of a depth that became a sum where it met several keep their proportion.
    """

    def __init__(self, *, tie_sums: bool = False) -> None:
        self._tie_sums = tie_sums
        self._size: list[int] = []
        self._sum: list[Dim | None] = []
        self._parent: list[int] = []
        # the rest is kept for the root of each class
        self._steps: list[int] = []
        self._least: list[Fraction] = []
        self._members: list[list[int]] = []
        self._frozen: list[str | None] = []
        self._notes: list[tuple[str, ...]] = []
        self._blocks: list[int] = []
        self._divided: list[int] = []

    # --- reading --------------------------------------------------------------------------------------------

    def new(self, size: int) -> Dim:
        """A new depth of ``size`` channels, as a dim of its own."""
        depth, size = len(self._size), int(size)  # numpy's, where a layer keeps such a one
        self._size.append(size)
        self._sum.append(None)
        self._parent.append(depth)
        self._steps.append(size)
        self._least.append(Fraction(0))
        self._members.append([depth])
        self._frozen.append(None)
        self._notes.append(())
        self._blocks.append(1)
        self._divided.append(1)
        return (Slot(depth),)

    def resolve(self, dim: Dim) -> Dim:
        """The same dim in terms of depths that are not sums themselves."""
        out: list[Part] = []
        for part in dim:
            if isinstance(part, int):
                if part:
                    out.append(part)
            elif (total := self._sum[part.depth]) is None:
                out.append(part)
            else:
                factor, parts = part.repeat, Fraction(part.repeat).denominator
                if len(set(total)) == 1:  # equal pieces: a part of them is some of them, or it is one
                    count = len(total) // parts if len(total) % parts == 0 else 1
                    factor, total = Fraction(factor * len(total), count), total[:count]
                out.extend(self.resolve(_times(total, factor)))
        return tuple(out)

    def size(self, dim: Dim, scales: Mapping[int, Fraction] | None = None) -> int:
        """Channels in ``dim``: at present, or when each class root in ``scales`` is scaled by its factor."""
        total: Number = 0
        for part in self.resolve(dim) if scales else dim:
            if isinstance(part, int):
                total += part
            else:
                factor = scales.get(self.root(part.depth), 1) if scales else 1
                total += part.repeat * self._size[part.depth] * factor
        if total != int(total):
            raise AssertionError(f"dim {dim} has the size {total}")
        return int(total)

    def root(self, depth: int) -> int:
        """The representative of the class of ``depth``."""
        while self._parent[depth] != depth:
            self._parent[depth] = self._parent[self._parent[depth]]
            depth = self._parent[depth]
        return depth

    def roots(self, dim: Dim) -> list[int]:
        """The classes that ``dim`` is made of, each once, in order."""
        return list(dict.fromkeys(self.root(p.depth) for p in self.resolve(dim) if isinstance(p, Slot)))

    def share(self, dim: Dim, root: int) -> int:
        """Present channels of ``dim`` that belong to the class ``root``."""
        parts = (p for p in self.resolve(dim) if isinstance(p, Slot) and self.root(p.depth) == root)
        return self.size(tuple(parts))

    def steps(self, root: int) -> int:
        """In how many equal steps the class can be built up to its present size."""
        return self._steps[root]

    def least(self, root: int) -> int:
        """The smallest number of steps that the class may have."""
        return max(1, math.ceil(self._steps[root] * self._least[root]))

    def frozen(self, root: int) -> str | None:
        """Why the class cannot change, or None."""
        return self._frozen[root]

    def moves(self, dim: Dim) -> bool:
        """True where some class that ``dim`` is made of may change."""
        return any(self._frozen[root] is None for root in self.roots(dim))

    def notes(self, root: int) -> tuple[str, ...]:
        """Where operators mix the channels of the class (normalise or reduce over them)."""
        return self._notes[root]

    def block(self, dim: Dim) -> int:
        """How many neighbours stand in one block (:meth:`set_blocks`) all over ``dim``; 0 where there are no blocks."""
        slots = [part for part in self.resolve(dim) if isinstance(part, Slot)]
        counts = {slot: self._blocks[self.root(slot.depth)] for slot in slots}
        return math.gcd(*(self.size((slot,)) // count for slot, count in counts.items() if count > 1))

    # --- tying ----------------------------------------------------------------------------------------------

    def tie(self, a: Dim, b: Dim, why: str) -> None:
        """Keep two dims of equal present size equal for good, part by part.

        Where the boundaries differ the longer depth becomes the sum of the shorter ones; where that cannot be, all
        depths concerned are tied in proportion. A depth that meets fixed channels is frozen with the reason ``why``.
        """
        sums: list[Part] = []
        if a == b:
            return
        if self.size(a) != self.size(b):
            raise AssertionError(f"{why}: {self.size(a)} and {self.size(b)} channels are not equal")
        while True:
            a, b = self.resolve(a), self.resolve(b)
            runs = self._runs(a, b)
            uneven = next(((i, j) for i, j in runs if not self._even(a[i], b[j])), None)
            if uneven is None:
                break
            left, right = a[uneven[0]], b[uneven[1]]
            if _circular(left, right):
                self.proportion([left, right], why)
                continue
            one, others = (left, right) if self.size(left[:1]) > self.size(right[:1]) else (right, left)
            ends = itertools.accumulate(self.size((part,)) for part in others)
            cut = self._cut_part(one[0], [end for end in ends if end < self.size(one[:1])])
            if self._tie_sums:
                sums.append(one[0])
            if cut is None:
                self.proportion([a, b], why)
                return
            if one is left:
                a = (*a[: uneven[0].start], *cut, *a[uneven[0].start + 1 :])
            else:
                b = (*b[: uneven[1].start], *cut, *b[uneven[1].start + 1 :])
        for here, there in runs:
            if len(a[here]) == len(b[there]) == 1:
                self._tie_parts(a[here][0], b[there][0], why)
        for part in sums:
            self.proportion([(part,)], why)

    def proportion(self, dims: Iterable[Dim], why: str) -> None:
        """Let all depths in ``dims`` change only together, in their present proportion."""
        parts = [part for dim in dims for part in self.resolve(dim)]
        slots = [part for part in parts if isinstance(part, Slot)]
        for slot in slots[1:]:
            self._merge(slots[0].depth, slot.depth)
        if len(slots) < len(parts):
            self.freeze(tuple(slots), why)

    def freeze(self, dim: Dim, why: str) -> None:
        """Keep all depths in ``dim`` at their present sizes; the first reason given to a class stays."""
        for root in self.roots(dim):
            self._frozen[root] = self._frozen[root] or why

    def at_least(self, dim: Dim, channels: int) -> None:
        """Keep ``dim`` from ever having fewer ``channels`` (some operators do another thing to a dim of length 1)."""
        if len(self.resolve(dim)) >= channels:
            return  # every part has a channel
        for root in self.roots(dim):
            self._least[root] = max(self._least[root], Fraction(channels, self.size(dim)))

    def note(self, dim: Dim, text: str) -> None:
        """Remember that an operator mixes the channels of ``dim``."""
        for root in self.roots(dim):
            if text not in self._notes[root]:
                self._notes[root] = (*self._notes[root], text)

    def set_blocks(self, dim: Dim, count: int) -> None:
        """Remember that the channels of ``dim`` stand in ``count`` equal blocks, each of which grows by itself."""
        parts = self.resolve(dim)
        if len(parts) == 1 and isinstance(parts[0], Slot) and parts[0].repeat == 1:
            root = self.root(parts[0].depth)
            self._blocks[root] = math.lcm(self._blocks[root], count)

    # --- cutting and scaling --------------------------------------------------------------------------------

    def multiple(self, dim: Dim, q: int, why: str) -> None:
        """Keep the size of ``dim`` a multiple of ``q``, and each of its parts if they are so now and change apart."""
        parts = self.resolve(dim)
        if not self.size(dim) % q and self.in_step(dim):
            self._limit(self.roots(dim)[0], self.size(dim) // q)
        elif all(self.size((part,)) % q == 0 for part in parts):
            for part in parts:
                if isinstance(part, Slot):
                    self._limit(part.depth, self.size((part,)) // q)
        elif self.size(dim) % q:
            self.freeze(dim, f"{self.size(dim)} channels are no multiple of {q}: {why}")
        elif any(isinstance(part, int) for part in parts):
            self.freeze(dim, _beside_fixed(why))
        else:
            self.proportion([dim], why)
            self._limit(self.roots(dim)[0], self.size(dim) // q)

    def scale(self, dim: Dim, factor: Number, why: str) -> Dim:
        """``dim`` with every part ``factor`` times as long, for instance ``1 / 4`` under a pixel shuffle by 2."""
        factor = Fraction(factor)
        self.multiple(dim, factor.denominator, why)
        parts = self.resolve(dim)
        if all(self._step(part) % factor.denominator == 0 for part in parts):
            return _times(parts, factor)
        return self._proportional(dim, int(self.size(dim) * factor))

    def cut(self, dim: Dim, offsets: Sequence[int], why: str) -> list[Dim]:
        """The pieces of ``dim`` between ascending ``offsets``; a depth that is cut becomes the sum of its pieces.

        Pieces change independently. Where a depth cannot be cut all parts and pieces are tied in proportion.
        """
        size = self.size(dim)
        bounds = [0, *offsets, size]
        for offset in offsets:
            cut = self._cut(dim, offset)
            if cut is None:
                self.proportion([dim], _beside_fixed(why))
                return [self._proportional(dim, b - a) for a, b in itertools.pairwise(bounds)]
            dim = cut
        return [self._between(dim, a, b) for a, b in itertools.pairwise(bounds)]

    def pieces(self, dim: Dim, count: int, why: str) -> list[Dim]:
        """``count`` pieces of ``dim`` that must stay equally long (chunk, the rows of a channel shuffle)."""
        dim = self.resolve(dim)
        size = self.size(dim)
        if size % count:
            self.freeze(dim, f"{size} channels are cut in {count} unequal pieces: {why}")
            length = -(-size // count)
            return [(min(length, size - start),) for start in range(0, size, length)]
        ends = {self.size(dim[:i]) for i in range(len(dim) + 1)}
        if all(i * size // count in ends for i in range(count)):
            cuts = self.cut(dim, [i * size // count for i in range(1, count)], why)
            for piece in cuts[1:]:
                self.tie(cuts[0], piece, _beside_fixed(why))
            return cuts
        if len(dim) > 1 and not all(isinstance(p, Slot) and p.repeat % count == 0 for p in dim):
            self.proportion([dim], _beside_fixed(why))
            return [self._proportional(dim, size // count)] * count
        piece = self.scale(dim, Fraction(1, count), why)
        for part in piece:
            if isinstance(part, Slot):
                root, parts = self.root(part.depth), Fraction(part.repeat).denominator
                self._divided[root] = math.lcm(self._divided[root], parts)
        return [piece] * count

    # --- inside ---------------------------------------------------------------------------------------------

    def _runs(self, a: Dim, b: Dim) -> list[tuple[slice, slice]]:
        """The shortest runs of parts that are equally long in two dims of equal size."""
        runs: list[tuple[slice, slice]] = []
        i = j = 0
        while i < len(a):
            here, there = i, j
            left, right = self.size((a[i],)), self.size((b[j],))
            i, j = i + 1, j + 1
            while left != right:
                if left < right:
                    left, i = left + self.size((a[i],)), i + 1
                else:
                    right, j = right + self.size((b[j],)), j + 1
            runs.append((slice(here, i), slice(there, j)))
        return runs

    def in_step(self, dim: Dim) -> bool:
        """True where one class makes up the whole dim, so that all its parts keep their proportion."""
        return len(self.roots(dim)) == 1 and all(isinstance(part, Slot) for part in self.resolve(dim))

    def _step(self, part: Part) -> int:
        """By how many channels a part can grow; all of them where it cannot."""
        return part if isinstance(part, int) else self.size((part,)) // self._steps[self.root(part.depth)]

    def _even(self, x: Dim, y: Dim) -> bool:
        """True for two runs of one part each, or where one class makes up both: they are always equally long."""
        return len(x) == len(y) == 1 or self.in_step((*x, *y))

    def _tie_parts(self, x: Part, y: Part, why: str) -> None:
        if isinstance(x, Slot) and isinstance(y, Slot):
            self._merge(x.depth, y.depth)
        else:
            self.freeze((x, y), why)

    def _merge(self, x: int, y: int) -> None:
        x, y = self.root(x), self.root(y)
        if x == y:
            return
        if len(self._members[x]) < len(self._members[y]):
            x, y = y, x
        self._parent[y] = x
        self._members[x] += self._members[y]
        self._steps[x] = math.gcd(self._steps[x], self._steps[y])
        self._least[x] = max(self._least[x], self._least[y])
        self._frozen[x] = self._frozen[x] or self._frozen[y]
        self._notes[x] = tuple(dict.fromkeys(self._notes[x] + self._notes[y]))
        self._blocks[x] = math.lcm(self._blocks[x], self._blocks[y])
        self._divided[x] = math.lcm(self._divided[x], self._divided[y])

    def _limit(self, depth: int, steps: int) -> None:
        root = self.root(depth)
        self._steps[root] = math.gcd(self._steps[root], steps)

    def _cut(self, dim: Dim, at: int) -> Dim | None:
        """``dim`` with a boundary at ``at``, or None where that cannot be."""
        dim = self.resolve(dim)
        start = 0
        for index, part in enumerate(dim):
            length = self.size((part,))
            if start < at < start + length:
                cut = self._cut_part(part, [at - start])
                return None if cut is None else (*dim[:index], *cut, *dim[index + 1 :])
            start += length
        return dim

    def _cut_part(self, part: Part, offsets: Sequence[int]) -> Dim | None:
        """The pieces of ``part``, or None where a depth of its class has no whole channel at one of the offsets."""
        if isinstance(part, int):
            return tuple(b - a for a, b in itertools.pairwise([0, *offsets, part]))
        root, size = self.root(part.depth), self.size((part,))
        steps, pieces, parts = self._steps[root], self._divided[root], Fraction(part.repeat).denominator
        if (all(at * pieces % size == 0 for at in offsets) or pieces % parts == 0 < parts - 1) and self._divide(root):
            cut: Dim | None = (part,)
            for at in offsets:
                cut = None if cut is None else self._cut(cut, at)
            return cut
        if any(at * steps % size for at in offsets):
            return None
        counts = [(b - a) * steps // size for a, b in itertools.pairwise([0, *offsets, size])]
        classes: list[list[int]] = [[] for _ in counts]
        for member in list(self._members[root]):
            slots = [self.new(self._size[member] // steps * count) for count in counts]
            self._sum[member] = tuple(slot for dim in slots for slot in dim)
            for depths, (slot,) in zip(classes, slots, strict=True):
                assert isinstance(slot, Slot)
                depths.append(slot.depth)
        for depths, count in zip(classes, counts, strict=True):
            self._become(depths, root, count)
        return self.resolve((part,))

    def _become(self, depths: list[int], root: int, steps: int) -> None:
        """Make new ``depths``, which take the place of those of the class ``root``, a class of so many ``steps``."""
        for other in depths[1:]:
            self._merge(depths[0], other)
        new = self.root(depths[0])
        self._steps[new] = steps
        self._least[new] = self._least[root]
        self._frozen[new] = self._frozen[root]
        self._notes[new] = self._notes[root]

    def _divide(self, root: int) -> bool:
        """Let every depth of a class become the sum of the equal :meth:`pieces` that it is divided in already. Returns
        whether each of them has room for that in a step.
        """
        count, steps = self._divided[root], self._steps[root]
        if any(self._size[member] % (count * steps) for member in self._members[root]):
            return False
        pieces: list[int] = []
        for member in list(self._members[root]):
            (piece,) = self.new(self._size[member] // count)
            assert isinstance(piece, Slot)
            pieces.append(piece.depth)
            self._sum[member] = (piece,) * count
        self._become(pieces, root, steps)
        return True

    def _between(self, dim: Dim, start: int, stop: int) -> Dim:
        """The parts of ``dim`` from ``start`` to ``stop``, which lie on boundaries once :meth:`cut` has been there."""
        out: list[Part] = []
        position = 0
        for part in self.resolve(dim):
            length = self.size((part,))
            if isinstance(part, int):
                part = max(0, min(stop, position + length) - max(start, position))
                if part:
                    out.append(part)
            elif start <= position and position + length <= stop:
                out.append(part)
            position += length
        return tuple(out)

    def _proportional(self, dim: Dim, size: int) -> Dim:
        """A dim of ``size`` channels that grows in proportion with ``dim``, whose depths are tied already."""
        slots = [part for part in self.resolve(dim) if isinstance(part, Slot)]
        if not slots or self._frozen[self.root(slots[0].depth)]:
            return (size,)
        depth = slots[0].depth
        self._limit(depth, size)
        return (Slot(depth, Fraction(size, self._size[depth])),)


def _beside_fixed(why: str) -> str:
    """Why depths stay that could only change in proportion with channels that cannot."""
    return f"is divided together with channels of a fixed number: {why}"


def _circular(x: Dim, y: Dim) -> bool:
    """True where two runs hold one depth other numbers of times each: to cut it would move the other's boundaries."""
    if not all(isinstance(part, Slot) for part in (*x, *y)):
        return False
    repeats = {part.depth: part.repeat for part in x if isinstance(part, Slot)}
    return any(repeats.get(part.depth, part.repeat) != part.repeat for part in y if isinstance(part, Slot))


def _times(dim: Dim, factor: Number) -> Dim:
    if factor == 1:
        return dim
    return tuple(
        int(part * factor) if isinstance(part, int) else Slot(part.depth, part.repeat * factor) for part in dim
    )
