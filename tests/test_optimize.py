"""optimize(): the loop, its records, what it leaves alone, and what it refuses before any training."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import conet_fx
from conet_fx.search import GroupState, decide
from conet_fx.search.history import Trial, read_history
from tests.tiny import QUICK, TinyNet, tiny_loader


def search(model: nn.Module | None = None, loader: Any = None, **settings: Any) -> conet_fx.SearchResult:
    loader = tiny_loader() if loader is None else loader
    settings = {**QUICK, "progress": False, **settings}
    return conet_fx.optimize(TinyNet() if model is None else model, loader, **settings)


def without_times(trials: Any) -> list[dict[str, Any]]:
    records = [json.loads(trial.to_json()) for trial in trials]
    for record in records:
        record.pop("seconds")
        record.pop("sha256")
        for epoch in record["epochs"]:
            epoch.pop("seconds")
    return records


def test_result_is_a_resized_network_that_runs() -> None:
    result = search()
    assert set(result.sizes) == {"a", "b"}  # c writes into a's group
    assert [trial.number for trial in result.history] == [1, 2]
    assert result.model(torch.randn(4, 1, 6, 6)).shape == (4, 3)
    assert result.model.get_submodule("a").out_channels == result.sizes["a"]
    assert result.cost.params == sum(p.numel() for p in result.model.parameters())


def test_every_trial_follows_algorithm_2() -> None:
    result = search(trials=4)
    config = conet_fx.SearchConfig(**{**QUICK, "trials": 4})
    states = {name: GroupState(size=8) for name in result.sizes}
    for trial in result.history:
        assert trial.sizes == {name: state.size for name, state in states.items()}
        for name, record in trial.groups.items():
            assert len(record.ranks) == 2
            states[name] = decide(states[name], record.slope, record.condition, config)
            assert (record.action, record.phi, record.next_size) == (
                states[name].last_action,
                states[name].phi,
                states[name].size,
            )
    assert result.sizes == {name: state.size for name, state in states.items()}


def test_group_rank_is_the_mean_over_writers_and_whole_readers() -> None:
    trial = search(trials=1).history[0]
    layers = trial.epochs[-1].layers
    # group a is written by a and c, and read by b as a whole; group b is written by b and read by c
    expected = (layers["a"].rank_out + layers["c"].rank_out + layers["b"].rank_in) / 3
    assert trial.groups["a"].ranks[-1] == pytest.approx(expected)
    assert trial.groups["b"].ranks[-1] == pytest.approx((layers["b"].rank_out + layers["c"].rank_in) / 2)


def test_runs_repeat_bit_for_bit_whatever_the_global_state() -> None:
    loader = tiny_loader()
    first = search(loader=loader)
    torch.manual_seed(123)
    random.seed(5)
    second = search(loader=loader)
    assert without_times(first.history) == without_times(second.history)
    for (name, ours), (_, theirs) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert without_times(search(seed=1).history) != without_times(first.history)


def test_model_random_state_and_loader_stay_as_they_were() -> None:
    model = TinyNet().eval()
    loader = tiny_loader()
    before = copy.deepcopy(model.state_dict())
    generator = loader.generator.get_state()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    search(model, loader)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(loader.generator.get_state(), generator)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_search_ends_when_every_group_has_stopped() -> None:
    # delta so high that all shrink, then grow at the lower bound: they turn back at once, and gamma > phi stops them
    result = search(delta=1e9, gamma=0.9, trials=50, min_channels=6)
    assert len(result.history) < 50
    assert all(record.action == "stop" for record in result.history[-1].groups.values())


def test_tells_once_that_trials_are_too_short(capsys: pytest.CaptureFixture[str]) -> None:
    result = search(trials=2, progress=True)
    assert [trial.without_rank for trial in result.history] == [["a", "b"], ["a", "b"]]
    for trial in result.history:
        assert all(group.reason.endswith("no rank was found in any epoch") for group in trial.groups.values())
    assert capsys.readouterr().err.count("the probe finds no rank in 2 of 2 groups") == 1


def test_says_nothing_of_ranks_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    def train_epoch(model: nn.Module, optimizer: Any, loader: Any, fabric: Any) -> float:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                with torch.no_grad():
                    module.weight.copy_(torch.eye(*module.weight.shape[:2])[:, :, None, None].expand_as(module.weight))
                    module.weight[2:] = 0
        return 1.0

    result = search(trials=1, progress=True, train_epoch=train_epoch, delta=0.2)
    assert result.history[0].without_rank == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("trial 1/1")


def test_trained_weights_are_carried_to_the_found_sizes() -> None:
    loader = tiny_loader()
    settings = {"trials": 1, "epochs_per_trial": 25, "min_channels": 8, "scheduler": "none"}  # sizes can only grow
    fresh, trained = search(loader=loader, **settings), search(loader=loader, weights="trained", **settings)
    assert trained.sizes == fresh.sizes
    assert trained.history[-1].epochs[-1].accuracy > 0.9
    images, labels = loader.dataset.tensors

    def accuracy(model: nn.Module) -> float:
        return float((model.eval()(images).argmax(1) == labels).float().mean())

    assert accuracy(trained.model) > 0.9 > accuracy(fresh.model)


def test_plain_sgd_keeps_the_learning_rate() -> None:
    history = search(scheduler="none").history
    assert {rate for trial in history for epoch in trial.epochs for rate in epoch.learning_rates.values()} == {0.03}
    adas = search(epochs_per_trial=3).history[0].epochs  # the first velocity is known after the second epoch
    assert set(adas[1].learning_rates.values()) == {0.03}
    assert 0.03 not in adas[2].learning_rates.values()


def test_initial_channels_none_starts_from_the_model() -> None:
    assert search(initial_channels=None, trials=1).history[0].sizes == {"a": 8, "b": 8}


def test_other_losses_and_several_inputs() -> None:
    class TwoInputs(TinyNet):
        def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) + bias

    images, labels = tiny_loader().dataset.tensors
    bias = torch.zeros(len(images), 3)
    batches = [((images[i : i + 32], bias[i : i + 32]), labels[i : i + 32]) for i in range(0, 96, 32)]
    assert search(TwoInputs(), batches).history[0].epochs[0].accuracy is not None
    keyword = [({"x": x, "bias": b}, y) for (x, b), y in batches]
    assert search(TwoInputs(), keyword).history[0].epochs[0].accuracy is not None

    def mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(output, target)

    pairs = [(x, torch.randn(len(y), 3)) for (x, _), y in batches]
    assert search(loader=pairs, loss_fn=mse).history[0].epochs[0].accuracy is None


# --- saving and resuming ---------------------------------------------------------------------------------------


class Computed(nn.Module):
    """A convolution with weight norm, one whose weight depends on the image, and one of nn.Conv2d."""

    def __init__(self) -> None:
        super().__init__()
        self.a = weight_norm(nn.Conv2d(1, 8, 3, padding=1))
        self.experts = nn.Parameter(torch.randn(6, 8, 1, 1))
        self.mix = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(F.relu(self.a(x)), self.experts * x.mean().sigmoid())
        return self.mix(y.mean((2, 3)))


def test_computed_weights_are_searched_and_what_is_not_measured_keeps_its_size() -> None:
    found = search(Computed(), initial_channels=10)
    assert [group.name for group in found.plan.free] == ["a", "experts"]
    first = found.history[0]
    assert first.sizes == {"a": 10, "experts": 6}
    assert first.groups["experts"].action == "stop"
    assert "measures none of its layers" in first.groups["experts"].reason
    assert {layer for epoch in first.epochs for layer in epoch.layers} == {"a"}
    assert found.history[0].groups["a"].action in ("expand", "shrink")
    assert found.sizes["experts"] == 6


@pytest.mark.parametrize("training", [True, False])
def test_says_which_mode_is_searched_where_the_other_cannot_be_traced(training: bool) -> None:
    class TwoPaths(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training is not training and x.mean() > 0:
                return super().forward(x.flip(2))
            return super().forward(x)

    mode, other = ("train", "eval") if training else ("eval", "train")
    told = f"TwoPaths takes another path in {other} mode, which cannot be traced: candidates take that of {mode} mode"
    with pytest.warns(UserWarning, match=told) as caught:
        conet_fx.optimize(TwoPaths().train(training), tiny_loader(), progress=False, **QUICK)
    assert [str(warning.filename) for warning in caught] == [__file__]


def test_refuses_a_model_of_which_nothing_is_measured() -> None:
    model = Computed()
    model.a = nn.Identity()
    model.experts = nn.Parameter(torch.randn(6, 1, 1, 1))
    refuse(conet_fx.SearchError, "measures no layer", model)


def test_save_load_apply(tmp_path: Path) -> None:
    model = TinyNet()
    result = search(model)
    result.save(tmp_path / "best")
    images = torch.randn(4, 1, 6, 6)
    loaded = conet_fx.load(tmp_path / "best").eval()
    applied = conet_fx.apply(model, tmp_path / "best").eval()
    expected = result.model.eval()(images)
    assert torch.equal(loaded(images), expected)
    assert isinstance(applied, TinyNet)
    assert torch.equal(applied(images), expected)
    assert applied.state_dict().keys() == model.state_dict().keys()


def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole = search(trials=3, run_dir=tmp_path / "whole")
    search(trials=1, run_dir=tmp_path / "parts")
    resumed = search(trials=3, run_dir=tmp_path / "parts", resume=True)
    assert without_times(resumed.history) == without_times(whole.history)
    assert resumed.sizes == whole.sizes
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    lines = (tmp_path / "parts" / "history.jsonl").read_text().splitlines()
    assert without_times(read_history(lines)) == without_times(whole.history)


def test_a_crash_between_trials_loses_nothing(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class Failing:
        """Gives the batches of a loader, and fails when they are asked for the n-th time."""

        def __init__(self, times: int) -> None:
            self.loader, self.times = tiny_loader(), times
            self.generator = self.loader.generator

        def __iter__(self) -> Iterator[Any]:
            self.times -= 1
            if self.times < 0:
                raise Crash
            return iter(self.loader)

    with pytest.raises(Crash):
        search(loader=Failing(times=4), trials=3, run_dir=tmp_path)  # the check, trial 1, half of trial 2
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    resumed = search(loader=Failing(times=99), trials=3, run_dir=tmp_path, resume=True)
    assert without_times(resumed.history) == without_times(search(trials=3).history)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# --- what is refused, before any training ----------------------------------------------------------------------


class Untouched:
    """A loader that must not be asked for a second pass: the first one is the check of its batches."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        assert self.passes == 1, "training began"
        return iter(self.batches)


