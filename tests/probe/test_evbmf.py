"""EVBMF against planted matrices, its symmetries, and a dense grid over the free energy written from the textbook."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from conet_fx.probe import evbmf
from conet_fx.probe.evbmf import solve, tau_bar

QUICK = settings(max_examples=60, deadline=None)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(rows: int, columns: int, rank: int, strength: float, seed: int = 0) -> torch.Tensor:
    """Unit noise and `rank` singular values of `strength` times the largest one of the noise, about."""
    left, right = (torch.linalg.qr(noise(n, rank, seed=seed + 1)).Q for n in (rows, columns))
    return noise(rows, columns, seed=seed) + strength * (math.sqrt(rows) + math.sqrt(columns)) * left @ right.T


def textbook_tau_bar(alpha: float) -> float:
    """Nakajima et al., Theorem 2: Phi(tau_bar) + Phi(tau_bar / alpha) = 0 with Phi(z) = log(z + 1) / z - 1 / 2."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    return float(brentq(lambda t: phi(t) + phi(t / alpha), math.sqrt(alpha), 100, xtol=1e-15))


def textbook_energy(singular: np.ndarray, rows: int, columns: int, s2: np.ndarray) -> np.ndarray:
    """2 F / (L M) up to a constant, Eq. 28 there: sums of psi_0 and psi_1 over x_h = gamma_h^2 / (M s2)."""
    alpha = rows / columns
    bar = textbook_tau_bar(alpha)
    x_bar = (1 + bar) * (1 + alpha / bar)
    x = singular**2 / (columns * s2[:, None])
    beyond = np.where(x > x_bar, x, x_bar)
    tau = (beyond - (1 + alpha) + np.sqrt((beyond - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    psi_0 = x - np.log(x)
    psi_1 = np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau
    return (psi_0 + np.where(x > x_bar, psi_1, 0)).sum(1)


def textbook_rank(singular: np.ndarray, rows: int, columns: int, s2: float) -> int:
    bar = textbook_tau_bar(rows / columns)
    return int((singular**2 / (columns * s2) > (1 + bar) * (1 + rows / columns / bar)).sum())


def grid_minimum(singular: np.ndarray, rows: int, columns: int) -> tuple[float, float]:
    """Place and height of the least free energy on two nested grids of log s2."""
    mean = (singular**2).sum() / (rows * columns)
    low, high = math.log(min(singular[-1] ** 2 / columns, mean) * 1e-2), math.log(mean * 1.01)
    for _ in range(2):
        grid = np.linspace(low, high, 6000)
        heights = textbook_energy(singular, rows, columns, np.exp(grid))
        best = int(heights.argmin())
        low, high = grid[max(best - 2, 0)], grid[min(best + 2, len(grid) - 1)]
    return math.exp(grid[best]), float(heights[best])


def assert_global_minimum(singular: np.ndarray, rows: int, columns: int) -> None:
    split = solve(
        torch.tensor(singular[None] ** 2),
        torch.tensor([rows], dtype=torch.float64),
        torch.tensor([columns], dtype=torch.float64),
    )
    s2, rank = split.noise.item(), int(split.rank)
    place, lowest = grid_minimum(singular, rows, columns)
    height = float(textbook_energy(singular, rows, columns, np.array([s2]))[0])
    assert height <= lowest + 1e-9
    if rank != textbook_rank(singular, rows, columns, place):
        assert height < lowest - 1e-9, "ranks differ at the same height"
    # the rank, the shrinkage and the noise are one solution: Theorem 2
    assert rank == textbook_rank(singular, rows, columns, s2)
    kept = singular[:rank]
    q = 1 - (rows + columns) * s2 / kept**2
    expected = kept / 2 * (q + np.sqrt(q**2 - 4 * rows * columns * s2**2 / kept**4))
    np.testing.assert_allclose(split.values[0, :rank], expected, rtol=1e-9)
    assert not split.values[0, rank:].any()


class TestFreeEnergy:
    @QUICK
    @given(
        rows=st.integers(2, 24),
        stretch=st.floats(1, 40),
        rank=st.integers(0, 12),
        strength=st.floats(0.2, 3),
        uneven=st.booleans(),
        seed=st.integers(0, 10**6),
    )
    def test_no_grid_finds_less_on_planted_matrices(
        self, rows: int, stretch: float, rank: int, strength: float, uneven: bool, seed: int
    ) -> None:
        columns = int(rows * stretch)
        matrix = planted(rows, columns, min(rank, rows), strength, seed)
        if uneven:
            matrix *= torch.logspace(0, -2, rows, dtype=torch.float64)[:, None]
        assert_global_minimum(torch.linalg.svdvals(matrix).numpy(), rows, columns)

    @QUICK
    @given(
        spectrum=st.lists(st.floats(1e-3, 1), min_size=2, max_size=24),
        stretch=st.floats(1, 40),
    )
    def test_no_grid_finds_less_on_any_spectrum(self, spectrum: list[float], stretch: float) -> None:
        singular = np.sort(spectrum)[::-1].copy()
        assert_global_minimum(singular, len(singular), int(len(singular) * stretch))

    @pytest.mark.parametrize("equal", range(1, 12))
    def test_no_grid_finds_less_where_many_values_are_equal(self, equal: int) -> None:
        for height in (1.2, 1.6, 2, 2.5, 3, 4):
            singular = np.r_[np.full(equal, height), np.linspace(1, 0.5, 20 - equal)]
            for columns in (20, 30, 200):
                assert_global_minimum(singular, 20, columns)

    def test_tau_bar_solves_the_textbook_equation(self) -> None:
        alpha = torch.tensor([1, 0.9, 0.5, 1 / 9, 1 / 36, 0.01, 1e-4, 1e-6, 1e-8], dtype=torch.float64)
        found = tau_bar(alpha)
        np.testing.assert_allclose(found, [textbook_tau_bar(a) for a in alpha.tolist()], rtol=1e-9)
        np.testing.assert_allclose((found / alpha.sqrt())[:6], [2.5129, 2.513, 2.521, 2.593, 2.714, 2.829], atol=6e-4)


class TestRank:
    @pytest.mark.parametrize("shape", [(16, 16), (64, 576), (32, 300), (100, 8)])
    def test_pure_noise_has_rank_0(self, shape: tuple[int, int]) -> None:
        batch = noise(30, *shape)
        split = evbmf(batch)
        assert not split.rank.any()
        assert not split.values.any()
        torch.testing.assert_close(split.noise, batch.square().mean((1, 2)))

    @QUICK
    @given(rows=st.integers(8, 48), stretch=st.integers(9, 20), share=st.floats(0, 0.25), seed=st.integers(0, 10**6))
    def test_planted_rank_is_found(self, rows: int, stretch: int, share: float, seed: int) -> None:
        rank = int(rows * share)
        split = evbmf(planted(rows, rows * stretch, rank, 2.0, seed))
        assert split.rank.tolist() == [rank]
        if rank:
            assert 0.7 < split.noise.item() < 1.3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(3, 10), (4, 10_000), (8, 8), (64, 576), (300, 256)])
    def test_exact_low_rank(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        cap = (shape[0] * shape[1] - 1) // sum(shape)
        for rank in {1, max(min(shape) // 4, 1)}:
            assert rank <= cap
            matrices = (noise(8, shape[0], rank) @ noise(8, rank, shape[1], seed=1)).to(dtype)
            split = evbmf(matrices)
            assert split.rank.tolist() == [rank] * 8
            if dtype is torch.float64:
                singular = torch.linalg.svdvals(matrices)[:, :rank]
                torch.testing.assert_close(split.values[:, :rank], singular)
                assert not split.noise.any()

    def test_zeros(self) -> None:
        split = evbmf(torch.zeros(2, 5, 7))
        assert split.rank.tolist() == [0, 0]
        assert not split.noise.any()
        assert not split.values.any()

    def test_cap(self) -> None:
        shapes = {(1, 1): 0, (1, 9): 0, (2, 2): 0, (3, 3): 1, (64, 64): 31, (64, 576): 57, (9, 18): 5}
        for (rows, columns), cap in shapes.items():
            split = evbmf(torch.ones(rows, columns))
            assert split.cap.tolist() == [cap]
            assert split.rank.tolist() == [min(cap, 1)]

    @QUICK
    @given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 10**6))
    def test_rank_stays_below_cap(self, rows: int, columns: int, seed: int) -> None:
        split = evbmf(noise(rows, columns, seed=seed) ** 3)
        assert 0 <= split.rank.item() <= split.cap.item()

    def test_golden(self) -> None:
        """Singular values 8, 4, 1, 1, 1, 1, 1, 1 of an 8 x 32 matrix: the derivative with 2 kept, solved by scipy."""
        matrix = torch.zeros(8, 32, dtype=torch.float64)
        matrix[range(8), range(8)] = torch.tensor([8.0, 4, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
        split = evbmf(matrix)

        def derivative(s2: float) -> float:
            x = np.array([64, 16]) / (32 * s2)
            tau = (x - 1.25 + np.sqrt((x - 1.25) ** 2 - 1)) / 2
            return float(6 * s2 - 6 / 32 - 0.25 * s2 * (1 + 1 / tau).sum())

        s2 = brentq(derivative, 0.02, 0.09, xtol=1e-15)
        assert split.rank.tolist() == [2]
        assert split.noise.item() == pytest.approx(s2, rel=1e-12)
        q = 1 - 40 * s2 / np.array([64, 16])
        shrunken = np.array([4, 2]) * (q + np.sqrt(q**2 - 4 * 256 * s2**2 / np.array([64, 16]) ** 2))
        np.testing.assert_allclose(split.values[0, :2], shrunken, rtol=1e-12)


class TestInvariance:
    matrices = torch.stack([planted(12, 60, rank, 1.3, rank) for rank in range(8)])

    @pytest.mark.parametrize("exponent", [-300, -100, -20, -3, 3, 20, 100, 150])
    def test_scale(self, exponent: int) -> None:
        before, after = evbmf(self.matrices), evbmf(self.matrices * 10.0**exponent)
        assert after.rank.tolist() == before.rank.tolist()
        torch.testing.assert_close(after.values / 10.0**exponent, before.values, rtol=1e-9, atol=1e-12)

    def test_transposing(self) -> None:
        before, after = evbmf(self.matrices), evbmf(self.matrices.mT)
        assert after.rank.tolist() == before.rank.tolist()
        torch.testing.assert_close(after.values, before.values)
        torch.testing.assert_close(after.noise, before.noise)

    def test_orthogonal_rotation_of_columns(self) -> None:
        rotation = torch.linalg.qr(noise(60, 60, seed=5)).Q
        before, after = evbmf(self.matrices), evbmf(self.matrices @ rotation)
        assert after.rank.tolist() == before.rank.tolist()
        torch.testing.assert_close(after.values, before.values)

    @QUICK
    @given(
        rows=st.integers(1, 40),
        columns=st.integers(1, 40),
        rank=st.integers(0, 6),
        exponent=st.floats(-20, 20),
        seed=st.integers(0, 10**6),
    )
    def test_scale_transposing_permuting_and_rotating(
        self, rows: int, columns: int, rank: int, exponent: float, seed: int
    ) -> None:
        matrix = planted(rows, columns, min(rank, rows, columns), 1.5, seed)
        before = evbmf(matrix)
        permutation = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        rotation = torch.linalg.qr(noise(columns, columns, seed=seed + 9)).Q
        after = evbmf((matrix[permutation] @ rotation).mT * 10**exponent)
        assert after.rank.tolist() == before.rank.tolist()
        torch.testing.assert_close(after.values / 10**exponent, before.values, rtol=1e-7, atol=1e-9)

    def test_batch_equals_one_by_one(self) -> None:
        batch = evbmf(self.matrices)
        for index, matrix in enumerate(self.matrices):
            alone = evbmf(matrix)
            assert alone.rank.item() == batch.rank[index].item()
            torch.testing.assert_close(alone.values[0], batch.values[index])

    def test_chunks_of_the_solver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = evbmf(self.matrices, tau="approximate")
        monkeypatch.setattr(sys.modules[solve.__module__], "_PAIRS", 1)
        pieces = evbmf(self.matrices, tau="approximate")
        assert torch.equal(whole.values, pieces.values)


def test_approximate_tau_keeps_more_of_wide_matrices() -> None:
    """One value of x = 1.312 over flat noise: x_bar is 1.328 at alpha = 0.01, and 1.301 by the approximation."""
    spectrum = torch.ones(1, 24, dtype=torch.float64)
    spectrum[0, 0] = 1.33
    rows, columns = torch.tensor([24.0]).double(), torch.tensor([2400.0]).double()
    assert solve(spectrum, rows, columns).rank.tolist() == [0]
    assert solve(spectrum, rows, columns, tau="approximate").rank.tolist() == [1]
    square = planted(24, 24, 4, 2.0)
    torch.testing.assert_close(evbmf(square).values, evbmf(square, tau="approximate").values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite(bad: float) -> None:
    matrix = noise(4, 5)
    matrix[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        evbmf(matrix)
