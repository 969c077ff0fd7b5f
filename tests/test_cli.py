"""The command line, from arguments to the files of a run directory."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import conet_fx
import conet_fx.evaluate
from conet_fx.cli import main
from conet_fx.search.history import Epoch, read_history
from conet_fx.search.trial import TrialTraining
from tests.report.test_page import embedded
from tests.report.test_tensorboard import scalars
from tests.tiny import TinyNet

SMALL = [
    *("search", "--arch", "tests.tiny:TinyNet", "--data", "digits", "--trials", "2", "--epochs_per_trial", "2"),
    *("--initial_channels", "8", "--min_channels", "4", "--lr", "0.03"),
    *("--final.epochs", "2", "--final.seeds", "[0,1]", "--accelerator", "cpu"),  # whose results repeat
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SMALL, "--run_dir", str(path), "--quiet"]) == 0
    return path


def test_a_search_writes_everything(run: Path) -> None:
    trials = read_history((run / "history.jsonl").read_text().splitlines())
    assert [trial.number for trial in trials] == [1, 2]
    evaluations = json.loads((run / "evaluations.json").read_text())["evaluations"]
    assert [e["label"] for e in evaluations] == ["found", "start", "uniform"]
    assert all(len(e["accuracies"]) == 2 and e["epochs"] == 2 for e in evaluations)
    page = (run / "report.html").read_text()
    assert "tests.tiny:TinyNet" in page
    assert "digits" in page
    found = conet_fx.load(run / "found")
    assert sum(p.numel() for p in found.parameters()) == evaluations[0]["params"]


def test_settings_of_a_search_in_python_are_a_config_file(run: Path, tmp_path: Path) -> None:
    ours, again = tmp_path / "python", tmp_path / "again"
    header = json.loads((run / "run.json").read_text())
    data = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]
    config = {**header["config"], "trials": 1}
    conet_fx.optimize(TinyNet(), data, run_dir=ours, progress=False, **config)
    of_data = ["--arch", "tests.tiny:TinyNet", "--data", "digits", "--evaluate", "false", "--quiet"]
    assert main(["search", "--config", str(ours / "config.yaml"), *of_data, "--run_dir", str(again)]) == 0
    assert json.loads((again / "run.json").read_text())["config"] == config


def test_settings_are_written_as_a_config_file(run: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["arch"], settings["image_size"], settings["trials"]) == ("tests.tiny:TinyNet", 8, 2)
    again = tmp_path / "again"
    assert main(["search", "--config", str(run / "config.yaml"), "--run_dir", str(again), "--quiet"]) == 0

    def numbers(path: Path) -> list[object]:
        trials = read_history((path / "history.jsonl").read_text().splitlines())
        return [(trial.sizes, [epoch.loss for epoch in trial.epochs]) for trial in trials]

    assert numbers(again) == numbers(run)
    assert (again / "evaluations.json").read_text() == (run / "evaluations.json").read_text()


def test_a_finished_run_resumes_without_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "evaluations.json").read_bytes(), (run / "history.jsonl").read_bytes()
    assert main([*SMALL, "--run_dir", str(run)]) == 0
    output = capsys.readouterr()
    assert "final training" not in output.err
    assert "network" in output.out
    assert before == ((run / "evaluations.json").read_bytes(), (run / "history.jsonl").read_bytes())


def test_the_report_can_be_written_anew(run: Path) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == before


def test_the_page_shows_the_network(run: Path) -> None:
    data = embedded((run / "report.html").read_text())
    assert [box["operators"][0] for box in data["graph"]["boxes"]] == ["x", "a", "b", "c", "add", "head", "output"]
    assert data["groups"][0]["readers"] == ["b", "head"]


def test_a_report_while_the_search_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    seen = []

    def report(*_: object) -> tuple[Epoch, ...]:
        assert main(["report", str(path)]) == 0
        seen.append(embedded((path / "report.html").read_text()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read_history((run / "history.jsonl").read_text().splitlines())[0].epochs

    monkeypatch.setattr(TrialTraining, "run", report)
    assert main([*SMALL, "--run_dir", str(path), "--quiet"]) == 130
    assert [len(data["trials"]) for data in seen] == [0, 1]
    assert "not ended yet (at most 2 trials)" in seen[1]["summary"]
    assert ["arch", "tests.tiny:TinyNet"] not in seen[0]["config"]
    assert "tests.tiny:TinyNet on digits" in (path / "report.html").read_text(), "the settings are there from the start"


def test_runs_are_compared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other run"
    shutil.copytree(run, other)
    assert main(["report", str(run), str(other)]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    data = embedded((tmp_path / "comparison.html").read_text())
    assert [each["name"] for each in data["runs"]] == ["run", "other run"]
    assert data["runs"][1]["link"] == "other%20run/report.html"
    third = tmp_path / "run"
    shutil.copytree(run, third)
    (third / "report.html").unlink()
    assert main(["report", str(run), str(third), str(run), "-o", "pages/all.html"]) == 0
    data = embedded((tmp_path / "pages" / "all.html").read_text())
    assert [each["name"] for each in data["runs"]] == [f"{run.parent.name}/run", f"{tmp_path.name}/run"]
    assert [each["link"] is None for each in data["runs"]] == [False, True]


def test_tensorboard_while_it_runs_and_afterwards(run: Path, tmp_path: Path) -> None:
    live, after = tmp_path / "live", tmp_path / "after"
    small = [*SMALL, "--evaluate", "false", "--quiet", "--tensorboard", str(live), "--run_dir", str(tmp_path / "run")]
    assert main([*small, "--trials", "1"]) == 0
    assert main([*small]) == 0
    assert main(["report", str(run), "--tensorboard", str(after)]) == 0
    assert scalars(live) == scalars(after)
    assert [step for step, _ in scalars(live)["size/b"]] == [1, 2]
    assert main(["report", str(run), str(tmp_path / "run"), "--tensorboard", str(tmp_path / "two"), "-o",
                 str(tmp_path / "two.html")]) == 0  # fmt: skip
    folders = {path.parent for path in (tmp_path / "two").rglob("events*")}
    assert folders == {tmp_path / "two" / parent.name / "run" for parent in (run.parent, tmp_path)}


class TestEvaluate:
    def numbers(self, path: Path) -> dict[str, dict[int, float]]:
        records = json.loads((path / "evaluations.json").read_text())["evaluations"]
        return {record["label"]: dict(zip(record["seeds"], record["accuracies"], strict=True)) for record in records}

    def test_goes_on_where_it_was_interrupted(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "run"
        shutil.copytree(run, path)
        (path / "evaluations.json").unlink()
        shutil.rmtree(path / "found")
        train, trained = conet_fx.evaluate._train, []

        def interrupted(*arguments: Any, **options: Any) -> Any:
            if len(trained) == 3:
                raise KeyboardInterrupt
            trained.append(arguments)
            return train(*arguments, **options)

        monkeypatch.setattr("conet_fx.evaluate._train", interrupted)
        assert main(["evaluate", str(path)]) == 130
        assert "conet-fx: interrupted" in capsys.readouterr().err
        assert {label: list(seeds) for label, seeds in self.numbers(path).items()} == {"found": [0, 1], "start": [0]}
        assert main(["report", str(path)]) == 0, "there is a page of that too"
        monkeypatch.setattr("conet_fx.evaluate._train", train)
        assert main(["evaluate", str(path)]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "final training" in line]
        assert [line.split(":")[1].split(",")[0].strip() for line in lines] == ["start", "uniform", "uniform"]
        assert self.numbers(path) == self.numbers(run), "as if nothing had happened"
        assert network_of(path) == network_of(run)

    def test_more_seeds_and_another_recipe(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "run"
        shutil.copytree(run, path)
        assert main(["evaluate", str(path), "--seeds", "[0,1,2]"]) == 0
        assert capsys.readouterr().err.count("seed 2") == 3
        assert {tuple(seeds) for seeds in self.numbers(path).values()} == {(0, 1, 2)}
        assert main(["evaluate", str(path), "--seeds=[0]", "--lr", "0.02"]) == 0
        assert capsys.readouterr().err.count("seed 0") == 3, "what another recipe gave does not count"
        assert "lr 0.02" in json.loads((path / "evaluations.json").read_text())["evaluations"][0]["recipe"]
        train = conet_fx.evaluate._train

        def once(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr("conet_fx.evaluate._train", None)
            return train(*arguments, **options)

        monkeypatch.setattr("conet_fx.evaluate._train", once)
        assert main(["evaluate", str(path), "--epochs", "1"]) == 1
        assert list(self.numbers(path)) == ["found"], "nothing of another recipe to compare it with"

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (
                lambda run: (run / "config.yaml").unlink(),
                "names no arch and data, since it was not made by conet-fx search",
            ),
            (
                lambda run: (run / "config.yaml").write_text("delta: 0.01"),
                "names no arch and data, since it was not made by conet-fx search",
            ),
            (lambda run: (run / "config.yaml").write_text("arch: [a"), "config.yaml is damaged"),
            (lambda run: (run / "config.yaml").write_text("arch: a"), "config.yaml is damaged (KeyError: 'data')"),
            (lambda run: (run / "history.jsonl").unlink(), "has no finished trial"),
            (lambda run: change(run / "config.yaml", "tests.tiny:TinyNet", "resnet18_cifar"), "run of another network"),
        ],
    )
    def test_a_run_that_cannot_be_evaluated(
        self, spoil: Any, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "run"
        shutil.copytree(run, path)
        before = (path / "evaluations.json").read_bytes()
        spoil(path)
        assert main(["evaluate", str(path)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert (path / "evaluations.json").read_bytes() == before


def change(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def network_of(run: Path) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in conet_fx.load(run / "found").parameters()]


def test_a_resumed_search_keeps_the_trained_network(run: Path) -> None:
    trained = network_of(run)
    assert main([*SMALL, "--run_dir", str(run), "--quiet"]) == 0
    assert network_of(run) == trained


class TestExitCodes:
    def test_they_are_in_every_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ([], ["search"], ["evaluate"], ["report"], ["graph"]):
            with pytest.raises(SystemExit, match=r"^0$"):
                main([*command, "--help"])
            text = capsys.readouterr().out
            assert "  130  interrupted (SIGINT, Ctrl-C)\n  143  terminated (SIGTERM)" in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "conet-fx: expected"),
            (["serch"], "invalid choice: 'serch'"),
            (["search"], "arguments are required"),
            (["search", "--arch", "a", "--data", "b", "--trials", "many"], "trials"),
            (["search", "--arch", "a", "--data", "b", "--nope"], "--nope"),
            (["report"], "runs"),
            (["graph", "a", "--config", "nowhere.yaml"], "nowhere.yaml"),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals(
        self,
        number: signal.Signals,
        status: int,
        run: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert threading.current_thread() is threading.main_thread(), "which is where signals arrive"
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        monkeypatch.setattr("conet_fx.cli.report.collect", lambda path: os.kill(os.getpid(), number))
        assert main(["report", str(run)]) == status
        error = capsys.readouterr().err
        assert error in ("conet-fx: interrupted\n", "conet-fx: terminated\n")
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    def test_an_error_of_any_kind_is_one_line(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(path: str) -> None:
            raise RuntimeError("two\nlines\n\nand a table")

        monkeypatch.setattr("conet_fx.cli.report.collect", fail)
        assert main(["report", str(run)]) == 1
        assert (
            capsys.readouterr().err == "conet-fx: RuntimeError: two lines (more with --debug) (--debug shows where)\n"
        )
        for words in (["report", str(run), "--debug"], ["--debug", "report", str(run)]):
            with pytest.raises(RuntimeError):
                main(words)

    def test_a_pipe_that_is_closed(self) -> None:
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "conet_fx", "graph", "tests.tiny:TinyNet", "--shape", "1", "8", "8"]
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert (result.returncode, result.stderr) == (0, "")


def test_print_config_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*SMALL, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert {field.name for field in dataclasses.fields(conet_fx.SearchConfig)} < set(printed)
    assert printed["trials"] == 2
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(printed))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["search", "--config", str(file), "--trials", "3", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == {**printed, "trials": 3}


def test_completion(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="conet-fx[completion] is not installed")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--print_completion=shtab-bash"])
    script = capsys.readouterr().out
    for word in ("evaluate", "--epochs_per_trial", "--final.seeds", "--tensorboard"):
        assert word in script


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


def test_resize_of_a_class_and_of_what_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, shape = tmp_path / "first", tmp_path / "second", ("--shape", "1", "8", "8")
    command = ["resize", "tests.tiny:TinyNet", "--classes", "3", *shape]
    assert main([*command, "--sizes", "a=6", "b=4", "-o", str(first)]) == 0
    assert capsys.readouterr().out.startswith(f"{first}: 1,")
    network = conet_fx.load(first)
    assert (network.a.out_channels, network.b.out_channels) == (6, 4)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps({"a": 13}))
    command = ["resize", str(first), *shape, "--round_to", "8", "-o", str(second)]
    assert main([*command, "--sizes", str(sizes), "b=4"]) == 0
    grown, image = conet_fx.load(second), torch.randn(2, 1, 8, 8)
    assert (grown.a.out_channels, grown.b.out_channels) == (16, 8)
    assert torch.allclose(network.eval()(image), grown.eval()(image), atol=1e-6)  # weights are inherited
    assert conet_fx.apply(TinyNet(), second).a.out_channels == 16  # and it is still known whose they are
    assert main([*command, "--sizes", str(sizes), "--init", "reset"]) == 0
    assert not torch.allclose(network(image), conet_fx.load(second).eval()(image), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "z=3"], "there is no channel group 'z'"),
        (["--sizes", "a=0"], "'a' needs at least 1 channels, not 0"),
        (["--sizes", "a=x"], "a=x: the size of 'a' must be a number of channels, not 'x'"),
        (["--sizes", "a=3", "a=4"], "'a' is to have 3 and 4 channels"),
        (["--sizes", "nowhere.json"], "nowhere.json"),
        (["--sizes", "list.yaml"], "list.yaml holds no sizes"),
        (["--sizes", "broken.yaml"], "broken.yaml is neither YAML nor JSON: while parsing a flow node"),
        (["--sizes", "."], "Is a directory"),
        (["--sizes", "a=3", "--shape", "3", "8", "8"], "failed on inputs of shape"),
        (["--sizes", "a=3", "--init", "zeros"], "init"),
        ([], "sizes"),
    ],
)
def test_resize_tells_what_is_wrong(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("[1, 2]")
    Path("broken.yaml").write_text("{a: [")
    base = ["resize", "tests.tiny:TinyNet", "--shape", "1", "8", "8", "-o", "out"]
    try:
        status = main([*base, *arguments])
    except SystemExit as end:  # the parser's own refusal
        status = int(end.code or 0)
    assert status != 0
    error = capsys.readouterr().err
    assert message in error
    assert not Path("out").exists()


def test_resize_of_what_is_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["resize", str(tmp_path), "--sizes", "a=3", "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "there is no network in" in capsys.readouterr().err
    (tmp_path / "recipe.json").write_text("{}")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "is not a conet-fx recipe" in error
    assert error.count("\n") == 1


def test_output_in_a_pipe_is_plain_text(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conet_fx", *SMALL, "--run_dir", str(tmp_path / "run"), "--final.seeds", "[0]"]
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
        (["--final.epochs", "0"], "epochs=0"),
        (["--arch", "tests.tiny:NoSuchNet"], "NoSuchNet"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--run_dir", str(tmp_path / "run"), *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