BATCH = [(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]))]


def refuse(error: type[Exception], message: str, model: Any = None, batches: Any = BATCH, **settings: Any) -> None:
    with pytest.raises(error, match=message):
        search(TinyNet() if model is None else model, Untouched(batches), **settings)


@pytest.mark.parametrize("model", ["resnet18", TinyNet, lambda x: x])
def test_refuses_what_is_no_module(model: Any) -> None:
    refuse(TypeError, r"model must be a torch\.nn\.Module", model)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (5, TypeError, "must be an iterable of .input, target. batches, .* not int"),
        (torch.randn(4, 1, 6, 6), TypeError, "not Tensor"),
        (iter(BATCH), TypeError, "can be iterated only once"),
        ([], ValueError, "gives no batch"),
        ([torch.randn(4, 1, 6, 6)], TypeError, r"gives a tensor of shape \(4, 1, 6, 6\) where a batch must be a pair"),
        ([(torch.randn(4, 1, 6, 6),)], TypeError, "gives a tuple of 1"),
        ([(torch.randn(4, 1, 6, 6), torch.zeros(4), torch.zeros(4))], TypeError, "gives a tuple of 3"),
        ([{"image": torch.randn(4, 1, 6, 6)}], TypeError, "gives a dict with keys .'image'."),
        ([("a", torch.zeros(4))], TypeError, "input of a batch must be a tensor, .* not a str"),
        ([(torch.randn(0, 1, 6, 6), torch.zeros(0).long())], ValueError, "first batch of loader has no samples"),
    ],
)
def test_refuses_loaders(loader: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        search(loader=loader)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), r"targets run from 0 to 3, but the model has 3 outputs"),
        (torch.tensor([0, -1, 2, 1]), "targets run from -1 to 2"),
        (torch.zeros(4, 2).long(), r"targets of shape \(4, 2\) are no class indices"),
        (torch.zeros(4, 3).long(), r"no class indices .*: let the loader give target.argmax\(1\)"),
        (torch.zeros(4, dtype=torch.int32), r"targets are torch.int32, .* give target.long\(\)"),
        (torch.zeros(4, 2), r"no class probabilities for 3 outputs"),
        ("0120", "targets are a str, not a tensor"),
    ],
)
def test_refuses_targets_that_do_not_fit(target: Any, message: str) -> None:
    refuse(conet_fx.SearchError, message, batches=[(torch.randn(4, 1, 6, 6), target)])


