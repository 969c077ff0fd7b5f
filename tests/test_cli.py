"""The command line, from arguments to the files of a run directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import conet_fx
from conet_fx.cli import main
from conet_fx.search.history import read_history

SMALL = [
    *("search", "--arch", "tests.tiny:TinyNet", "--data", "digits", "--trials", "2", "--epochs_per_trial", "2"),
    *("--initial_channels", "8", "--min_channels", "4", "--lr", "0.03"),
    *("--final.epochs", "2", "--final.seeds", "[0,1]"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SMALL, "--run", str(path), "--quiet"]) == 0
    return path


def test_a_search_writes_everything(run: Path) -> None:
    trials = read_history((run / "history.jsonl").read_text().splitlines())
    assert [trial.number for trial in trials] == [1, 2]
    evaluations = json.loads((run / "evaluations.json").read_text())
    assert [e["label"] for e in evaluations] == ["found", "start", "uniform"]
    assert all(len(e["accuracies"]) == 2 and e["epochs"] == 2 for e in evaluations)
    page = (run / "report.html").read_text()
    assert "tests.tiny:TinyNet" in page
    assert "digits" in page
    found = conet_fx.load(run / "found")
    assert sum(p.numel() for p in found.parameters()) == evaluations[0]["params"]


def test_settings_are_written_as_a_config_file(run: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["arch"], settings["image_size"], settings["trials"]) == ("tests.tiny:TinyNet", 8, 2)
    again = tmp_path / "again"
    assert main(["search", "--config", str(run / "config.yaml"), "--run", str(again), "--quiet"]) == 0

    def numbers(path: Path) -> list[object]:
        trials = read_history((path / "history.jsonl").read_text().splitlines())
        return [(trial.sizes, [epoch.loss for epoch in trial.epochs]) for trial in trials]

    assert numbers(again) == numbers(run)
    assert (again / "evaluations.json").read_text() == (run / "evaluations.json").read_text()


def test_a_finished_run_resumes_without_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "evaluations.json").read_bytes(), (run / "history.jsonl").read_bytes()
    assert main([*SMALL, "--run", str(run), "--resume"]) == 0
    output = capsys.readouterr()
    assert "final training" not in output.err
    assert "network" in output.out
    assert before == ((run / "evaluations.json").read_bytes(), (run / "history.jsonl").read_bytes())


def test_the_report_can_be_written_anew(run: Path) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == before


def test_a_network_is_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, program = tmp_path / "net.py", tmp_path / "net.pt2"
    assert main(["export", str(run), "-o", str(source)]) == 0
    assert capsys.readouterr().out == f"{source}\n"
    assert "class TinyNet(nn.Module):" in source.read_text()
    assert (
        main(["export", str(run / "found"), "--format", "torch-export", "--shape", "1", "8", "8", "-o", str(program)])
        == 0
    )
    outputs = torch.export.load(program).module()(torch.zeros(5, 1, 8, 8))
    assert torch.allclose(outputs, conet_fx.load(run / "found").eval()(torch.zeros(5, 1, 8, 8)), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "net.pt2"], "torch-export records a run of the network: pass example_inputs (--shape)"),
        (["-o", "net"], "net could be of any format"),
        (["-o", "net.onnx", "--shape", "3", "8", "8"], "does not run on inputs of shape (2, 3, 8, 8)"),
    ],
)
def test_an_export_that_cannot_be_is_one_line(
    arguments: list[str], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("conet-fx: ")
    assert message in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]
    assert main(["export", str(tmp_path), *arguments[:2]]) == 1


def test_graph_explains_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "resnet18_cifar", "--shape", "3", "32", "32"]) == 0
    assert "12 free and 1 frozen channel groups" in capsys.readouterr().out
    drawing = tmp_path / "graph.dot"
    assert main(["graph", "torchvision:squeezenet1_1", "--shape", "3", "64", "64", "-o", str(drawing)]) == 0
    assert capsys.readouterr().out == f"{drawing}\n"
    assert drawing.read_text().startswith("digraph")


def test_graph_without_graphviz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing = tmp_path / "graph.svg"
    assert main(["graph", "tests.tiny:TinyNet", "--shape", "1", "8", "8", "--output", str(drawing)]) == 1
    assert "Graphviz, which draws graph.svg, is not installed" in capsys.readouterr().err
    assert main(["graph", "no.such:net", "--output", "graph.bmp"]) == 1
    assert "graph.bmp: the suffix names the format, write one of .dot, .svg, .png, .pdf" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_output_in_a_pipe_is_plain_text(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conet_fx", *SMALL, "--run", str(tmp_path / "run"), "--final.seeds", "[0]"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in result.stdout + result.stderr
    assert "trial 2/2" in result.stderr
    assert "test accuracy" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "resnet19_cifar"], "did you mean 'resnet18_cifar'"),
        (["--data", "mnist"], "unknown data set"),
        (["--data", "cifar10", "--root", "nowhere"], "nowhere"),
        (["--delta", "-1"], "delta=-1.0: write a number > 0"),
        (["--devices", "2"], "one device"),
        (["--final.epochs", "0"], "epochs=0"),
        (["--arch", "tests.tiny:NoSuchNet"], "NoSuchNet"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*SMALL, "--run", str(tmp_path / "run")]
    try:
        status = main([*base, *arguments])
    except SystemExit as end:  # the parser's own refusal
        status = int(end.code or 0)
    assert status != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
