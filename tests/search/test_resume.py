"""A search that is cut off anywhere and goes on is the undisturbed one, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import conet_fx
from conet_fx.search.checkpoint import FOLDER
from conet_fx.search.run_dir import RunDirectory
from tests.search.undisturbed import Calling, fingerprint, search

STEPS = 3 * 3 * 4  # trials, epochs, batches


def with_adam(**settings: Any) -> dict[str, Any]:
    return {
        "optimizer_fn": lambda model: torch.optim.AdamW(model.parameters(), 0.01),
        "scheduler_fn": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=4),
        **settings,
    }


WAYS: dict[str, dict[str, Any]] = {
    "adas": {},
    "sgd": {"scheduler": "none", "weights": "trained"},
    "adam": with_adam(weights="trained"),
    "accumulated": {"accumulate": 3, "clip_norm": 1.0, "label_smoothing": 0.1},
}


@functools.cache
def undisturbed(way: str) -> str:
    return fingerprint(search(**WAYS[way]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_between_any_two_steps(way: str, number: signal.Signals, tmp_path: Path) -> None:
    """Each process ends after a few steps more than the one before; 5 and 7 meet every place of an epoch."""
    cut = 5 if number == signal.SIGINT else 7
    ends: list[int] = []
    results = []
    while not results:
        batches = Calling(lambda count: signal.raise_signal(number) if count == cut else None)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            results.append(search(batches, tmp_path / "run", **WAYS[way]))
        ends.append(batches.count)
    assert len(ends) >= 4
    assert fingerprint(results[0]) == undisturbed(way)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_signals_end_as_they_ask(
    number: signal.Signals, error: type[BaseException], code: int | None, tmp_path: Path
) -> None:
    with pytest.raises(error) as end:
        search(Calling(lambda count: signal.raise_signal(number) if count == 5 else None), tmp_path)
    assert getattr(end.value, "code", None) == code


def test_a_signal_that_the_process_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        batches = Calling(lambda count: signal.raise_signal(signal.SIGINT) if count == 5 else None)
        search(batches, tmp_path)
        assert batches.count > 5
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    class Late:
        def begin(self, history: Any) -> None:
            pass

        def epoch(self, trial: int, epoch: Any) -> None:
            pass

        def trial(self, trial: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

    settings: dict[str, Any] = {"trials": 1, "epochs_per_trial": 1}
    with pytest.raises(SystemExit) as end:
        search(run_dir=tmp_path, observers=[Late()], **settings)
    assert end.value.code == 143
    assert fingerprint(search(Calling(refuse), tmp_path, **settings)) == fingerprint(search(**settings))


def test_checkpoints_of_another_trial_are_removed(tmp_path: Path) -> None:
    """A trial that begins anew never meets a state of other sizes."""
    cut_off(tmp_path, at=26)  # in the third trial
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text().splitlines()[0] + "\n")
    kept = {path.name for path in (tmp_path / FOLDER).iterdir()}
    with pytest.raises(Stop):
        search(Calling(stop_at(1)), tmp_path, checkpoint_seconds=1e9)
    assert kept
    assert not list((tmp_path / FOLDER).iterdir())
    assert fingerprint(search(run_dir=tmp_path)) == undisturbed("adas")


def test_the_lock_holds_by_any_name_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunDirectory("run").locked(), RunDirectory(tmp_path / "run").locked():
        assert (tmp_path / "run" / "owner.json").exists()
    assert not (tmp_path / "run" / "owner.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_processes(workers: int, tmp_path: Path) -> None:
    expected = fingerprint(search(Calling(lambda count: None, workers), trials=1, epochs_per_trial=2))
    with pytest.raises(KeyboardInterrupt):
        search(
            Calling(lambda count: signal.raise_signal(signal.SIGINT) if count == 6 else None, workers),
            tmp_path,
            trials=1,
            epochs_per_trial=2,
        )
    resumed = search(Calling(lambda count: None, workers), tmp_path, trials=1, epochs_per_trial=2)
    assert fingerprint(resumed) == expected


def test_processes_that_are_killed(tmp_path: Path) -> None:
    """SIGKILL at random moments, and before and after each system call of a write."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    variables["CUDA_VISIBLE_DEVICES"] = ""  # forked processes cannot ask for what their parent has asked for
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killed", str(tmp_path), "--anywhere", "20", "--writes", "30"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["different"] == [], done.stderr[-3000:]
    assert said["anywhere"] == 20
    assert said["writes"] >= 25
    assert said["ended"] >= 2


