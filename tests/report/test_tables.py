"""The tables and the sentence that end a search in the terminal."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping

import pytest
from rich.console import Console

from conet_fx.report import Run, tables, verdict
from conet_fx.report.run import accuracy, change, count, duration
from conet_fx.report.verdict import difference, judge
from tests.report.synthetic import synthetic_run


def printed(run: Run, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    for table in tables(run):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def with_accuracies(accuracies: Mapping[str, tuple[float, ...]]) -> Run:
    return synthetic_run(trials=1, accuracies=accuracies)


class TestTables:
    def test_groups_and_networks(self) -> None:
        run = synthetic_run()
        text = printed(run)
        found = run.found_sizes["layer4.1.conv1"]
        row = next(line for line in text.splitlines() if "layer4.1.conv1" in line)
        assert "512" in row
        assert str(found) in row
        assert f"-{100 - round(100 * found / 512)} %" in row
        assert "network output" in text
        assert "98.81 ± 0.16 %" in text
        assert "uniform, equal size" in text

    def test_square_brackets_are_no_markup(self) -> None:
        run = synthetic_run({"[red]a": ("[red]a", "[/]")}, (8,), trials=1)
        assert "[red]a" in printed(run)
        assert "[/]" in printed(run)

    def test_nothing_yet(self) -> None:
        run = dataclasses.replace(synthetic_run(trials=1), trials=[], evaluations=[])
        assert len(tables(run)) == 1
        assert run.found_sizes == run.initial_sizes

    def test_after_trials_alone_the_last_decision_counts(self) -> None:
        run = dataclasses.replace(synthetic_run(), evaluations=[])
        assert run.found_sizes["conv1"] == run.trials[-1].groups["conv1"].next_size
        assert run.found_sizes["fc"] == 10


class TestVerdict:
    def test_better(self) -> None:
        run = with_accuracies({"found": (0.95, 0.951, 0.949), "uniform": (0.93, 0.931, 0.929)})
        assert judge(run).outcome == "better"
        assert verdict(run) == (
            "The found network is better than the uniform one of equal size: 95.00 ± 0.10 % against "
            "93.00 ± 0.10 % test accuracy, a difference of +2.00 points "
            "(95 % interval +1.77 to +2.23, 3 seeds). It takes 64.8 M MACs an image, the uniform one 19.5 M."
        )

    def test_worse(self) -> None:
        run = with_accuracies({"found": (0.93, 0.931, 0.929), "uniform": (0.95, 0.951, 0.949)})
        assert judge(run).outcome == "worse"
        assert "is worse than the uniform one" in verdict(run)
        assert "-2.00 points" in verdict(run)

    @pytest.mark.parametrize(
        ("found", "uniform"), [((0.95, 0.94, 0.96), (0.945, 0.95, 0.94)), ((0.9, 0.9), (0.9, 0.9))]
    )
    def test_within_the_noise(self, found: tuple[float, ...], uniform: tuple[float, ...]) -> None:
        run = with_accuracies({"found": found, "uniform": uniform})
        assert judge(run).outcome == "unclear"
        assert verdict(run).startswith("No clear difference: the found network is not better")

    def test_one_seed_proves_nothing(self) -> None:
        run = with_accuracies({"found": (0.99,), "uniform": (0.90,)})
        assert judge(run).outcome == "unclear"
        assert "not shown to be better" in verdict(run)

    @pytest.mark.parametrize("accuracies", [{}, {"found": (0.9, 0.9)}, {"found": (0.9, 0.9), "uniform": ()}])
    def test_not_judged(self, accuracies: Mapping[str, tuple[float, ...]]) -> None:
        run = with_accuracies(accuracies)
        assert judge(run).outcome == "unknown"
        assert verdict(run).startswith("Not judged yet")

    def test_unequal_sizes_are_told(self) -> None:
        run = with_accuracies({"found": (0.9, 0.91), "uniform": (0.9, 0.91)})
        found, uniform = run.evaluations
        uniform = dataclasses.replace(uniform, params=round(found.params * 1.1))
        run = dataclasses.replace(run, evaluations=[found, uniform])
        assert "nearly equal size (+10 % parameters)" in verdict(run)

    def test_interval_is_welchs(self) -> None:
        """Student's own sleep data, as R prints them for t.test(extra ~ group)."""
        first = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
        second = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
        assert difference(first, second) == pytest.approx((-3.3654832, 0.2054832), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_949, "1.00 M"),
        (21_282_122, "21.3 M"),
        (4.1e9, "4.10 G"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert count(value) == text


def test_accuracy() -> None:
    assert accuracy((0.95, 0.96)) == f"95.50 ± {100 * math.sqrt(0.5) * 0.01:.2f} %"
    assert accuracy((0.9556,)) == "95.56 %"
    assert accuracy(()) == "not trained"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(100, 28, "-72 %"), (100, 105, "+5 %"), (100, 100, "±0 %"), (10, 41, "×4.1"), (0, 3, "")],
)
def test_change(before: float, after: float, text: str) -> None:
    assert change(before, after) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (59.7, "1 min 00 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
