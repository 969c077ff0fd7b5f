"""How far the search is: a live line in a terminal, one line a trial in a pipe, nothing when switched off."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from conet_fx.report.run import count, duration


class Progress:
    """Follows a search of at most ``trials`` trials of ``epochs`` epochs each.

    The trial loop calls :meth:`trial` before each trial and :meth:`epoch` after each epoch::

        with Progress(trials=25, epochs=20) as progress:
            progress.trial(1, params=466_906, moving=20)
            progress.epoch(1, loss=1.71, accuracy=0.38)

    Numbers count from 1. In a terminal a live line is redrawn in place; elsewhere each finished trial writes
    one plain line without control codes; ``enabled=False`` writes nothing. Output goes to ``console``, by
    default standard error.
    """

    def __init__(self, *, enabled: bool = True, trials: int, epochs: int, console: Console | None = None) -> None:
        self._enabled = enabled
        self._trials = trials
        self._epochs = epochs
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._number = self._epoch = self._params = self._moving = self._seen = 0
        self._began = time.monotonic()
        self._loss: float | None = None
        self._accuracy: float | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._enabled and self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def trial(self, number: int, params: int, moving: int) -> None:
        """Trial ``number`` begins: a network of ``params`` parameters, ``moving`` groups not stopped."""
        self._number, self._params, self._moving = number, params, moving
        self._epoch, self._loss, self._accuracy = 0, None, None

    def epoch(self, number: int, loss: float, accuracy: float | None = None) -> None:
        """Epoch ``number`` of the trial has ended with this mean training loss and top-1 in [0, 1]."""
        self._epoch, self._loss, self._accuracy = number, loss, accuracy
        self._seen += 1
        if number == self._epochs:
            self._print(self._line())

    def note(self, words: str) -> None:
        """Something that the user should know, in a line of its own."""
        self._print(words)

    def _print(self, words: str) -> None:
        if self._enabled and self._live:
            self._live.console.print(words, highlight=False, markup=False)
        elif self._enabled:
            self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _done(self) -> int:
        """Epochs behind us, those of trials before a resume included."""
        return max(0, self._number - 1) * self._epochs + self._epoch

    def _left(self) -> str:
        """Time left if all trials are run, at the speed so far; the search may well end before."""
        remaining = self._trials * self._epochs - self._done()
        if not self._seen or remaining <= 0:
            return ""
        return f"at most {duration(remaining * (time.monotonic() - self._began) / self._seen)} left"

    def _line(self) -> str:
        parts = [f"trial {self._number}/{self._trials}", f"{count(self._params)} parameters"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        if self._accuracy is not None:
            parts.append(f"accuracy {100 * self._accuracy:.1f} %")
        return "  ".join([*parts, f"{self._moving} groups moving", self._left()]).rstrip()

    def _render(self) -> Table:
        bar = ProgressBar(total=self._trials * self._epochs, completed=self._done(), width=24)
        table = Table.grid(padding=(0, 1))
        table.add_row(bar, f"epoch {self._epoch}/{self._epochs}", self._line())
        return table
