"""conet-fx report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from conet_fx.cli.common import command
from conet_fx.report import TensorBoard, collect, comparison, page, tables, verdict
from conet_fx.search.run_dir import FOUND, REPORT, RunDirectory

HELP = "write the HTML page of a run, or of several"


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_argument("runs", type=str, nargs="+", help="one run directory, or several to compare")
    parser.add_argument("-o", "--output", type=str | None, default=None, help="the page (default: report.html in the "
                        "run directory, comparison.html here for several)")  # fmt: skip
    parser.add_argument("--tensorboard", type=str | None, default=None, help="also write scalars into this folder")
    return parser


def run(arguments: Namespace) -> None:
    """Write the page of a run, finished or not; of several runs one that compares them."""
    runs = _named(arguments.runs)
    records = {name: collect(path) for name, path in runs.items()}
    if arguments.tensorboard:
        for name, record in records.items():
            folder = Path(arguments.tensorboard) / (name if len(runs) > 1 else "")
            TensorBoard(folder).write(record.trials)
            print(folder)
    (path, *others) = runs.values()
    if not others:
        file = Path(arguments.output) if arguments.output else path / REPORT
        text = page(next(iter(records.values())))
    else:
        file = Path(arguments.output or "comparison.html")
        pages = {name: path / REPORT for name, path in runs.items() if (path / REPORT).exists()}
        links = {name: quote(Path(os.path.relpath(page, file.parent)).as_posix()) for name, page in pages.items()}
        text = comparison(records, links)
    RunDirectory(file.parent).write(file.name, text)
    print(file)


def show(run: RunDirectory) -> None:
    """Write the page, print the tables and the verdict."""
    record = collect(run.path)
    run.write(REPORT, page(record))
    console = Console()
    for table in tables(record):
        console.print(table)
    console.print(verdict(record), highlight=False)
    console.print(f"report: {run.path / REPORT}   network: {run.path / FOUND}", highlight=False, soft_wrap=True)


def _named(paths: Sequence[str]) -> dict[str, Path]:
    """Run directories by the shortest end of their paths that tells them apart."""
    runs = {Path(path).resolve(): Path(path) for path in paths}
    depth = 1
    while len({path.parts[-depth:] for path in runs}) < len(runs):
        depth += 1
    return {"/".join(path.parts[-depth:]).lstrip("/"): given for path, given in runs.items()}