ON_A_DEVICE = """
import contextlib, pathlib, signal, sys, torch
from tests.search.undisturbed import Calling, fingerprint, search
torch.use_deterministic_algorithms(True)
device, path = sys.argv[1], pathlib.Path(sys.argv[2])
expected = fingerprint(search(accelerator=device, weights="trained"))
for cut in (6, 11, 17, 2):
    batches = Calling(lambda count: signal.raise_signal(signal.SIGINT) if count == cut else None)
    with contextlib.suppress(KeyboardInterrupt):
        search(batches, path, accelerator=device, weights="trained")
        raise SystemExit("not interrupted")
assert fingerprint(search(run_dir=path, accelerator=device, weights="trained")) == expected
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_deterministic_algorithms_repeat_on_any_device(device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    root = Path(__file__).parents[2]
    variables = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", ON_A_DEVICE, device, str(tmp_path / "run")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_finished_search_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = search(run_dir=tmp_path, weights="trained", trials=2)
    again = search(Calling(refuse), tmp_path, weights="trained", trials=2)
    assert fingerprint(again) == fingerprint(first)


def refuse(count: int) -> None:
    assert count == 0, "training began"


def test_trained_weights_that_were_lost_are_trained_again(tmp_path: Path) -> None:
    first = search(run_dir=tmp_path, weights="trained", trials=2)
    for path in (tmp_path / FOLDER).iterdir():
        path.unlink()
    assert fingerprint(search(run_dir=tmp_path, weights="trained", trials=2)) == fingerprint(first)


class Stop(Exception):
    pass


def stop_at(number: int) -> Callable[[int], None]:
    def stop(count: int) -> None:
        if count == number:
            raise Stop

    return stop


def cut_off(path: Path, at: int) -> None:
    with pytest.raises(Stop):
        search(Calling(stop_at(at)), path)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".json", "cut"),
        (".json", "flipped"),
        (".safetensors", "cut"),
        (".safetensors", "flipped"),
        (".safetensors", "gone"),
    ],
)
def test_damaged_checkpoints_give_way_to_the_one_before(tmp_path: Path, suffix: str, damage: str) -> None:
    cut_off(tmp_path, at=18)
    newest = max((tmp_path / FOLDER).glob(f"*{suffix}"), key=lambda path: int(path.stem))
    content = newest.read_bytes()
    if damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        newest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        newest.unlink()
    with pytest.warns(UserWarning, match=r"going on from an older checkpoint, since .*\d+\.json .* is damaged"):
        resumed = search(run_dir=tmp_path)
    assert fingerprint(resumed) == undisturbed("adas")


def test_without_a_whole_checkpoint_the_trial_begins_anew(tmp_path: Path) -> None:
    cut_off(tmp_path, at=18)
    for path in (tmp_path / FOLDER).iterdir():
        path.write_bytes(b"{")
    with pytest.warns(UserWarning, match=r"going on from the beginning of the trial"):
        resumed = search(run_dir=tmp_path)
    assert fingerprint(resumed) == undisturbed("adas")


def test_two_generations_are_kept(tmp_path: Path) -> None:
    search(run_dir=tmp_path, trials=1)
    assert len(list((tmp_path / FOLDER).iterdir())) == 4
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(conet_fx.SearchError, match=r"cannot be written \(No space left on device\): .* make room"):
        search(run_dir=tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    assert fingerprint(search(run_dir=tmp_path)) == undisturbed("adas")


def test_states_that_only_pickle_could_save_are_refused_before_training(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, 0.1)
            self.param_groups[0]["note"] = object()

    with pytest.raises(
        conet_fx.SearchError, match=r"optimizer\.param_groups\.0\.note holds a object, which only pickle"
    ):
        search(Calling(refuse), tmp_path, optimizer_fn=lambda model: Odd(model.parameters()))


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    script = (
        "import sys, time; from conet_fx.search.run_dir import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).locked(): print('in', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    with pytest.raises(conet_fx.SearchError, match=rf"is in use by process {child.pid} on .* since 20"):
        search(Calling(refuse), tmp_path)
    child.kill()
    child.communicate()
    assert len(search(run_dir=tmp_path, trials=1, epochs_per_trial=1).history) == 1
