"""The benchmark of the probe: its tables, its timing, and the causes that it gives for a difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.probe import speed
from benchmarks.probe.__main__ import main, table
from benchmarks.probe.agreement import difference


def test_tables() -> None:
    assert table([{"network": "a", "seconds": 0.123456}]) == "| network | seconds |\n| --- | ---: |\n| a | 0.1235 |\n"


def test_seconds_and_ratios() -> None:
    row = speed.compared(speed.planted(nn.Conv2d(4, 4, 3)), 1, None)
    assert row["ours / floor"] == row["ours"] / row["floor"] > 0


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["speeed"], "no part is called speeed"), (["agreement"], "needs --reference")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert words in capsys.readouterr().err


class Reference:
    """Stands in for the authors' code: rank `found`, None where it raises; `scaled` at entries of unit mean square."""

    def __init__(self, found: int | None, scaled: int, higher: bool = True) -> None:
        self.found, self.scaled, self.higher = found, scaled, higher

    def rank(self, matrix: Tensor) -> int | None:
        unit = abs(float(matrix.square().mean()) - 1) < 1e-3
        return self.scaled if unit and self.found is not None else self.found

    def noise_and_energy(self, matrix: Tensor, noise: float) -> tuple[float, float, float]:
        return noise, 2.0 if self.higher else 0.0, 1.0


@pytest.mark.parametrize(
    ("reference", "tall", "cause"),
    [
        (Reference(1, 1), False, None),
        (Reference(None, 0), True, "tall"),
        (Reference(None, 0), False, "other"),
        (Reference(5, 1), False, "tolerance"),
        (Reference(5, 5), False, "minimum"),
        (Reference(5, 5, higher=False), False, "other"),
    ],
)
def test_causes(reference: Any, tall: bool, cause: str | None) -> None:
    matrix = torch.zeros(8, 16)
    matrix[0, 0] = 3  # rank 1
    assert difference(matrix.T if tall else matrix, reference) == cause
