"""Cells of the DARTS search space (Liu et al., "DARTS: Differentiable Architecture Search") as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)

Edge = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    The nodes of a cell are numbered: 0 and 1 are the outputs of the last cell but one and of the last cell, node 2 is
    the sum of the first two edges, node 3 of the next two, and so on. An edge is (primitive, node that it reads). The
    output of a cell is the concatenation of the nodes in ``normal_concat`` or ``reduce_concat``. Sequences of any kind
    are taken, as in the genotypes that people publish, and kept as tuples.

    Raises ``ValueError`` for an unknown primitive, an odd number of edges, an edge that reads a node that does not come
    before its own, a concatenation of nodes that there are not.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for cell in ("normal", "reduce"):
            edges = _edges(cell, getattr(self, cell))
            object.__setattr__(self, cell, edges)
            name = f"{cell}_concat"
            object.__setattr__(self, name, _concat(name, getattr(self, name), nodes=len(edges) // 2))


def _edges(cell: str, given: Iterable[Edge]) -> tuple[Edge, ...]:
    edges = tuple(given)
    if not edges or len(edges) % 2:
        raise ValueError(f"{cell} has {len(edges)} edges: write two for each node, (primitive, node that it reads)")
    for position, edge in enumerate(edges):
        where, node = f"{cell}[{position}]", 2 + position // 2
        if not isinstance(edge, tuple | list) or len(edge) != 2:
            raise ValueError(f"{where} is {edge!r}: write (primitive, node that it reads)")
        primitive, source = edge
        if primitive not in PRIMITIVES:
            raise ValueError(f"{where}: unknown primitive {primitive!r} (known: {', '.join(PRIMITIVES)})")
        if not _is_index(source) or not 0 <= source < node:
            raise ValueError(f"{where} is an edge into node {node} and reads {source!r}: write a node in 0..{node - 1}")
    return tuple((primitive, source) for primitive, source in edges)


def _concat(name: str, given: Iterable[int], nodes: int) -> tuple[int, ...]:
    concat = tuple(given)
    if not concat or len(set(concat)) != len(concat) or not all(_is_index(i) and 2 <= i < nodes + 2 for i in concat):
        raise ValueError(f"{name} is {concat}: write some of the nodes 2..{nodes + 1}, each once")
    return concat


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


DARTS_V1 = Genotype(
    normal=(
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("skip_connect", 2),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("avg_pool_3x3", 0),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip

DARTS_V2 = Genotype(
    normal=(
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("skip_connect", 0), ("dil_conv_3x3", 2),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("max_pool_3x3", 1),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip

# Liang et al., "DARTS+: Improved Differentiable Architecture Search with Early Stopping", found on CIFAR-100
DARTS_PLUS_CIFAR100 = Genotype(
    normal=(
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 2), ("sep_conv_3x3", 4),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0), ("skip_connect", 1),
        ("max_pool_3x3", 0), ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0), ("dil_conv_5x5", 3),
        ("max_pool_3x3", 0), ("skip_connect", 2),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip

# Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition" (NASNet-A)
NASNET = Genotype(
    normal=(
        ("sep_conv_5x5", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
        ("avg_pool_3x3", 1), ("skip_connect", 0),
        ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
    ),
    normal_concat=(2, 3, 4, 5, 6),
    reduce=(
        ("sep_conv_5x5", 1), ("sep_conv_7x7", 0),
        ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
        ("avg_pool_3x3", 1), ("sep_conv_5x5", 0),
        ("skip_connect", 3), ("avg_pool_3x3", 2),
        ("sep_conv_3x3", 2), ("max_pool_3x3", 1),
    ),
    reduce_concat=(4, 5, 6),
)  # fmt: skip

# Real et al., "Regularized Evolution for Image Classifier Architecture Search" (AmoebaNet-A)
AMOEBANET = Genotype(
    normal=(
        ("avg_pool_3x3", 0), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
        ("skip_connect", 0), ("avg_pool_3x3", 1),
    ),
    normal_concat=(4, 5, 6),
    reduce=(
        ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
        ("sep_conv_7x7", 0), ("avg_pool_3x3", 1),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5),
    ),
    reduce_concat=(3, 4, 6),
)  # fmt: skip
