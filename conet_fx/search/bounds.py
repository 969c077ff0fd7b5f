"""Keep the next candidate within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_SHARES = 256  # of the wanted growth that are tried


def bounded(
    before: Mapping[str, int],
    after: Mapping[str, int],
    multiples: Mapping[str, int],
    fits: Callable[[Mapping[str, int]], bool],
) -> dict[str, int]:
    """The sizes ``after`` a decision, or where they do not fit, the largest share of all growth that does.

    Groups that shrink do so in any case; where not even that fits, no group grows.

    Args:
        before, after: channels by group name.
        multiples: what the size of each group is a multiple of; growth is cut down to it.
        fits: whether sizes are within the budget; larger ones never fit where smaller ones do not.
    """

    def grown(share: int) -> dict[str, int]:
        sizes = {}
        for name, size in after.items():
            growth = size - before[name]
            cut = growth * share // _SHARES // multiples[name] * multiples[name] if growth > 0 else growth
            sizes[name] = before[name] + (growth if share == _SHARES else cut)
        return sizes

    if fits(after):
        return dict(after)
    low, high = 0, _SHARES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(grown(middle)) else (low, middle)
    return grown(low)
