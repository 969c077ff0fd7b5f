"""The experiments of the paper, small."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conet_fx
from benchmarks.paper import __main__ as command
from benchmarks.paper import rivals
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.lab import Lab, limited
from benchmarks.paper.outcome import difference
from benchmarks.paper.presets import PRESETS
from conet_fx import data
from conet_fx.models import build
from conet_fx.search.history import Evaluation


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All experiments of the smallest preset, with digits in place of ImageNet."""
    path = tmp_path_factory.mktemp("paper")
    assert command.main(["all", "--preset", "smoke", "--out", str(path), "--imagenet", "digits"]) == 0
    return path


@pytest.mark.parametrize("name", [*EXPERIMENTS, "table4"])
def test_every_experiment_gives_a_table_and_a_plot(name: str, out: Path) -> None:
    record = json.loads((out / f"{name}.json").read_text())
    assert record["rows"]
    assert all(len(row) == len(record["columns"]) for row in record["rows"])
    assert all(len(curve["x"]) == len(curve["y"]) > 0 for curve in record["curves"])
    assert (out / f"{name}.svg").read_text().startswith("<?xml")


def test_the_sweep_has_every_delta_and_every_rival(out: Path) -> None:
    record = json.loads((out / "table3.json").read_text())
    labels = [(row[1], row[2]) for row in record["rows"]]
    deltas = PRESETS["smoke"].deltas
    wanted = [("original", None)]
    wanted += [(label, delta) for delta in deltas for label in ("found", "constant", "scaled", "random")]
    assert labels == wanted
    by_label = {label: [row[3] for row in record["rows"] if row[1] == label] for label, _ in labels}
    for label in ("constant", "scaled", "random"):
        assert by_label[label] == pytest.approx(by_label["found"], rel=0.1)


def test_nothing_is_done_twice(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in out.glob("*.json")}
    monkeypatch.setattr("conet_fx.evaluate._train", None)
    monkeypatch.setattr(importlib.import_module("conet_fx.optimize"), "TrialTraining", None)
    assert command.main(["all", "--preset", "smoke", "--out", str(out), "--imagenet", "digits"]) == 0
    assert "train " not in capsys.readouterr().out
    assert {file: file.read_bytes() for file in out.glob("*.json")} == before


def test_it_ends_in_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fig7", "--preset", "smoke", "--out", str(tmp_path), "--minutes", "60"]
    train = Lab.train
    before = signal.getsignal(signal.SIGTERM)

    def slow(self: Lab, *arguments: object) -> Evaluation:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "train", slow)
        assert command.main(words) == command.UNFINISHED
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert Lab.train is train
    assert command.main(words) == 0


def test_table_4_needs_large_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["table4", "--preset", "smoke"])
    assert "--imagenet" in capsys.readouterr().err


def test_part_of_the_data_is_the_same_part_each_time() -> None:
    whole = data.load("digits", image_size=8)
    part = limited(whole, 50, 20)
    again = limited(whole, 50, None)
    assert (len(part.train), len(part.test), len(again.test)) == (50, 20, len(whole.test))  # type: ignore[arg-type]
    for number in range(50):
        assert torch.equal(part.train[number][0], again.train[number][0])
        assert part.still is not None
        assert torch.equal(part.train[number][0], part.still[number][0])
    assert len({int(label) for _, label in (part.train[n] for n in range(50))}) == 10


PLAN = conet_fx.analyze(build("resnet18_cifar", 10, 1), torch.zeros(2, 1, 8, 8))


@settings(max_examples=15, deadline=None)
@given(params=st.integers(50_000, 12_000_000), seed=st.integers(0, 1000))
def test_rivals_have_as_many_parameters(params: int, seed: int) -> None:
    networks = rivals.rivals(PLAN, params, seed, round_to=2)
    assert networks == rivals.rivals(PLAN, params, seed, round_to=2)
    for sizes in networks.values():
        assert sizes.keys() == {group.name for group in PLAN.free}
        assert all(size % 2 == 0 for size in sizes.values())
        assert PLAN.cost(sizes).params == pytest.approx(params, rel=0.12)


def test_own_parameters_give_the_own_widths() -> None:
    own = {group.name: group.size for group in PLAN.free}
    assert rivals.scaled_widths(PLAN, PLAN.cost(own).params) == own


def test_random_widths_are_random() -> None:
    first, second = (rivals.random_widths(PLAN, 500_000, seed) for seed in (0, 1))
    assert first != second
    assert max(first.values()) / min(first.values()) > 2


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((0.5, 0.6, 0.7), (0.5, 0.6, 0.7), "no clear"),
        ((0.9, 0.92), (0.5, 0.52), "wins"),
        ((0.1, 0.12), (0.5, 0.52), "loses"),
    ],
)
def test_verdicts(first: tuple[float, ...], second: tuple[float, ...], verdict: str) -> None:
    def trained(accuracies: tuple[float, ...]) -> Evaluation:
        return Evaluation("x", {}, 1, 1, accuracies, tuple(range(len(accuracies))), 1)

    assert verdict in difference([trained(first)], [trained(second)])
