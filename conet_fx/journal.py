"""What a search leaves behind while it runs: on disk, in the terminal, for observers; and what it goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from conet_fx.plan import ChannelPlan
from conet_fx.report.network import save_network
from conet_fx.report.observer import Observer, told
from conet_fx.report.progress import Progress
from conet_fx.search.advice import advice
from conet_fx.search.checkpoint import Checkpoint, Saver, discard_checkpoints, read_checkpoint
from conet_fx.search.config import SearchConfig
from conet_fx.search.distributed import Distributed
from conet_fx.search.history import Epoch, Trial
from conet_fx.search.run_dir import RunDirectory
from conet_fx.search.signals import Signals
from conet_fx.search.trial import TrialTraining


class Journal:
    """Follows a search; a context manager. Of several processes the first one writes and shows.

    ``history``: the finished trials, those of a run that goes on included. ``trained``: the state_dict that the last of
    them ended with, where the configuration wants it.

    Args:
        run_dir: where to write, or None; locked until the end. ``resume``: it may hold a run to go on with.
        model_id: of the model, as :func:`conet_fx.recipe.identify` gives it.
        progress, observers: who is told.

    Raises:
        SearchError, on entering: the directory cannot be used (see :class:`RunDirectory`).
        KeyboardInterrupt, SystemExit, on leaving: SIGINT or SIGTERM came after the last step.
    """

    def __init__(
        self,
        together: Distributed,
        plan: ChannelPlan,
        config: SearchConfig,
        model_id: Mapping[str, Any],
        run_dir: str | os.PathLike[str] | None,
        *,
        resume: bool,
        progress: bool,
        observers: Sequence[Observer],
    ) -> None:
        self._together, self._plan, self._config, self._model_id = together, plan, config, model_id
        self._run = RunDirectory(run_dir) if run_dir is not None else None
        self._resume = resume
        self._observers = observers if together.first else ()
        self._display = Progress(
            enabled=progress and together.first, trials=config.trials, epochs=config.epochs_per_trial
        )
        self._advised: set[str] = set()
        self._signals: Signals | None = None
        self._saver: Saver | None = None
        self.trained: Mapping[str, Any] | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._open:  # closed again should the rest fail
            self.history, self._checkpoint = self._together.from_first(self._begin)
            if self._checkpoint is not None:
                self.trained = self._checkpoint.state["model"]
            if self._run is not None:
                self._signals = self._open.enter_context(Signals())
                own = self._run if self._together.first else None
                self._saver = Saver(own, self._together, self._config.checkpoint_seconds, self._signals)
            self._open.enter_context(self._display)
            for observer in self._observers:
                observer.begin(self.history)
            self._open = self._open.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if error is None and self._signals is not None:
            self._signals.act()  # one that came after the last step: all is on disk

    def _begin(self) -> tuple[list[Trial], Checkpoint | None]:
        """Lock and open the run directory: its finished trials, and the one under way."""
        if self._run is None:
            return [], None
        self._open.enter_context(self._run.locked())
        history = self._run.open(self._model_id, self._plan.groups, dataclasses.asdict(self._config), self._resume)
        save_network(self._run, self._plan)
        checkpoint = read_checkpoint(self._run, lambda found: found.trial == len(history) + 1)
        if checkpoint is None and self._config.weights == "trained" and history:
            # the weights that the last trial trained are wanted: they are on disk, or it is run again
            checkpoint = read_checkpoint(self._run, lambda found: found.trial == len(history))
            actions = {group.action for group in history[-1].groups.values()}
            ended = len(history) >= self._config.trials or actions == {"stop"}
            if ended and (checkpoint is None or len(checkpoint.state["epochs"]) < self._config.epochs_per_trial):
                history.pop()
        return history, checkpoint

    def train(self, training: TrialTraining, params: int, moving: int) -> tuple[Epoch, ...]:
        """Run a trial, or the rest of it, and save it now and then. ``moving``: groups that have not stopped."""
        number = training.number
        self._display.trial(number, params, moving)
        if self._checkpoint is not None and self._checkpoint.trial == number:
            training.load(self._checkpoint.state, told(self._display, (), number))
        elif self._run is not None and self._together.first:
            discard_checkpoints(self._run)  # those of another trial
        self._checkpoint = self.trained = None  # they may be large
        after_step = self._saver.of(training) if self._saver else lambda ended: None
        return training.run(told(self._display, self._observers, number), after_step)

    def add(self, trial: Trial, training: TrialTraining) -> None:
        """A trial has ended."""
        if self._config.weights == "trained":
            self.trained = training.weights
            if self._saver is not None:
                self._saver.save(training)  # before the history says that there is nothing left to train
        self.history.append(trial)
        if self._run is not None and self._together.first:
            self._run.save_history(self.history)
        for observer in self._observers:
            observer.trial(trial)
        for each in advice(self._plan.groups, trial, self._config.delta):
            if each.kind not in self._advised:
                self._advised.add(each.kind)
                self._display.note(each.words)
