"""The trial under way, on disk: tensors in safetensors, the rest in JSON, both with checksums, two generations."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load, save
from torch import Tensor

from conet_fx.errors import SearchError
from conet_fx.search.distributed import Distributed
from conet_fx.search.packing import pack, unpack
from conet_fx.search.run_dir import RunDirectory
from conet_fx.search.signals import Signals

FOLDER = "checkpoints"
KEPT = 2  # a damaged checkpoint leaves the one before
SHARE = 0.01  # of the time that saving may take
STEPS = 20  # between two agreements of several processes whether to save


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Trial number ``trial`` somewhere between its first step and its end: the state of a ``TrialTraining``."""

    trial: int
    state: Any


def write_checkpoint(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Save; the one before is kept. Raises :class:`SearchError` where the directory cannot be written."""
    state, tensors = pack(checkpoint.state)
    content = save(tensors)
    number = max(_numbers(run), default=0) + 1
    record = {"trial": checkpoint.trial, "state": state, "tensors": _sum(content)}
    text = json.dumps(record, allow_nan=False)
    run.write(f"{FOLDER}/{number}.safetensors", content)
    run.write(f"{FOLDER}/{number}.json", json.dumps({"sha256": _sum(text.encode()), "record": record}, allow_nan=False))
    discard_checkpoints(run, number - KEPT)


def discard_checkpoints(run: RunDirectory, last: float = math.inf) -> None:
    """Remove the checkpoints up to number ``last``."""
    for old in _numbers(run):
        if old <= last:
            for suffix in (".json", ".safetensors"):  # what lacks the first is none
                _path(run, old, suffix).unlink(missing_ok=True)


def read_checkpoint(run: RunDirectory, wanted: Callable[[Checkpoint], bool]) -> Checkpoint | None:
    """The newest whole checkpoint that is ``wanted``, or None; warns of newer ones that are damaged."""
    damaged = []
    for number in sorted(_numbers(run, ".json"), reverse=True):  # without it, the write was not finished
        try:
            checkpoint = _read(run, number)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{_path(run, number, '.json')} ({type(error).__name__}: {error})")
            continue
        if wanted(checkpoint):
            break
    else:
        checkpoint = None
    if damaged:
        instead = "an older checkpoint" if checkpoint else "the beginning of the trial"
        warnings.warn(f"going on from {instead}, since {' and '.join(damaged)} is damaged", stacklevel=2)
    return checkpoint


def _read(run: RunDirectory, number: int) -> Checkpoint:
    outer = json.loads(_path(run, number, ".json").read_text())
    record = outer["record"]
    if outer["sha256"] != _sum(json.dumps(record, allow_nan=False).encode()):
        raise ValueError("its checksum does not fit")
    content = _path(run, number, ".safetensors").read_bytes()
    if record["tensors"] != _sum(content):
        raise ValueError(f"the checksum of {number}.safetensors does not fit")
    tensors: dict[str, Tensor] = load(content)
    return Checkpoint(record["trial"], unpack(record["state"], tensors))


def _numbers(run: RunDirectory, suffix: str = "") -> set[int]:
    stems = (path.stem for path in (run.path / FOLDER).glob(f"*{suffix}"))
    return {int(stem) for stem in stems if stem.isdecimal()}


def _path(run: RunDirectory, number: int, suffix: str) -> Path:
    return run.path / FOLDER / f"{number}{suffix}"


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Resumable(Protocol):
    """A training whose state may be taken between two steps: a ``TrialTraining``, or one to the end."""

    number: int

    def state(self) -> dict[str, Any]: ...


class Saver:
    """Decides when the trial under way is saved: now and then, when a signal came, and when it is told to.

    Every process of a search has one, since they take the state together; the first writes it.

    Args:
        run: the directory, in the first process.
        seconds: the least time between two of them. Saving never takes more than a hundredth of the time.
    """

    def __init__(self, run: RunDirectory | None, together: Distributed, seconds: float, signals: Signals) -> None:
        self._run, self._together, self._seconds, self._signals = run, together, seconds, signals
        self._due = time.monotonic() + seconds
        self._steps = 0
        self._tried = False

    def of(self, training: Resumable) -> Callable[[bool], None]:
        """What to call after each step of a trial, with False, and after each epoch, with True.

        Raises SearchError where the state of the optimizer or the schedule could not be saved.
        """
        if not self._tried:
            try:
                pack(training.state())
            except TypeError as error:
                raise SearchError(
                    f"the state of the trial cannot be saved ({error}): use another optimizer_fn or scheduler_fn, or "
                    "search without run_dir"
                ) from error
            self._tried = True
        return functools.partial(self._between, training)

    def _between(self, training: Resumable, ended: bool) -> None:
        """Save where it is time, and end the process where a signal asks for it."""
        self._steps += 1
        if self._together.fabric.world_size > 1 and self._steps % STEPS and not ended:
            return  # several processes agree on it only now and then
        stop = self._together.any(self._signals.received is not None)
        if self._together.any(time.monotonic() >= self._due) or stop:
            self.save(training)
        if stop:
            self._signals.act()
            raise SystemExit("another process of the search was told to stop")

    def save(self, training: Resumable) -> None:
        """Save the trial now; all processes call it."""
        start = time.monotonic()
        state = training.state()
        if self._run is not None:
            write_checkpoint(self._run, Checkpoint(training.number, state))
        end = time.monotonic()
        self._due = end + max(self._seconds, (end - start) / SHARE if self._seconds else 0)