def test_says_which_targets_of_a_later_batch_do_not_fit() -> None:
    batches = [BATCH[0], (BATCH[0][0], torch.tensor([0, 7, 1, 2]))]
    with pytest.raises(conet_fx.SearchError, match="a batch has targets from 0 to 7, and the model 3 outputs"):
        search(loader=batches)


@pytest.mark.parametrize("delta", [0, -1.0, float("nan"), float("inf")])
def test_refuses_delta(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        conet_fx.optimize(TinyNet(), Untouched(BATCH), delta, progress=False)


def test_refuses_unknown_settings() -> None:
    with pytest.raises(TypeError, match="did you mean 'trials'"):
        search(trails=3)


def test_refuses_a_model_with_nothing_to_resize() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    refuse(conet_fx.SearchError, "nothing to resize.*frozen", linear)


def test_refuses_a_model_that_cannot_be_trained() -> None:
    refuse(conet_fx.SearchError, "no parameter of TinyNet requires a gradient", TinyNet().requires_grad_(False))
    refuse(conet_fx.SearchError, "TinyNet lies on the meta device", TinyNet().to("meta"))


def test_refuses_a_model_that_does_not_fit_the_data() -> None:
    colour = [(torch.randn(4, 2, 6, 6), BATCH[0][1])]
    refuse(conet_fx.TraceError, r"a at .*tiny\.py:\d+.*expected input", batches=colour)


def test_refuses_outputs_without_a_loss() -> None:
    class Pair(TinyNet):
        def forward(self, x: torch.Tensor) -> Any:
            y = super().forward(x)
            return y, y

    refuse(conet_fx.SearchError, "returns a tuple of 2.*pass loss_fn", Pair())


def test_resume_needs_a_directory() -> None:
    refuse(ValueError, "resume=True needs run_dir", resume=True)


# --- faults while training ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_trial_epoch_and_batch(tmp_path: Path) -> None:
    images, labels = tiny_loader().dataset.tensors
    batches = [(images[i : i + 32].clone(), labels[i : i + 32]) for i in range(0, 96, 32)]
    batches[1][0][3] = float("nan")
    with pytest.raises(conet_fx.SearchError, match="loss is nan in trial 1, epoch 1, batch 2"):
        search(loader=batches, run_dir=tmp_path)


def test_a_diverging_run_keeps_its_history(tmp_path: Path) -> None:
    search(trials=1, run_dir=tmp_path)
    before = (tmp_path / "history.jsonl").read_bytes()
    images, labels = tiny_loader().dataset.tensors
    with pytest.raises(conet_fx.SearchError, match="trial 2"):
        search(loader=[(images * float("inf"), labels)], run_dir=tmp_path, resume=True)
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_history_round_trips() -> None:
    for trial in search().history:
        assert Trial.from_json(trial.to_json()) == trial
