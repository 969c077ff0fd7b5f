"""The benchmarks' own arithmetic and bookkeeping: what they would say of a faulty plan, a crash and a hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import conet_fx
from benchmarks import analysis, coverage, peers, zoo
from benchmarks.libraries import LIBRARIES
from benchmarks.processes import run_in_process
from tests.passes import battery


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.free, self.depthwise = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=4)
        self.frozen, self.last = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1)
        self.uncalled = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(self.depthwise(self.free(x)))
        return self.last(torch.special.i0(x))


@pytest.fixture
def model() -> zoo.Model:
    torch.manual_seed(0)
    return zoo.Model(Net().eval(), torch.randn(2, 3, 4, 4))


def row_of(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> coverage.Row:
    monkeypatch.setattr(zoo, "build", lambda entry: model)
    rows: list[coverage.Row] = []
    coverage.examine("any", None, rows.append)
    return rows[-1]


def test_a_row_tells_where_every_convolution_is(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(model, monkeypatch)
    assert row["convs"] == {"free": 2, "frozen": 2, "uncalled": 1, "lost": 0}
    assert sum("i0" in reason for reason in row["frozen"]) == 1
    assert {check: row[check] for check in coverage.CHECKS} == dict.fromkeys(coverage.CHECKS, "ok")
    assert coverage.passed(row)


def test_a_convolution_that_is_not_in_the_plan_is_lost(model: zoo.Model) -> None:
    plan = conet_fx.analyze(model.module, model.inputs)
    del plan.facts.layers["depthwise"]
    called = coverage.called_convs(model)
    assert called == {"free", "depthwise", "frozen", "last"}
    assert coverage.state(plan, "depthwise", "depthwise" in called) == ("lost", "")
    assert coverage.state(plan, "uncalled", "uncalled" in called) == ("uncalled", "")


def test_a_check_that_fails_is_told(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("other channels")

    monkeypatch.setattr(battery, "check_shrinking_masks", broken)
    row = row_of(model, monkeypatch)
    assert "other channels" in row["masks"]
    assert not coverage.passed(row)
    assert any("other channels" in line for line in coverage.summary_of([{"network": "a/b", **row}]))


def test_a_crash_and_a_hang_are_told() -> None:
    row, ended = run_in_process(["benchmarks.no_such_module"], timeout=60)
    assert row == {}
    assert "No module named" in ended
    assert run_in_process(["timeit", "-n", "1000000000000", "pass"], timeout=1) == ({}, "stopped after 1 s")


def test_all_of_torchvision_is_in_the_zoo() -> None:
    names = zoo.entries("torchvision")
    assert len(names) == len(set(names))
    assert {name.removeprefix("torchvision/").removesuffix(":train") for name in names} == set(
        torchvision.models.list_models()
    )


def test_the_models_of_timm_exist() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert {name.removeprefix("timm/") for name in zoo.entries("timm")} <= set(timm.list_models())


def test_each_network_of_a_library_is_named_once() -> None:
    names = zoo.entries("libraries")
    assert len(names) == len(set(names))
    assert {zoo.package_of(name) for name in names} == {zoo.package_of(f"{library}/") for library in LIBRARIES}
    assert zoo.entries("all") == [*zoo.entries("torchvision"), *zoo.entries("timm"), *names]


def test_a_network_of_a_library_is_built_in_the_mode_that_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "mine", {"small": lambda: (nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 2, 2))})
    assert not zoo.build("mine/small").module.training
    assert zoo.build("mine/small:train").module.training


def test_exponent() -> None:
    assert analysis.exponent({10: 2.0, 100: 20.0, 1000: 200.0}) == pytest.approx(1)
    assert analysis.exponent({10: 1.0, 100: 100.0}) == pytest.approx(2)


def judged(run: Callable[[peers.Trial], nn.Module], model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> peers.Row:
    monkeypatch.setattr(zoo, "build", lambda entry: model)
    rows: list[peers.Row] = []
    peers.judge(peers.Tool("a tool", "torch", run), "any", rows.append)
    return rows[-1]


def test_what_a_peer_says_of_a_network(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def halving(trial: peers.Trial) -> nn.Module:
        with trial.timed("its first step fails"):
            plan = conet_fx.analyze(trial.network, trial.inputs)
        return plan.resize({group.name: group.size // 2 for group in plan.free})

    row = judged(halving, model, monkeypatch)
    assert (row["verdict"], row["halved"], row["seconds"] > 0) == ("ok", 2, True)
    assert coverage.peer_cell(row).endswith("2 convs ok")


def test_where_a_peer_fails(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(trial: peers.Trial) -> nn.Module:
        with trial.timed("its first step fails"):
            raise IndexError("index 5\n is out of bounds")

    assert judged(failing, model, monkeypatch) == {
        "verdict": "its first step fails (IndexError: index 5 is out of bounds)"
    }

    def breaking(trial: peers.Trial) -> nn.Module:
        trial.network.get_submodule("last").weight = None
        return trial.network

    assert judged(breaking, model, monkeypatch)["verdict"].startswith("the pruned network does not run (TypeError")


def test_a_peer_that_changes_the_outputs_or_nothing(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(lambda trial: trial.network, model, monkeypatch)["verdict"] == "nothing was pruned"
    cut = nn.Sequential(model.module, nn.AvgPool2d(2))
    assert judged(lambda trial: cut, model, monkeypatch)["verdict"] == "the pruned network has other outputs"


def test_torch_pruning_halves_a_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    rows: list[peers.Row] = []
    peers.judge(peers.TOOLS["torch-pruning"], "torchvision/resnet18", rows.append)
    assert rows[-1].pop("seconds") > 0
    assert rows[-1] == {"groups": 13, "halved": 20, "verdict": "ok"}
