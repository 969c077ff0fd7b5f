"""Event files for TensorBoard, read back."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from conet_fx import optimize
from conet_fx.errors import ConetError
from conet_fx.report import TensorBoard
from tests.report.synthetic import synthetic_run
from tests.tiny import QUICK, TinyNet, tiny_loader


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value in the event files of ``folder``, those that were written twice included."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}, purge_orphaned_data=False).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_finished_run(tmp_path: Path) -> None:
    run = synthetic_run(trials=3)
    TensorBoard(tmp_path).write(run.trials)
    found = scalars(tmp_path)
    group = [trial.groups["layer2.0.conv2"] for trial in run.trials]
    for what, values in (
        ("size", [g.size for g in group]),
        ("slope", [g.slope for g in group]),
        ("condition", [g.condition for g in group]),
        ("phi", [g.phi for g in group]),
    ):
        assert found[f"{what}/layer2.0.conv2"] == [(i, pytest.approx(value)) for i, value in enumerate(values, 1)]
    ranks = [rank for g in group for rank in g.ranks]
    assert found["rank/layer2.0.conv2"] == [(i, pytest.approx(rank)) for i, rank in enumerate(ranks, 1)]
    assert found["trial/params"] == [(t.number, pytest.approx(t.params)) for t in run.trials]
    assert found["trial/macs"] == [(t.number, pytest.approx(t.macs)) for t in run.trials]
    assert found["trial/loss"] == [(t.number, pytest.approx(t.epochs[-1].loss)) for t in run.trials]
    assert [step for step, _ in found["trial/accuracy"]] == [1, 2, 3]
    losses = [epoch.loss for trial in run.trials for epoch in trial.epochs]
    assert found["epoch/loss"] == [(i, pytest.approx(loss)) for i, loss in enumerate(losses, 1)]
    assert [step for step, _ in found["learning_rate/layer4.1.conv2"]] == list(range(1, 16))


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    run = synthetic_run(trials=4)
    board = TensorBoard(tmp_path)
    board.begin([])
    board.trial(run.trials[0])
    for epoch in run.trials[1].epochs[:2]:
        board.epoch(2, epoch)  # and then the process is killed
    resumed = TensorBoard(tmp_path)
    resumed.begin(run.trials[:2])  # trial 2 ended without being told
    for trial in run.trials[2:]:
        for epoch in trial.epochs:
            resumed.epoch(trial.number, epoch)
        resumed.trial(trial)
    TensorBoard(tmp_path).write(run.trials)
    TensorBoard(tmp_path / "whole").write(run.trials)
    whole = scalars(tmp_path / "whole")
    found = scalars(tmp_path)
    assert {tag: sorted(values) for tag, values in found.items()} == whole
    assert len(list(tmp_path.glob("events*"))) == 2, "no file without a scalar"


def test_live_is_the_same_as_afterwards(tmp_path: Path) -> None:
    live = TensorBoard(tmp_path / "live")
    result = optimize(TinyNet(), tiny_loader(), progress=False, observers=[live], **QUICK)
    TensorBoard(tmp_path / "after").write(result.history)
    assert scalars(tmp_path / "live") == scalars(tmp_path / "after")
    assert len(scalars(tmp_path / "live")["size/a"]) == 2


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run = synthetic_run(trials=2)
    TensorBoard(tmp_path).write(run.trials)
    last = dataclasses.replace(run.trials[0].epochs[-1], loss=1.0)
    other = [dataclasses.replace(run.trials[0], epochs=(*run.trials[0].epochs[:-1], last))]  # of the same sizes
    with pytest.raises(ConetError, match="scalars of another run: choose another folder"):
        TensorBoard(tmp_path).write(other)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConetError, match=r"pip install 'conet-fx\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConetError, match=r"taken.*choose"):
        TensorBoard(tmp_path / "taken" / "below").write(synthetic_run(trials=1).trials)
