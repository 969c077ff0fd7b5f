"""The end of a search in the terminal: two tables."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from conet_fx.report.run import Run, accuracy, change, count

TITLES = {"found": "found", "start": "start", "uniform": "uniform, equal size"}


def tables(run: Run) -> list[Table]:
    """What happened to each channel group; and, if there is one, the comparison of the evaluated networks."""
    return [group_table(run), comparison_table(run)] if run.evaluations else [group_table(run)]


def group_table(run: Run) -> Table:
    """Every group with its size before and after; frozen ones say why."""
    table = Table(title="channel groups", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("written by", overflow="fold")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    table.add_column("kept because", overflow="fold")
    found = run.found_sizes
    for name, writers in run.groups.items():
        before, after = run.initial_sizes[name], found[name]
        # Text, not str: a name may hold square brackets, which rich would read as markup
        table.add_row(
            Text(name),
            Text("itself" if writers in ((), (name,)) else ", ".join(writers)),
            str(before),
            str(after),
            "" if name in run.frozen else change(before, after),
            Text(run.frozen.get(name, "")),
            style="dim" if name in run.frozen else None,
        )
    return table


def comparison_table(run: Run) -> Table:
    """Cost and test accuracy of the networks that were trained to the end (mean ± deviation over seeds)."""
    table = Table(title="networks", title_justify="left")
    table.add_column("network")
    for heading in ("parameters", "MACs", "test accuracy", "seeds", "epochs"):
        table.add_column(heading, justify="right")
    for evaluation in run.evaluations:
        table.add_row(
            Text(TITLES.get(evaluation.label, evaluation.label)),
            count(evaluation.params),
            count(evaluation.macs),
            accuracy(evaluation.accuracies),
            str(len(evaluation.accuracies)),
            str(evaluation.epochs),
            style="bold" if evaluation.label == "found" else None,
        )
    return table
