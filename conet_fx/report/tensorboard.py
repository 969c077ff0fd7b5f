"""Scalars for TensorBoard, written from the records of a search while it runs or afterwards.

| tag | step |
| --- | --- |
| ``trial/params``, ``trial/macs``, ``trial/loss``, ``trial/accuracy`` (those of its last epoch) | trial |
| ``size/GROUP``, ``slope/GROUP``, ``condition/GROUP``, ``phi/GROUP`` (after the decision) | trial |
| ``rank/GROUP`` | epoch, counted from the first trial on |
| ``epoch/loss``, ``epoch/accuracy``, ``learning_rate/LAYER`` | epoch, likewise |
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from conet_fx.errors import ConetError
from conet_fx.search.history import Epoch, Trial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """An observer of ``optimize`` that writes event files to ``folder``; :meth:`write` does it for a finished run.

    What is in the folder already is not written again, so that a resumed search goes on where the files end.

    Raises :class:`ConetError` where tensorboard is not installed, the folder cannot be written, or :meth:`begin` finds
    scalars of another run in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._epochs = 0  # of finished trials
        self._open = _module("torch.utils.tensorboard").SummaryWriter
        self._writer: SummaryWriter | None = None  # opened by the first scalar: no file without one
        self._steps, self._losses = _read(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, history: Sequence[Trial]) -> None:
        """Write the trials in ``history`` that the folder lacks."""
        losses = {trial.number: trial.epochs[-1].loss for trial in history if trial.epochs}
        if any(not math.isclose(self._losses.get(number, loss), loss, rel_tol=1e-6) for number, loss in losses.items()):
            raise ConetError(f"{self.folder} has the scalars of another run: choose another folder, or empty this one")
        self._epochs = 0
        for trial in history:
            self.trial(trial)

    def epoch(self, trial: int, epoch: Epoch) -> None:
        """Loss, accuracy and learning rates of one epoch."""
        step = self._epochs + epoch.number
        self._add("epoch/loss", epoch.loss, step)
        self._add("epoch/accuracy", epoch.accuracy, step)
        for layer, rate in epoch.learning_rates.items():
            self._add(f"learning_rate/{layer}", rate, step)
        self._flush()

    def trial(self, trial: Trial) -> None:
        """All of a finished trial, epochs that were not told before included."""
        for epoch in trial.epochs:
            self.epoch(trial.number, epoch)
        for name, group in trial.groups.items():
            for index, rank in enumerate(group.ranks, 1):
                self._add(f"rank/{name}", rank, self._epochs + index)
            for what, value in (
                ("size", group.size),
                ("slope", group.slope),
                ("condition", group.condition),
                ("phi", group.phi),
            ):
                self._add(f"{what}/{name}", value, trial.number)
        self._add("trial/params", trial.params, trial.number)
        self._add("trial/macs", trial.macs, trial.number)
        if trial.epochs:
            self._add("trial/loss", trial.epochs[-1].loss, trial.number)
            self._add("trial/accuracy", trial.epochs[-1].accuracy, trial.number)
        self._epochs += len(trial.epochs)
        self._flush()

    def write(self, history: Sequence[Trial]) -> None:
        """Write a run that has ended, or as far as it has come, and close the files."""
        with self:
            self.begin(history)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _add(self, tag: str, value: float | None, step: int) -> None:
        if value is None or step <= self._steps.get(tag, 0):
            return
        try:
            self._writer = self._writer or self._open(str(self.folder))
        except OSError as error:
            raise ConetError(
                f"TensorBoard's folder {self.folder} cannot be written ({error.strerror or error}): choose one that can"
            ) from error
        self._writer.add_scalar(tag, value, step)
        self._steps[tag] = step


def _read(folder: Path) -> tuple[dict[str, int], dict[int, float]]:
    """The last step of each tag in the event files of ``folder``, and the losses by trial."""
    module = _module("tensorboard.backend.event_processing.event_accumulator")
    if not folder.exists():
        return {}, {}
    events = module.EventAccumulator(str(folder), size_guidance={module.SCALARS: 0}).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    losses = {event.step: event.value for event in scalars.get("trial/loss", ())}
    return {tag: found[-1].step for tag, found in scalars.items()}, losses


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConetError(f"TensorBoard is not installed ({error}): pip install 'conet-fx[tensorboard]'") from error
