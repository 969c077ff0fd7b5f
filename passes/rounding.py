"""Sizes that a channel group allows: one pure function for all who choose sizes."""

from __future__ import annotations

from typing import Any

import numpy as np


def allowed(channels: Any, *, quantum: Any = 1, minimum: Any = 1, round_to: Any = 1) -> Any:
    """The multiple of ``lcm(round_to, quantum)`` nearest to ``channels`` that is not below ``minimum``, and above 0.

    A tie goes to the even number of multiples. All in channels, numbers or arrays of one entry a group; numbers give
    an ``int``.
    """
    multiple = np.lcm(round_to, quantum)
    fewest = -(-np.maximum(minimum, 1) // multiple)
    size = np.maximum(np.rint(np.asarray(channels) / multiple).astype(np.int64), fewest) * multiple
    return int(size) if np.ndim(size) == 0 else size
