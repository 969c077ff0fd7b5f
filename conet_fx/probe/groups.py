"""What the probe says of a channel group: mean rank and condition, when the rank stops rising, how fast it rose.

Pure functions on numbers and arrays; a group is the paths of its members. Two things differ from the code of the
paper's authors: a slope is divided by t2 - t1, not by t2 - t1 + 0.0001, and means run over the layers that a group
really has, not over tables for three networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conet_fx.errors import SearchError
from conet_fx.probe.metrics import LayerMetrics


def group_rank(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics]) -> float:
    """Mean rank of a channel group in one epoch: R_4 of its dense writers and R_3 of its dense readers (Eq. 1).

    Args:
        writers: paths of the modules whose output channels are the group.
        readers: paths of the modules whose whole input is the group.
        layers: what the probe measured in that epoch. Members that it leaves out (depthwise convs, say) do not count.

    Raises:
        SearchError: no member was measured.
    """
    return _mean(writers, readers, layers, "rank")


def group_condition(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics]) -> float:
    """Mean condition kappa of a channel group in one epoch (Eq. 3); arguments and errors as for `group_rank`."""
    return _mean(writers, readers, layers, "condition")


def plateau(ranks: ArrayLike) -> Any:
    """Where the rank of a group stops rising: the number, from 0, of the first epoch with the largest rank (t2).

    Args:
        ranks: mean rank of a group after each epoch, [epochs]; or of many, [epochs, groups], which gives [groups].

    Raises:
        ValueError: no epoch at all, or a rank that is not finite.
    """
    epochs = _finite(ranks).argmax(0)
    return epochs if epochs.ndim else int(epochs)


def rank_slope(ranks: ArrayLike) -> Any:
    """Rank slope S = (R[t2] - R[t1]) / (t2 - t1) of a trial, rank an epoch, >= 0 (Eq. 2).

    t1 is the first epoch, t2 the `plateau`; S = 0 when they are the same. Arguments and errors as for `plateau`.
    """
    values = _finite(ranks)
    slope = (values.max(0) - values[0]) / np.maximum(values.argmax(0), 1)
    return slope if slope.ndim else float(slope)


def _finite(ranks: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(ranks, dtype=float)
    if values.ndim == 0 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"ranks={ranks!r}: pass the finite mean ranks of at least one epoch")
    return values


def _mean(writers: Iterable[str], readers: Iterable[str], layers: Mapping[str, LayerMetrics], what: str) -> float:
    members = [(path, f"{what}_out") for path in writers] + [(path, f"{what}_in") for path in readers]
    values = [getattr(layers[path], field) for path, field in members if path in layers]
    if not values:
        names = ", ".join(path for path, _ in members) or "no layer"
        raise SearchError(f"a channel group without a measured member ({names}) cannot be decided: keep its size")
    return float(np.mean(values))
