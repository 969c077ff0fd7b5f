"""Measurements in processes of their own: a crash, a hang or a leak stays there."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MARK = "row: "


def show_row(row: dict[str, Any]) -> None:
    """What the child has found so far: a line on its standard output."""
    print(MARK + json.dumps(row), flush=True)


def run_in_process(command: Sequence[str], timeout: float) -> tuple[dict[str, Any], str]:
    """``python -m`` with one thread: the last row that it showed, and how it ended.

    ``timeout``: seconds of CPU (five times as long on the clock, since other processes may run). The end is "finished",
    "stopped after ... s" or how it crashed, with the last line of the error output.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=out, stderr=errors, env=variables, start_new_session=True
        )
        resource.prlimit(child.pid, resource.RLIMIT_CPU, (int(timeout), int(timeout) + 1))
        try:
            code: int | None = child.wait(5 * timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        out.seek(0)
        rows = [line for line in out.read().splitlines() if line.startswith(MARK)]
        errors.seek(0)
        lines = errors.read().split("\n")
    row = json.loads(rows[-1].removeprefix(MARK)) if rows else {}
    if code == 0:
        return row, "finished"
    if code in (None, -signal.SIGXCPU):
        return row, f"stopped after {timeout:.0f} s"
    assert code is not None
    said = next((line for line in reversed(lines) if line.strip()), "")
    return row, f"ended with {signal.Signals(-code).name if code < 0 else code}: {said[:300]}"


def environment() -> dict[str, str]:
    """What the figures depend on: the processor and the versions of what was measured."""
    packages = (
        *("torch", "torchvision", "timm", "torch-pruning", "nvidia-modelopt"),
        *(
            "segmentation-models-pytorch",
            "monai",
            "transformers",
            "diffusers",
            "torchaudio",
            "ultralytics",
            "pytorchcv",
        ),
    )
    versions = {name: version for name in packages if (version := _version(name))}
    return {"processor": processor(), "python": platform.python_version(), **versions}


def describe() -> str:
    """The environment in one line."""
    return ", ".join(f"{key} {value}" for key, value in environment().items())


def write_rows(path: Path, rows: Any) -> None:
    """The rows so far, as JSON with the environment; the file is never left half-written, by any of several threads."""
    text = json.dumps({**environment(), "rows": rows}, indent=1) + "\n"
    with _WRITING:
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.replace(path)


_WRITING = threading.Lock()


def work_through(names: Sequence[str], work: Callable[[str], bool], jobs: int) -> None:
    """Do ``work`` on each name, ``jobs`` at once, and say of each whether it was without a fault."""

    def told(name: str) -> None:
        good = work(name)
        console().print(f"{name}: {'ok' if good else 'faults'}", style=None if good else "red")

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(told, names):
            pass


def show_results(table: Table, summary: Iterable[str], width: int) -> None:
    """A table, ``width`` characters wide where it goes into a file, what it comes to, and where it was measured."""
    where = console()
    Console(width=None if where.is_terminal else width, markup=False, emoji=False).print(table)
    for line in [*summary, describe()]:
        where.print(line)


def console() -> Console:
    """Where the lines of a benchmark go, as they are."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The name of the processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
