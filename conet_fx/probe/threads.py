"""Threads that compute with one thread each: the last bits of a product depend on how many share it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The caller computes with one thread."""
    count = torch.get_num_threads()
    if count == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def crew(count: int, name: str) -> ThreadPoolExecutor:
    """Threads of one thread each, all of them started."""
    there = threading.Barrier(count)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # when asked first, a thread takes the number that was set last, wherever that was
        there.wait()

    threads = ThreadPoolExecutor(count, name, begin)
    try:
        for task in [threads.submit(int) for _ in range(count)]:
            task.result()
    except RuntimeError:  # no more threads may be started: those that wait for them must end
        there.abort()
        raise
    torch.set_num_threads(torch.get_num_threads())  # for threads that begin later
    return threads


def usable_cpus() -> int:
    """How many CPUs this process may use; 32 at most, since more would only wait for the longest task."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32)
