"""Static scaling: sizes from the ranks of one trained baseline, without any trial (paper Eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from conet_fx.passes.rounding import allowed
from conet_fx.probe import LayerMetrics


class _Group(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def quantum(self) -> int: ...
    @property
    def minimum(self) -> int: ...
    @property
    def writers(self) -> Sequence[str]: ...
    @property
    def frozen(self) -> str | None: ...


class _Plan(Protocol):
    @property
    def groups(self) -> Sequence[_Group]: ...


def static_sizes(plan: _Plan, ranks: Mapping[str, LayerMetrics | float], scale: float) -> dict[str, int]:
    """Sizes of all channel groups that keep what a trained baseline uses (paper Eq. 4).

    C_f = C_i (O + (1 - s) (1 - O)), where C_i is the size of the group now and O the largest output rank of its
    writers. It is rounded to the nearest multiple of the group's quantum (a tie to the even one), never below its
    minimum. No group grows; s = 0 keeps every size.

    Args:
        plan: its `groups` are read: name, size, quantum, minimum, writers, frozen.
        ranks: what the probe measured on the trained baseline, or output ranks R_4 in [0, 1], by module path.
        scale: s in [0, 1]; the paper tries 0.2 to 1. 1 removes all that the rank does not show.

    Returns:
        Channels by group name, in the order of the plan. Frozen groups, and groups that no measured module writes,
        keep their size.

    Raises:
        ValueError: `scale` or a rank of a writer outside [0, 1].
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"scale={scale!r}: write a number in [0, 1]; the paper tries 0.2 to 1")
    sizes = {}
    for group in plan.groups:
        used = [_output_rank(path, ranks[path]) for path in group.writers if path in ranks]
        if group.frozen is not None or not used:
            sizes[group.name] = group.size
            continue
        largest = max(used)
        wanted = group.size * (largest + (1 - scale) * (1 - largest))
        sizes[group.name] = allowed(wanted, quantum=group.quantum, minimum=group.minimum)
    return sizes


def _output_rank(path: str, measured: LayerMetrics | float) -> float:
    rank = measured.rank_out if isinstance(measured, LayerMetrics) else measured
    if not 0 <= rank <= 1:
        raise ValueError(f"output rank {rank!r} of {path!r}: ranks lie in [0, 1]; probe the trained baseline")
    return rank
