"""Kill a search with SIGKILL again and again, and hold what comes out against one that nobody killed.

    python -m tests.search.killed DIR [--anywhere N] [--writes N]

`--anywhere`: N processes are killed after a random number of function calls, `--writes`: N at the next system call of a
write, before it or after it. Each goes on where the one before was killed; one that ends is held against the
undisturbed search, and the next begins anew. Prints how many were killed, and the searches that came out otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.search.undisturbed import fingerprint, search


def child(path: Path, prepare: Callable[[], None]) -> int:
    """A forked process that goes on with the search; its number."""
    process = os.fork()
    if process == 0:
        try:
            prepare()
            result = search(run_dir=path / "run")
            (path / "result").write_text(fingerprint(result))
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return process


def die_at(call: int) -> None:
    """Die at one of the system calls that writes are made of: before it at an even number, after it at an odd one."""
    count = itertools.count()

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*args, **kwargs)
            if next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return run

    for name in ("fsync", "replace", "unlink", "chmod"):
        setattr(os, name, deadly(getattr(os, name)))


def die_after(calls: int) -> None:
    """Die after so many calls of Python and C functions."""
    left = itertools.count(-calls)

    def profile(frame: Any, event: str, argument: Any) -> None:
        if next(left) >= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)


def calls_of_a_search() -> int:
    count = itertools.count()
    sys.setprofile(lambda frame, event, argument: next(count) and None)
    search()
    sys.setprofile(None)
    return next(count)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("--anywhere", type=int, default=20)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    expected = fingerprint(search())
    calls, dice = calls_of_a_search(), random.Random(options.seed)
    ends: list[str] = []

    def go_on(kind: str, prepare: Callable[[], None]) -> bool:
        """Whether the process was killed."""
        _, status = os.waitpid(child(options.dir, prepare), 0)
        if os.WIFSIGNALED(status):
            return True
        same = status == 0 and (options.dir / "result").read_text() == expected
        ends.append("same" if same else kind)
        shutil.rmtree(options.dir / "run")
        return False

    killed = 0
    while killed < options.anywhere:
        at = dice.randrange(calls)
        killed += go_on(f"after {at} calls", lambda at=at: die_after(at))  # type: ignore[misc]
    at_writes = sum(go_on(f"at {call}", lambda call=call: die_at(call)) for call in range(options.writes))  # type: ignore[misc]
    go_on("the last one", lambda: None)
    different = [end for end in ends if end != "same"]
    print(json.dumps({"anywhere": killed, "writes": at_writes, "ended": len(ends), "different": different}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
