"""Spoilt files for ``conet_fx.load`` and ``apply``: how many were tried, and why each was refused.

    python -m benchmarks.fuzz_recipe [--examples N] [--seed N] [--seconds N] [--mebibytes N]

The files are those of ``tests/hostile.py``: the JSON of a recipe and the header of its weights edited in ways that know
the format, with checksums that fit, and both files with changed bytes. A file may be refused with a ``RecipeError``, or
give a network where the change says nothing wrong. The run fails, and hypothesis shows the smallest file that does it,
for any other exception, for a file that takes longer than ``--seconds`` or more memory than ``--mebibytes`` beyond what
the process had, and for one that starts a process, opens a socket or imports a module.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.table import Table

from benchmarks.processes import describe
from tests.hostile import Files, attempt, bad_files, originals

CAUSES = {  # the first that fits
    "loaded: nothing wrong": r"^$",
    "checksum": r"checksum|was changed or damaged",
    "not JSON": r"is not JSON|nested too deep|nested more than|holds more than",
    "format or version": r"is not a conet-fx recipe|has version|does not have the entries|has no header",
    "a file too short or long, or none": r"cut short|that belong to it|there is no file|cannot be read|memory of this",
    "header of the weights": r"which is no tensor|declares|bytes for .* of shape|SafetensorError",
    "identity of the model": r"identity of the model|of the model is no text",
    "group": r"group .* (is to have|is named after)|is no GroupSpec",
    "form of an entry": r"is no (Call|Module|Tensor|Node)Spec",
    "path": r"is no path of a module or tensor|no container before it|no leaf before it",
    "class or its arguments": r"not among the classes|takes no argument|module '.*'(, |.* recurrent layers)",
    "tensor": r"tensor '",
    "operator": r"not among the operators",
    "mode": r"runs in the mode|does not run in",
    "value": r"is no value that|is no annotation",
    "name in the graph": r"a name that|has no output",
    "torch refuses": r"cannot be built",
    "of another model": r"does not belong to this",
}


def cause(message: str) -> str:
    """The kind of a refusal. Raises ``KeyError`` for a message that says nothing of it."""
    for name, pattern in CAUSES.items():
        if re.search(pattern, message):
            return name
    raise KeyError(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, help="how many pairs of files (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10, help="of CPU that a file may take (default: 10)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="of memory that a file may take (default: 1024)")
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for original in originals():
            assert attempt(original, Path(folder)) == ""
        _limit_memory(arguments.mebibytes)

        @seed(arguments.seed)
        @settings(
            max_examples=arguments.examples,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(bad=bad_files())
        def fuzz(bad: Files) -> None:
            nonlocal slowest
            start = time.process_time()
            with _time_limit(arguments.seconds):
                counts[cause(attempt(bad, Path(folder)))] += 1
            slowest = max(slowest, time.process_time() - start)

        fuzz()
    table = Table(title=f"{counts.total()} bad files, seed {arguments.seed}")
    table.add_column("what became of them")
    table.add_column("files", justify="right")
    for name, number in counts.most_common():
        table.add_row(name, str(number))
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(
        f"slowest {slowest:.2f} s, peak memory of the process {peak:.0f} MiB; no other exception", highlight=False
    )
    console.print(describe(), highlight=False)


class Hang(BaseException):
    """A file took too long. No ``Exception``, which ``load`` would report as a fault of the file."""


def _limit_memory(mebibytes: int) -> None:
    """Let the process have so much address space more than it has: beyond it an allocation fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`Hang` after so many seconds of CPU."""

    def expired(number: int, frame: Any) -> None:
        raise Hang(f"more than {seconds} s for one file")

    before = signal.signal(signal.SIGVTALRM, expired)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


if __name__ == "__main__":
    main()
