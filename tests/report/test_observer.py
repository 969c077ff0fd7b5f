"""Observers are told of everything, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conet_fx import Trial, optimize
from conet_fx.search.history import Epoch, read_history
from tests.tiny import QUICK, TinyNet, tiny_loader


class Diary:
    """Writes down what it is told."""

    def __init__(self, history: Path) -> None:
        self.words: list[Any] = []
        self._history = history

    def begin(self, history: Sequence[Trial]) -> None:
        self.words.append(("begin", len(history)))

    def epoch(self, trial: int, epoch: Epoch) -> None:
        self.words.append((trial, epoch.number))

    def trial(self, trial: Trial) -> None:
        saved = read_history(self._history.read_text().splitlines())
        assert saved[-1] == trial, "on disk by then"
        self.words.append(("trial", trial.number))


def test_a_search_and_its_resume(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    first = Diary(history)
    settings = {**QUICK, "trials": 1}
    optimize(TinyNet(), tiny_loader(), run_dir=tmp_path, progress=False, observers=[first], **settings)
    assert first.words == [("begin", 0), (1, 1), (1, 2), ("trial", 1)]
    second, third = Diary(history), Diary(history)
    optimize(
        TinyNet(), tiny_loader(), run_dir=tmp_path, resume=True, progress=False, observers=[second, third], **QUICK
    )
    assert second.words == third.words == [("begin", 1), (2, 1), (2, 2), ("trial", 2)]


def test_what_an_observer_raises_ends_the_search(tmp_path: Path) -> None:
    class Refusal(Diary):
        def trial(self, trial: Trial) -> None:
            raise OSError("the disk of the observer is full")

    with pytest.raises(OSError, match="disk of the observer"):
        optimize(
            TinyNet(),
            tiny_loader(),
            run_dir=tmp_path,
            progress=False,
            observers=[Refusal(tmp_path / "history.jsonl")],
            **QUICK,
        )
    assert len(read_history((tmp_path / "history.jsonl").read_text().splitlines())) == 1, "the trial is not lost"
