"""The run directory: what is refused, and that nothing on disk is lost by a refusal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import conet_fx
from conet_fx.search.history import Evaluation, read_history
from conet_fx.search.run_dir import RunDirectory
from tests.tiny import QUICK, TinyNet, tiny_loader


def search(path: Path, model: TinyNet | None = None, **settings: Any) -> conet_fx.SearchResult:
    return conet_fx.optimize(
        model or TinyNet(), tiny_loader(), run_dir=path, progress=False, **{**QUICK, "trials": 1, **settings}
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    search(tmp_path / "run")
    return tmp_path / "run"


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


@pytest.fixture
def unchanged(run: Path) -> Iterator[Path]:
    before = contents(run)
    yield run
    assert contents(run) == before


def test_a_run_is_described_on_disk(run: Path) -> None:
    header = json.loads((run / "run.json").read_text())
    assert header["model"]["class"].endswith("TinyNet")
    assert header["model"]["sizes"] == {"a": 8, "b": 8, "head": 3}
    assert header["config"]["lr"] == 0.03
    groups = json.loads((run / "plan.json").read_text())["groups"]
    assert [group["name"] for group in groups] == ["a", "b", "head"]
    assert yaml.safe_load((run / "config.yaml").read_text()) == header["config"]


def test_refuses_a_second_run(unchanged: Path) -> None:
    with pytest.raises(conet_fx.SearchError, match="holds a run of this model already: pass resume=True"):
        search(unchanged)


@pytest.mark.parametrize("resume", [False, True])
def test_refuses_a_run_of_another_model(unchanged: Path, resume: bool) -> None:
    with pytest.raises(conet_fx.SearchError, match=r"another model .*TinyNet; its sizes differ"):
        search(unchanged, TinyNet(width=12), resume=resume)


def test_refuses_to_resume_with_other_settings(unchanged: Path) -> None:
    with pytest.raises(conet_fx.SearchError, match=r"begun with lr=0\.03, not 0\.01"):
        search(unchanged, lr=0.01, resume=True)


def test_more_trials_may_be_asked_for(run: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "arch: mine\n")
    assert len(search(run, trials=2, resume=True).history) == 2
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["trials"], settings["arch"]) == (2, "mine"), "what the command line added stays"


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "5", "\x00", "a: 2026-01-01"])
def test_settings_that_cannot_be_read_are_written_again(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    search(run, resume=True)
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == 0.03


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99, "model": {}, "config": {}}'])
def test_refuses_a_damaged_header(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    before = contents(run)
    with pytest.raises(conet_fx.SearchError, match=r"run\.json"):
        search(run, resume=True)
    assert contents(run) == before


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_refuses_a_header_that_was_edited(run: Path) -> None:
    edited(run / "run.json", '"lr": 0.03', '"lr": 0.04')
    before = contents(run)
    with pytest.raises(conet_fx.SearchError, match=r"run\.json cannot be read .*its checksum does not fit"):
        search(run, lr=0.04, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize(("old", "new"), [('"size": 8', '"size": 80'), ("{", ""), ('"sha256"', '"sha1"')])
def test_a_damaged_plan_is_written_again(run: Path, old: str, new: str) -> None:
    before = contents(run)
    edited(run / "plan.json", old, new)
    with pytest.raises(conet_fx.SearchError, match=r"plan\.json is damaged"):
        RunDirectory(run).groups()
    with pytest.warns(UserWarning, match=r"plan\.json is written again"):
        search(run, resume=True)
    assert contents(run) == before


def test_damaged_evaluations_are_refused(run: Path) -> None:
    record = RunDirectory(run)
    record.save_evaluations([Evaluation("found", {"a": 8}, 10, 20, (0.5, 0.25), (0, 1), 3, "SGD")])
    assert record.evaluations()[0].accuracies == (0.5, 0.25)
    edited(run / "evaluations.json", "0.25", "0.95")
    with pytest.raises(conet_fx.SearchError, match=r"evaluations\.json is damaged .*checksum does not fit.*restore it"):
        record.evaluations()


@pytest.mark.parametrize("damage", [lambda line: line[:-40], lambda line: line.replace('"size": ', '"size": 1')])
def test_goes_on_after_the_last_good_line_of_a_damaged_history(run: Path, damage: Callable[[str], str]) -> None:
    search(run, trials=3, resume=True)
    history = run / "history.jsonl"
    whole = history.read_text()
    first, second, third = whole.splitlines()
    history.write_text("\n".join([first, damage(second), third]))
    with pytest.warns(
        UserWarning, match=r"history\.jsonl is damaged .line 2: .*: going on after trial 1, .* is kept as"
    ):
        resumed = search(run, trials=3, resume=True)
    undisturbed = read_history(whole.splitlines())
    assert [trial.groups for trial in resumed.history] == [trial.groups for trial in undisturbed]
    [aside] = run.glob("history.jsonl.damaged-*")
    assert damage(second) in aside.read_text()


def test_refuses_a_directory_with_a_report_but_no_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(conet_fx.SearchError, match=r"has a report\.html but no run\.json"):
        search(tmp_path)
    assert contents(tmp_path) == {"report.html": b"mine"}


def test_refuses_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(conet_fx.SearchError, match="cannot be written"):
        search(tmp_path / "file")
    with pytest.raises(conet_fx.SearchError, match="cannot be written"):
        search(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_refuses_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.mkstemp", denied)  # root may write anywhere, so the refusal is made here
    with pytest.raises(conet_fx.SearchError, match=r"cannot be written .Permission denied.: choose one that can"):
        search(tmp_path / "run")


def test_a_failed_write_leaves_the_old_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents(run)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(conet_fx.SearchError, match="No space left on device"):
        search(run, trials=2, resume=True)
    assert contents(run) == before
