"""Empirical variational Bayes matrix factorisation (EVBMF): low rank + Gaussian noise, its variance estimated.

Nakajima, Sugiyama, Babacan and Tomioka, "Global analytic solution of fully-observed variational Bayesian
matrix factorization", JMLR 14 (2013). A matrix has L rows and M >= L columns (it is transposed otherwise) and
alpha = L / M; its Gram matrix has eigenvalues lambda_h; x_h = lambda_h / (M s2). Up to a factor and a constant,
the free energy of the noise variance s2 when the k largest values are kept is

    F_k(s2) = sum_h (x_h + log s2) + sum_{h<=k} (log(1 + tau_h) + alpha log(1 + tau_h / alpha) - tau_h)

with x = (1 + tau) (1 + alpha / tau), tau >= sqrt(alpha). Keeping a value pays when its term in the second sum is
negative: when tau_h > tau_bar, the root of that term, or x_h > x_bar. So the free energy is min_k F_k, and k rules
where s2 lies between lambda_{k+1} and lambda_k, both over M x_bar.

Its global minimum is found exactly. The derivative of F_k by log s2, times s2, is

    D_k(s2) = (L - k) s2 - sum_{h>k} lambda_h / M - alpha s2 sum_{h<=k} (1 + 1 / tau_h)

* D_k is concave in s2: an interval holds at most one minimum, and Newton's method, started below, climbs to it and
  never passes it.
* 0 < 1 / tau_h <= 1 / tau_bar, so a root of D_k lies in a band that costs nothing to compute. The few k whose band
  meets their interval are solved, those of all matrices at once; the least F_k wins and its k is the rank.
* D_k < 0 where k >= L / (1 + alpha): the rank is at most ceil(L / (1 + alpha)) - 1.
* D_k > 0 where s2 > sum_h lambda_h / (L M): the noise is not stronger than the matrix.
* D falls where s2 crosses a border upward: no minimum sits on the border of two intervals.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from conet_fx.probe.spectra import gram, normalise, start_eigenvalues

Tau = Literal["exact", "approximate"]

_PAIRS = 1 << 22  # most entries of a temporary of the solver, 32 MiB
_STEPS = 100  # of Newton's method: quadratic, half the distance a step at a double root


@dataclasses.dataclass(frozen=True)
class Factorization:
    """What EVBMF says of B matrices; int64 and float64 tensors on the CPU.

    `rank` [B]: how many values are kept; `cap` [B]: how many could be kept at most; `noise` [B]: the variance s2 of
    the noise of an entry; `values` [B, H]: the kept singular values after shrinking, descending, then zeros.
    """

    rank: Tensor
    cap: Tensor
    noise: Tensor
    values: Tensor


def evbmf(matrices: Tensor, *, tau: Tau = "exact") -> Factorization:
    """Split each of B matrices into low rank + noise.

    Exact up to rounding in float64: s2 is the global minimum of the free energy. Ranks depend neither on the scale
    of a matrix nor on transposing it. Zeros have rank 0, and so has a single row or column, which cannot be told from
    noise (cap 0); exact rank r <= cap gives rank r and noise 0.

    Args:
        matrices: [B, rows, columns], or [rows, columns] for B = 1; floating point, finite, on any device.
        tau: "exact" solves for tau_bar. "approximate" is 2.5129 sqrt(alpha), as in the code of the paper's authors:
            good only near alpha = 1, and the free energy jumps at the borders.

    Raises:
        ValueError: an entry is NaN or infinite.
    """
    matrices = matrices.detach().double()
    matrices, peak = normalise(matrices if matrices.ndim == 3 else matrices[None])
    peak = peak.cpu()
    if not peak.isfinite().all():
        raise ValueError("a matrix has entries that are NaN or infinite: leave it out")
    short, long = sorted(matrices.shape[1:])
    spectra = start_eigenvalues(gram(matrices[..., None]))()
    split = solve(spectra, torch.full_like(peak, short), torch.full_like(peak, long), tau=tau)
    return dataclasses.replace(split, noise=split.noise * peak**2, values=split.values * peak[:, None])


def solve(spectra: Tensor, rows: Tensor, columns: Tensor, *, tau: Tau = "exact") -> Factorization:
    """EVBMF of B matrices of any sizes from the eigenvalues of their Gram matrices.

    Args:
        spectra: [B, H], descending, float64 on the CPU; shorter ones end in zeros.
        rows, columns: L and M of each matrix, [B], float64; L <= M and L <= H.
        tau: as for `evbmf`.
    """
    alpha = rows / columns
    threshold = tau_bar(alpha) if tau == "exact" else 2.5129 * alpha.sqrt()
    x_bar = (1 + threshold) * (1 + alpha / threshold)
    cap = (rows * columns / (rows + columns)).ceil().long() - 1

    # Rounding counts as zero: that of the Gram product, and that of float32 weights (64 eps is eps32 squared).
    # Then y_h = lambda_h / M in units of the mean square of an entry, so that s2 <= 1.
    eps, tiny = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny
    rounding = eps * (rows * columns).sqrt().clamp_min(64) * spectra[:, 0]
    spectra = torch.where(spectra > rounding[:, None], spectra, 0)
    unit = (spectra.sum(1) / (rows * columns)).clamp_min(tiny)
    y = spectra / (columns * unit)[:, None]

    # for k = 0 .. H: the sum that is not kept, and the stretch of s2 where a minimum with k kept must lie, [B, H + 1]
    k = torch.arange(y.shape[1] + 1)
    tail = pad(y.flip(1).cumsum(1).flip(1), (0, 1))
    border = y / x_bar[:, None]
    start = torch.maximum(pad(border, (0, 1)), tail / (rows - k[:, None] * (1 + alpha)).T)
    stop = pad(border, (1, 0), value=1).clamp_max(1)
    if tau == "exact":
        least = (rows - k[:, None] * (1 + alpha + alpha / threshold)).T
        stop = torch.where(least > 0, torch.minimum(stop, tail / least), stop)
    tried = (k <= cap[:, None]) & (tail > 0) & (start <= stop * (1 + 1e-9))

    energy = torch.full_like(tail, math.inf)
    s2 = torch.zeros_like(tail)
    for pairs in torch.split(tried.nonzero(), max(_PAIRS // len(k), 1)):
        matrix, kept = pairs.T
        at = matrix, kept
        s2[at], energy[at] = _minimum(
            y[matrix, : max(kept.tolist(), default=0)], kept, tail[at], start[at], stop[at], rows[matrix], alpha[matrix]
        )

    # as many nonzero values as can be kept, or fewer: the free energy falls without end as s2 -> 0
    nonzero = (y > 0).sum(1)
    noiseless = nonzero <= cap
    rank = torch.where(noiseless, nonzero, energy.argmin(1))
    best = torch.where(noiseless, 0, s2.gather(1, rank[:, None])[:, 0])
    x = y / best[:, None]
    shrunken = spectra.sqrt() * torch.where(noiseless[:, None], 1, 1 / (x * _inverse_tau(x, alpha[:, None])))
    values = torch.where(k[:-1] < rank[:, None], shrunken, 0)
    return Factorization(rank=rank, cap=cap, noise=best * unit, values=values)


def tau_bar(alpha: Tensor) -> Tensor:
    """The tau above which a value is kept: log(1 + t) + alpha log(1 + t / alpha) = t, t > sqrt(alpha); elementwise.

    Newton's method: the function is concave, and after one step from below the iterates fall to the root.
    """
    t = 2.5129 * alpha.sqrt()
    for _ in range(20):
        value = t.log1p() + alpha * (t / alpha).log1p() - t
        step = value * (1 + t) * (alpha + t) / (alpha - t**2)
        t = t - step
        if (step.abs() <= 1e-12 * t).all():  # the next step would be 1e-24
            break
    return t


def _inverse_tau(x: Tensor, alpha: Tensor) -> Tensor:
    """1 / tau of x = (1 + tau) (1 + alpha / tau), tau >= sqrt(alpha); 0 at infinity, NaN where no tau belongs to x."""
    b = x - 1 - alpha
    return 2 / (b + (b**2 - 4 * alpha).sqrt())


def _minimum(
    y: Tensor, kept: Tensor, tail: Tensor, s2: Tensor, stop: Tensor, rows: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """The minimum of F_k between `s2` and `stop` for P pairs of matrix and k: its place and its height.

    `y` [P, largest k] has the values of each matrix; the others, [P], are k, what is not kept, L and alpha. Where
    there is no minimum, the place is an end of the stretch, whose height does no harm.
    """
    is_kept = torch.arange(y.shape[1]) < kept[:, None]
    y = torch.where(is_kept, y, math.inf)  # 1 / tau is 0 there
    column = alpha[:, None]
    for _ in range(_STEPS):
        v = _inverse_tau(y / s2[:, None], column)
        height = (rows - kept * (1 + alpha) - alpha * v.sum(1)) * s2 - tail
        growth = (2 * v + (1 + column) * v**2) / (1 - column * v**2)
        slope = rows - kept * (1 + alpha) - alpha * growth.sum(1)
        step = torch.where(slope > 0, -height / slope, math.inf)
        following = torch.where(height < 0, torch.minimum(s2 + step, stop), s2)
        done = following - s2 <= 1e-15 * s2
        s2 = following
        if done.all():
            break
    v = _inverse_tau(y / s2[:, None], column)
    terms = 1 + column * (1 + v) + (1 / v).log1p() + column * (1 / (column * v)).log1p()
    return s2, rows * s2.log() + tail / s2 + torch.where(is_kept, terms, 0).sum(1)
