"""Eigenvalues of the Gram matrices of weights, in float64: the squares of their singular values.

Gram matrices are multiplied where the weights lie. They are decomposed by the caller's thread or, but for the largest
ones of a GPU, by several threads of the CPU: a GPU takes one after the other, small ones no faster than such a thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor

import torch
from torch import Tensor

_BLOCK = 48  # rows of a Gram matrix computed at once: a multiple of the tiles of common BLAS kernels
_PANEL = 1 << 19  # entries of an unfolding that are multiplied at once: 4 MiB in float64
_GPU_PANEL = 1 << 25  # on a GPU: 256 MiB
_LARGE = 1024  # rows of a Gram matrix that a GPU decomposes itself: a thread of the CPU takes 0.1 s from here on
_TASK = 256  # so many rows, or as much work on smaller matrices, are worth a task of their own


def normalise(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices [B, ...] over their largest absolute entry, and that entry [B]: not finite where a matrix is not."""
    peak = torch.linalg.vector_norm(matrices.flatten(1), ord=math.inf, dim=1)
    divisor = torch.where(peak > 0, peak, 1)
    return matrices / divisor.reshape(-1, *[1] * (matrices.ndim - 1)), peak


def gram(tensors: Tensor) -> Tensor:
    """Gram matrices of tensors [B, rows, columns, entries] unfolded to rows x (columns * entries), float64.

    [B, L, L], L the shorter side: inner products of rows, or of columns where these are fewer. Only the lower triangle
    counts; on a CPU blocks above it are not computed, which is half the work, and the unfolded float64 copies are made
    panel by panel, so that they stay in the cache. A GPU has a product done before it is told of the next block.
    """
    rows, columns, entries = tensors.shape[1:]
    wide = rows <= columns * entries
    size = min(rows, columns * entries)
    block, most = (_BLOCK, _PANEL) if tensors.device.type == "cpu" else (size, _GPU_PANEL)
    along = 2 if wide else 1
    thickness = max(most * tensors.shape[along] // tensors.numel(), 1)
    product = tensors.new_zeros(len(tensors), size, size, dtype=torch.float64)
    for part in torch.split(tensors, thickness, dim=along):
        panel = part.flatten(2).double()
        panel = panel if wide else panel.mT
        for row in range(0, size, block):
            end = row + block
            product[:, row:end, :end].baddbmm_(panel[:, row:end], panel[:, :end].mT)
    return product


def start_eigenvalues(grams: Tensor, helpers: Executor | None = None) -> Callable[[], Tensor]:
    """Begin to decompose finite symmetric matrices [B, L, L], of which the lower triangle is read.

    The returned function waits for the eigenvalues [B, L], descending, on the CPU.

    Args:
        helpers: threads that compute with one thread each, for all but the largest.
    """
    size = grams.shape[-1]
    if helpers is None or size >= _LARGE:
        ascending: Tensor = torch.linalg.eigvalsh(grams)
        return lambda: ascending.cpu().flip(-1)
    parts = torch.split(grams.cpu(), max(_TASK // size, 1) ** 2)
    begun = [helpers.submit(torch.linalg.eigvalsh, part) for part in parts]
    return lambda: torch.cat([one.result() for one in begun]).flip(-1)
