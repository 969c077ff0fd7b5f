"""Everything that a report shows, read from a run directory."""

from __future__ import annotations

import os
from typing import Any

import yaml

from conet_fx.report.network import load_network
from conet_fx.report.run import Run
from conet_fx.search.advice import advice
from conet_fx.search.run_dir import CONFIG, RunDirectory


def collect(path: str | os.PathLike[str]) -> Run:
    """The run in a directory, finished or not. Raises :class:`~conet_fx.errors.SearchError` where there is none."""
    directory = RunDirectory(path)
    header = directory.header()
    groups = directory.groups()
    settings: dict[str, Any] = {}
    if (directory.path / CONFIG).exists():
        settings = yaml.safe_load((directory.path / CONFIG).read_text(encoding="utf-8"))
    final = {f"final.{name}": value for name, value in settings.get("final", {}).items()}
    trials = directory.history()
    delta = header["config"]["delta"]
    told = {each.kind: each.words for trial in reversed(trials) for each in advice(groups, trial, delta)}
    return Run(
        model=settings.get("arch", header["model"]["class"]),
        data=settings.get("data", "a loader"),
        config={**header["config"], **final},
        trials=trials,
        evaluations=directory.evaluations(),
        initial_sizes={group.name: group.size for group in groups},
        frozen={group.name: group.frozen for group in groups if group.frozen is not None},
        groups={group.name: group.writers for group in groups},
        readers={group.name: group.readers for group in groups},
        network=load_network(directory),
        advice=tuple(told.values()),
    )
