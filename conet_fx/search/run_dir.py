"""The run directory: what a search has done so far, on disk, never half-written.

``run.json`` names the model (class, tensor names, group sizes) and the settings; ``plan.json`` lists its channel
groups; ``history.jsonl`` has a line for each finished trial; the networks, evaluations and the report lie beside them.
A trial is the unit of a resume.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from conet_fx.errors import SearchError
from conet_fx.plan import ChannelGroup
from conet_fx.search.history import Evaluation, Trial, read_history

T = TypeVar("T")
FORMAT = 1
RUN, PLAN, HISTORY, EVALUATIONS = "run.json", "plan.json", "history.jsonl", "evaluations.json"
CONFIG, REPORT, FOUND = "config.yaml", "report.html", "found"  # written by the command line


class RunDirectory:
    """A directory that belongs to one search of one model."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: Mapping[str, Any],
        groups: Sequence[ChannelGroup],
        config: Mapping[str, Any],
        resume: bool,
    ) -> tuple[RunDirectory, list[Trial]]:
        """A new directory, or with ``resume`` one that holds a search of the same model with the same settings.

        Raises :class:`SearchError`, having changed nothing: the directory cannot be written, holds a run already,
        holds one of another model or with other settings (``trials`` may differ), or cannot be read.
        """
        run = cls(path)
        model = {**model, "sizes": {group.name: group.size for group in groups}}
        header: dict[str, Any] = {"format": FORMAT, "model": model, "config": dict(config)}
        if not (run.path / RUN).exists():
            taken = [name for name in (PLAN, HISTORY, EVALUATIONS, REPORT, FOUND) if (run.path / name).exists()]
            if taken:
                raise SearchError(f"{run.path} has a {taken[0]} but no {RUN}: choose another run directory")
            run.write(PLAN, json.dumps([dataclasses.asdict(group) for group in groups], indent=1) + "\n")
            run.write(RUN, json.dumps(header, indent=1) + "\n")
            return run, []
        known = run.header()
        for key in header["model"]:
            if known["model"].get(key) != header["model"][key]:
                raise SearchError(
                    f"{run.path} holds a run of another model ({known['model'].get('class')}; its {key} differ): "
                    "choose another run directory"
                )
        if not resume:
            raise SearchError(
                f"{run.path} holds a run of this model already: pass resume=True (--resume) to go on with it, or "
                "choose another run directory"
            )
        for name, value in header["config"].items():
            if name != "trials" and known["config"].get(name) != value:
                raise SearchError(
                    f"{run.path} was begun with {name}={known['config'].get(name)!r}, not {value!r}: resume with the "
                    "same settings, or choose another run directory"
                )
        run.write(RUN, json.dumps(header, indent=1) + "\n")
        return run, run.history()

    def header(self) -> dict[str, Any]:
        """What ``run.json`` says. Raises :class:`SearchError` where it is missing or damaged."""
        try:
            header: dict[str, Any] = json.loads((self.path / RUN).read_text())
            if header["format"] != FORMAT:
                raise SearchError(f"{self.path / RUN} has format {header['format']}, this version reads {FORMAT}")
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

        return self._read(PLAN, lambda text: [group(item) for item in json.loads(text)])

    def history(self) -> list[Trial]:
        """The finished trials. Raises :class:`SearchError` for a damaged file."""
        return self._read(HISTORY, lambda text: read_history(text.splitlines()))

    def evaluations(self) -> list[Evaluation]:
        """The networks trained to the end."""
        return self._read(
            EVALUATIONS,
            lambda text: [
                Evaluation(**{**item, "accuracies": tuple(item["accuracies"]), "seeds": tuple(item["seeds"])})
                for item in json.loads(text)
            ],
        )

    def save_history(self, trials: Sequence[Trial]) -> None:
        self.write(HISTORY, "".join(trial.to_json() + "\n" for trial in trials))

    def save_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        self.write(EVALUATIONS, json.dumps([dataclasses.asdict(e) for e in evaluations], indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole: temporary name, fsync, rename. Raises :class:`SearchError` where that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, self.path / name)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise SearchError(
                f"the run directory {self.path} cannot be written ({error.strerror or error}): choose one that can"
            ) from error

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
