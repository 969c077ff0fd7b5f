"""What an experiment gives: a table, curves, and what they tell; shown, and written as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy import stats

from conet_fx.search.history import Evaluation

Cell = str | float | int | None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line or a cloud of points; ``errors`` are half the height of the bars."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()
    line: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """``axes``: what the curves have on x and on y; ``log``: the x axis is logarithmic."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    axes: tuple[str, str] = ("", "")
    log: bool = False

    def show(self, console: Console) -> None:
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column, justify="left" if column in ("network", "widths") else "right")
        for row in self.rows:
            table.add_row(*map(_text, row))
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)

    def markdown(self) -> str:
        """The table without columns that have nothing to tell, and the notes."""
        kept = [n for n in range(len(self.columns)) if any(row[n] is not None for row in self.rows)]
        lines = [f"**{self.title}**", "", _line(self.columns[n] for n in kept), _line("---" for _ in kept)]
        lines += [_line("" if row[n] is None else _text(row[n]) for n in kept) for row in self.rows]
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes)]).rstrip() + "\n"

    def write(self, path: Path) -> list[Path]:
        """``path`` with .json, and with .svg where there are curves."""
        path.parent.mkdir(parents=True, exist_ok=True)
        record = path.with_suffix(".json")
        record.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        return [record, self.draw(path.with_suffix(".svg"))] if self.curves else [record]

    def draw(self, file: Path) -> Path:
        """The curves as SVG. Raises SystemExit without matplotlib, which the extra ``benchmarks`` brings."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise SystemExit("the plot needs matplotlib: pip install 'conet-fx[benchmarks]'") from error
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for curve in self.curves:
            errors = curve.errors or None
            axes.errorbar(curve.x, curve.y, errors, marker="o", linestyle="-" if curve.line else "", label=curve.label)
        axes.set_xlabel(self.axes[0])
        axes.set_ylabel(self.axes[1])
        if self.log:
            axes.set_xscale("log")
        axes.set_title(self.title)
        axes.legend()
        figure.savefig(file, metadata={"Date": None})
        return file


def put(page: Path, name: str, outcomes: Sequence[Outcome], how: str) -> None:
    """Write ``how`` the outcomes came about, and them, between ``<!-- NAME: begin -->`` and ``end`` of a page.

    Marks that are missing are added at the end.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if begin not in text:
        text += f"\n{begin}{end}"
    before, _, rest = text.partition(begin)
    body = "\n".join([f"{how}\n", *(outcome.markdown() for outcome in outcomes)])
    page.write_text(before + begin + body + end + rest.partition(end)[2], encoding="utf-8")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 of one value."""
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def accuracy(evaluation: Evaluation) -> str:
    """Mean and standard deviation over the seeds, percent; of one seed its figure."""
    middle = f"{100 * mean(evaluation.accuracies):.2f}"
    return middle if len(evaluation.seeds) == 1 else f"{middle} ± {100 * spread(evaluation.accuracies):.2f}"


def difference(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> str:
    """How much more accurate the first are than the second, pair by pair of networks and seeds, in words.

    The interval is Student's, over all pairs; those of one network are not independent, so it is rather too narrow.
    """
    pairs = [
        100 * (a - b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one.accuracies, other.accuracies, strict=True)
    ]
    middle = mean(pairs)
    if len(pairs) < 2:
        return f"{middle:+.2f} points"
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * spread(pairs) / math.sqrt(len(pairs))
    verdict = "no clear difference" if abs(middle) <= half else "wins" if middle > 0 else "loses"
    return f"{middle:+.2f} points [{middle - half:+.2f}, {middle + half:+.2f}], {verdict}"
