"""Two processes on the CPU (gloo), as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import conet_fx
from conet_fx.probe import NonFiniteError
from conet_fx.search.config import SearchConfig
from conet_fx.search.distributed import Distributed, launch, make_fabric
from tests.tiny import QUICK, TinyNet, tiny_loader

MODULE = ["-m", "tests.search.two_processes"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, *command], env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


def results(path: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads((path / f"result-{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("two")
    run(*TORCHRUN, *MODULE, str(path))
    return results(path, 2)


def test_both_decide_alike_and_have_the_same_weights(two: list[dict[str, Any]]) -> None:
    assert two[0] == two[1]
    assert any(slope > 0 for trial in two[0]["slopes"] for slope in trial.values())


def test_slopes_are_those_of_one_process_on_the_same_batches(two: list[dict[str, Any]], tmp_path: Path) -> None:
    run(*MODULE, str(tmp_path))
    [one] = results(tmp_path, 1)
    assert one["sizes"] == two[0]["sizes"]
    assert one["losses"] == pytest.approx(two[0]["losses"], rel=1e-3, abs=1e-5)
    for ours, theirs in zip(one["slopes"], two[0]["slopes"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_one_that_is_told_to_stop_stops_both_and_the_run_goes_on(two: list[dict[str, Any]], tmp_path: Path) -> None:
    stopped = run(*TORCHRUN, *MODULE, str(tmp_path), "--interrupt", "9", check=False)
    assert stopped.returncode != 0
    assert "another process of the search was told to stop" in stopped.stderr, stopped.stderr[-3000:]
    assert "terminate called" not in stopped.stderr, "of a process group that is left"
    assert not list(tmp_path.glob("result-*"))
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    run(*TORCHRUN, *MODULE, str(tmp_path))
    assert results(tmp_path, 2) == two


def test_errors_of_the_first_process_reach_the_others() -> None:
    """What `from_first` sends: errors must survive the way."""
    import pickle

    error = pickle.loads(pickle.dumps(NonFiniteError(["a", "b"], {})))
    assert isinstance(error, NonFiniteError)
    assert error.layers == ("a", "b")
    assert "'a', 'b'" in str(error)


ONE = """
import atexit
import torch
atexit.register(lambda: print("a group is left:", torch.distributed.is_initialized()))
import conet_fx
from tests.tiny import QUICK, TinyNet, tiny_loader
settings = {**QUICK, "strategy": "ddp", "accelerator": "cpu", "trials": 1}
assert conet_fx.optimize(TinyNet(), tiny_loader(), progress=False, **settings).sizes
"""


def test_ddp_of_one_process_leaves_its_group_at_exit() -> None:
    assert run("-c", ONE).stdout.splitlines()[-1] == "a group is left: False"


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"},
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "search"},
    ],
    ids=["torchrun", "srun"],
)
def test_processes_that_search_alone_are_told(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="2 processes were started, and each of them searches alone: pass devices"):
        make_fabric(SearchConfig(accelerator="cpu"))
    for name in variables:
        monkeypatch.delenv(name)
    with warnings.catch_warnings(record=True) as caught:
        make_fabric(SearchConfig(accelerator="cpu"))
    assert not [each for each in caught if "searches alone" in str(each.message)]


def test_strategies_that_split_weights_are_refused() -> None:
    from lightning_fabric.strategies import FSDPStrategy

    class Fake:
        strategy = FSDPStrategy()

    with pytest.raises(ValueError, match=r"FSDPStrategy spreads each weight .* use strategy='ddp'"):
        launch(Fake())  # type: ignore[arg-type]


def test_a_fabric_of_the_user_is_used() -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", precision="bf16-true")
    result = conet_fx.optimize(
        TinyNet(), tiny_loader(), fabric=fabric, progress=False, **{**QUICK, "weights": "trained"}
    )
    assert {value.dtype for value in result.model.parameters()} == {torch.float32}
    assert Distributed(fabric).first
