"""The run directory: what a search has done so far, on disk, never half-written.

``run.json`` names the model (class, tensor names, group sizes) and the settings, which ``config.yaml`` has for the
command line; ``plan.json`` lists its channel groups; ``history.jsonl`` has a line for each finished trial,
``evaluations.json`` the networks trained to the end; ``checkpoints/`` holds the trial under way; the networks and the
report lie beside them. All that a run goes on with has checksums. One process at a time: ``lock``, and ``owner.json``
says which.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from filelock import FileLock, Timeout

from conet_fx.errors import SearchError
from conet_fx.plan import ChannelGroup
from conet_fx.search.history import DamagedLineError, Evaluation, Trial, read_history
from conet_fx.search.sealed import seal, unseal

T = TypeVar("T")
FORMAT = 3
RUN, PLAN, HISTORY, EVALUATIONS = "run.json", "plan.json", "history.jsonl", "evaluations.json"
CONFIG, REPORT, FOUND = "config.yaml", "report.html", "found"  # the last two, and more settings, by the command line
LOCK, OWNER = "lock", "owner.json"
# what may be another one when a run goes on: it does not change what the trials so far did
FREE = frozenset({"trials", "max_params", "max_macs", "checkpoint_seconds"})


class RunDirectory:
    """A directory that belongs to one search of one model."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(
        self, model: Mapping[str, Any], groups: Sequence[ChannelGroup], config: Mapping[str, Any], resume: bool
    ) -> list[Trial]:
        """Begin in a new directory, or with ``resume`` go on in one of the same model and settings; the trials so far.

        Lines of the history that are damaged are set aside with a warning, and the trials before them count.

        Raises :class:`SearchError`, having changed nothing: the directory cannot be written, holds a run already,
        holds one of another model or with other settings (those in ``FREE`` may differ), or cannot be read.
        """
        model = {**model, "sizes": {group.name: group.size for group in groups}}
        header: dict[str, Any] = {"format": FORMAT, "model": model, "config": dict(config)}
        if not (self.path / RUN).exists():
            self._refuse_others()
            self.write(RUN, seal(header))
            self._write_plan(groups)
            self._write_config(config)
            return []
        known = self.header()
        for key in header["model"]:
            if known["model"].get(key) != header["model"][key]:
                raise SearchError(
                    f"{self.path} holds a run of another model ({known['model'].get('class')}; its {key} differ): "
                    "choose another run directory"
                )
        if not resume:
            raise SearchError(
                f"{self.path} holds a run of this model already: pass resume=True to go on with it, or "
                "choose another run directory"
            )
        for name, value in header["config"].items():
            if name not in FREE and known["config"].get(name) != value:
                raise SearchError(
                    f"{self.path} was begun with {name}={known['config'].get(name)!r}, not {value!r}: resume with the "
                    "same settings, or choose another run directory"
                )
        trials = self.history(recover=True)
        self._mend_plan(groups)
        self.write(RUN, seal(header))
        self._write_config(config)
        return trials

    def _mend_plan(self, groups: Sequence[ChannelGroup]) -> None:
        """Write the plan of this model again where it is missing (killed before it was written) or damaged."""
        try:
            if self.groups():
                return
        except SearchError as error:
            warnings.warn(f"{error.__cause__ or error}: {self.path / PLAN} is written again", stacklevel=3)
        self._write_plan(groups)

    def _write_plan(self, groups: Sequence[ChannelGroup]) -> None:
        self.write(PLAN, seal({"groups": [dataclasses.asdict(group) for group in groups]}))

    def _write_config(self, config: Mapping[str, Any]) -> None:
        """Write the settings where ``conet-fx search --config`` reads them; what else it says there stays."""
        try:
            known = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8")) or {}
            settings = json.loads(json.dumps({**known, **config}))  # plain values, as YAML needs them
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            known, settings = {}, json.loads(json.dumps(dict(config)))
        if settings != known:
            self.write(CONFIG, yaml.safe_dump(settings, sort_keys=False))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out for a while. Raises :class:`SearchError` where one is in; a process may nest."""
        self._refuse_others()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.resolve() / LOCK, is_singleton=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise SearchError(
                f"{self.path} is in use by {self._owner()}: wait for it to end, or choose another run directory"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if lock.lock_counter == 1:
                self._tidy()
                owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                self.write(OWNER, json.dumps(owner) + "\n")
            yield
        finally:
            if lock.lock_counter == 1:
                (self.path / OWNER).unlink(missing_ok=True)
            lock.release()

    def _refuse_others(self) -> None:
        """Raise SearchError for a directory with files that are named as ours, and are not ours."""
        taken = [name for name in (PLAN, HISTORY, EVALUATIONS, REPORT, FOUND) if (self.path / name).exists()]
        if taken and not (self.path / RUN).exists():
            raise SearchError(f"{self.path} has a {taken[0]} but no {RUN}: choose another run directory")

    def _owner(self) -> str:
        try:
            owner = json.loads((self.path / OWNER).read_text())
            return f"process {owner['process']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _tidy(self) -> None:
        """Remove what writes that were killed have left."""
        for left in [*self.path.glob(".*.partial"), *self.path.glob("*/.*.partial")]:
            left.unlink(missing_ok=True)

    def header(self) -> dict[str, Any]:
        """What ``run.json`` says. Raises :class:`SearchError` where it is missing or damaged."""
        try:
            text = (self.path / RUN).read_text(encoding="utf-8")
            if (found := json.loads(text)["format"]) != FORMAT:
                raise SearchError(f"{self.path / RUN} has format {found}, this version reads {FORMAT}")
            header = unseal(text)
            header["model"]["class"], header["config"]["delta"]
        except FileNotFoundError:
            raise SearchError(f"{self.path} holds no run: there is no {RUN}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchError(f"{self.path / RUN} cannot be read ({type(error).__name__}: {error})") from error
        return header

    def groups(self) -> list[ChannelGroup]:
        """The channel groups of the model that is searched."""

        def group(item: dict[str, Any]) -> ChannelGroup:
            item.update({name: tuple(value) for name, value in item.items() if isinstance(value, list)})
            return ChannelGroup(**item)

        return self._read(PLAN, lambda text: [group(item) for item in unseal(text)["groups"]])

    def history(self, *, recover: bool = False) -> list[Trial]:
        """The finished trials up to a line that is damaged, about which it warns; ``recover`` sets the file aside too.

        Raises :class:`SearchError` where the file cannot be read at all.
        """
        try:
            return self._read(HISTORY, lambda text: read_history(text.splitlines()))
        except SearchError as error:
            if not isinstance(error.__cause__, DamagedLineError):
                raise
            trials, path = error.__cause__.trials, self.path / HISTORY
            kept = ""
            if recover:
                aside = path.with_name(f"{HISTORY}.damaged-{time.time_ns()}")
                os.replace(path, aside)
                self.save_history(trials)
                kept = f"; the damaged file is kept as {aside.name}"
            warnings.warn(
                f"{path} is damaged ({error.__cause__}): going on after trial {len(trials)}, the last good one{kept}",
                stacklevel=2,
            )
            return trials

    def evaluations(self) -> list[Evaluation]:
        """The networks trained to the end."""
        return self._read(
            EVALUATIONS,
            lambda text: [
                Evaluation(**{**item, "accuracies": tuple(item["accuracies"]), "seeds": tuple(item["seeds"])})
                for item in unseal(text)["evaluations"]
            ],
        )

    def save_history(self, trials: Sequence[Trial]) -> None:
        self.write(HISTORY, "".join(trial.to_json() + "\n" for trial in trials))

    def save_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        self.write(EVALUATIONS, seal({"evaluations": [dataclasses.asdict(each) for each in evaluations]}))

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file as a whole: temporary name, fsync, rename. Raises :class:`SearchError` where that fails."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SearchError:
        why = error.strerror or error
        return SearchError(
            f"the run directory {self.path} cannot be written ({why}): choose one that can, or make room"
        )

    def _read(self, name: str, parse: Callable[[str], list[T]]) -> list[T]:
        path = self.path / name
        if not path.exists():
            return []
        try:
            return parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f"{path} is damaged ({type(error).__name__}: {error}): restore it, or choose another run directory"
            ) from error
