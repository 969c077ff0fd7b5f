"""The page that compares several runs: parameters against accuracy (paper Fig. 7), and what they were run with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from conet_fx.report.document import document, significant
from conet_fx.report.run import Run, accuracy, change
from conet_fx.report.tables import TITLES
from conet_fx.report.verdict import judge
from conet_fx.search.history import Evaluation

SCRIPTS = ("kit.js", "explore.js", "comparison.js")


def comparison(runs: Mapping[str, Run], links: Mapping[str, str] | None = None) -> str:
    """The page of ``runs``, keyed by the name that each goes by; ``links`` are addresses of their own pages.

    Raises ``ValueError`` without a run.
    """
    if not runs:
        raise ValueError("there is no run to compare: pass one or more")
    return document(
        f"{len(runs)} runs compared" if len(runs) > 1 else f"The run {next(iter(runs))}",
        "comparison.html",
        SCRIPTS,
        payload(runs, links or {}),
        count=f"{len(runs)} run{'s' * (len(runs) > 1)}",
    )


def payload(runs: Mapping[str, Run], links: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script draws: plain numbers (accuracies in percent) and text that is ready to show."""
    series = list(dict.fromkeys(f"{run.model} on {run.data}" for run in runs.values()))
    return {
        "series": series,
        "runs": [
            {
                "name": name,
                "link": links.get(name),
                "series": series.index(f"{run.model} on {run.data}"),
                "delta": run.config.get("delta"),
                "state": _state(run),
                "verdict": judge(run).outcome,
                "networks": [_network(evaluation) for evaluation in run.evaluations],
                "trials": [
                    {
                        "number": trial.number,
                        "params": trial.params,
                        "macs": trial.macs,
                        "accuracy": _training_accuracy(trial.epochs[-1].accuracy if trial.epochs else None),
                    }
                    for trial in run.trials
                ],
                "change": _change(run),
            }
            for name, run in runs.items()
        ],
        "settings": _settings(runs),
    }


def _network(evaluation: Evaluation) -> dict[str, Any]:
    values = [100 * value for value in evaluation.accuracies]
    return {
        "label": evaluation.label,
        "title": TITLES.get(evaluation.label, evaluation.label),
        "params": evaluation.params,
        "macs": evaluation.macs,
        "accuracy": statistics.fmean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "text": accuracy(evaluation.accuracies),
        "seeds": len(values),
        "epochs": evaluation.epochs,
    }


def _training_accuracy(value: float | None) -> float | None:
    return None if value is None else significant(100 * value)


def _state(run: Run) -> str:
    """How far the search has come."""
    if not run.trials:
        return "no trial yet"
    done = len(run.trials)
    trials = f"{done} trial{'s' * (done > 1)}"
    return trials if run.ended else f"{trials} of at most {run.config['trials']}"


def _change(run: Run) -> str:
    """The parameters of the found network, relative to the one that was handed in."""
    start, found = run.evaluation("start"), run.evaluation("found")
    return change(start.params, found.params).replace("-", "\N{MINUS SIGN}") if start and found else ""


def _settings(runs: Mapping[str, Run]) -> list[list[str]]:
    """The settings in which the runs differ: its name, then its value in each run."""
    names = dict.fromkeys(name for run in runs.values() for name in run.config)
    rows = [[name, *(str(run.config.get(name, "")) for run in runs.values())] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
