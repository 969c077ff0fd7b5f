"""Who is told of a search while it runs: ``optimize(..., observers=[...])``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from conet_fx.report.progress import Progress
from conet_fx.search.history import Epoch, Trial


class Observer(Protocol):
    """Told of what happened, as it is recorded. What it raises ends the search; finished trials are on disk by then."""

    def begin(self, history: Sequence[Trial]) -> None:
        """Training is about to begin, after the trials in ``history`` (those of a resumed run)."""

    def epoch(self, trial: int, epoch: Epoch) -> None:
        """An epoch of trial number ``trial`` has ended."""

    def trial(self, trial: Trial) -> None:
        """A trial has ended and is saved; its epochs were told before, save where the search was resumed within it."""


def told(display: Progress, observers: Sequence[Observer], trial: int) -> Callable[[Epoch], None]:
    """What the training of a trial calls after each epoch."""

    def tell(epoch: Epoch) -> None:
        display.epoch(epoch.number, epoch.loss, epoch.accuracy)
        for observer in observers:
            observer.epoch(trial, epoch)

    return tell
