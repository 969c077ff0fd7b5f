"""The settings of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from conet_fx import recipes
from conet_fx.cli import main
from conet_fx.final import EvaluationConfig
from conet_fx.search import SearchConfig


def test_search_is_appendix_a_2() -> None:
    resnet, darts = recipes.recipe("cifar-resnet"), recipes.recipe("cifar-darts")
    assert resnet.search == SearchConfig(delta=0.01, lr=0.03, min_channels=32)
    assert darts.search == SearchConfig(delta=0.0075, lr=0.1)
    for search in (resnet.search, darts.search):
        assert (search.scheduler, search.beta, search.weight_decay) == ("adas", 0.8, 5e-4)
        assert (search.trials, search.epochs_per_trial, search.initial_channels) == (25, 20, 32)
    assert resnet.batch_size == darts.batch_size == 128


def test_final_training_is_appendix_a_3() -> None:
    resnet, darts = recipes.recipe("cifar-resnet").final, recipes.recipe("cifar-darts").final
    assert resnet == EvaluationConfig(epochs=250, lr=0.1, weight_decay=5e-4, batch_size=128)
    assert darts == EvaluationConfig(
        epochs=250, lr=0.1, weight_decay=3e-4, batch_size=96, cutout=16, auxiliary=0.4, drop_path=0.2, clip_norm=5.0
    )
    for final in (resnet, darts):
        assert final.momentum == 0.9
        assert len(final.seeds) >= 3
        assert [epoch for epoch in range(2, 251) if final.lr_in(epoch) != final.lr_in(epoch - 1)] == [
            *range(26, 250, 25)
        ]


def test_imagenet_is_appendix_a_4() -> None:
    for name in ("imagenet-resnet", "imagenet-darts"):
        final = recipes.recipe(name).final
        assert (final.epochs, final.label_smoothing) == (200, 0.1)


@pytest.mark.parametrize("name", recipes.names())
def test_every_built_in_recipe_is_one(name: str) -> None:
    assert recipes.recipe(name).name == name


def test_another_name() -> None:
    with pytest.raises(ValueError, match=r"'cifar-dart', did you mean 'cifar-darts'\?"):
        recipes.recipe("cifar-dart")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is no recipe"),
        ("a: [", "is no recipe"),
        ("delta: 0.1\nbatch_size: 2", "it lacks 'final'"),
        ("final: {}", "it lacks 'batch_size'"),
        ("batch_size: 0\nfinal: {}", "batch_size=0"),
        ("batch_size: 8\nfinal: {epochs: 0}", "epochs=0"),
        ("batch_size: 8\nfinal: {epoch: 1}", "epoch"),
        ("batch_size: 8\ndelta: -1\nfinal: {}", "delta=-1"),
    ],
)
def test_a_file_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipes.read(file)


def test_the_command_line_takes_one_and_options_go_before_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["search", "--arch", "tests.tiny:TinyNet", "--data", "digits", "--recipe", "cifar-resnet"]
    small = ["--image_size=8", "--trials=1", "--epochs_per_trial=1", "--evaluate=false", "--min_channels", "8"]
    assert main([*words, *small, "--run_dir", str(run), "--quiet"]) == 0
    settings = yaml.safe_load((run / "config.yaml").read_text())
    wanted = recipes.recipe("cifar-resnet")
    assert settings["lr"] == wanted.search.lr
    assert settings["batch_size"] == wanted.batch_size
    assert settings["final"]["epochs"] == 250
    assert (settings["trials"], settings["min_channels"]) == (1, 8)
    assert "recipe" not in settings


def test_the_command_line_refuses_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--arch", "x", "--data", "digits", "--recipe", "cifar-darts2"]) == 2
    assert "did you mean 'cifar-darts'?" in capsys.readouterr().err
