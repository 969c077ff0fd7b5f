"""What a search leaves behind: plain records of every trial, written as JSON lines.

The records hold numbers and names only; the report, the table and a resumed search read nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from conet_fx.probe import LayerMetrics

Action = Literal["expand", "shrink", "stop"]

_SUM, _END = ', "sha256": "', '"}'


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One training epoch of a trial.

    ``loss`` is the mean training loss over samples, ``accuracy`` the training top-1 in [0, 1] (None where targets
    are not class indices), ``learning_rates`` and ``layers`` are keyed by module path, ``seconds`` is wall time.
    """

    number: int
    loss: float
    accuracy: float | None
    learning_rates: Mapping[str, float]
    layers: Mapping[str, LayerMetrics]
    seconds: float

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Epoch:
        """What ``dataclasses.asdict`` made of an epoch."""
        return cls(**{**record, "layers": {path: LayerMetrics(**layer) for path, layer in record["layers"].items()}})


@dataclasses.dataclass(frozen=True)
class GroupTrial:
    """What a trial said of one channel group, and what was decided.

    ``ranks`` has the mean rank of the group for each epoch, or nothing where no layer of it is measured; ``slope`` and
    ``condition`` are S and kappa of the paper (Eq. 2, 3); ``phi`` is the scale factor after the decision; ``reason``
    says in words which threshold acted.
    """

    size: int
    ranks: tuple[float, ...]
    slope: float
    condition: float
    action: Action
    phi: float
    next_size: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Trial:
    """One short training run of one candidate. ``sizes`` and ``groups`` are keyed by group name."""

    number: int
    sizes: Mapping[str, int]
    params: int
    macs: int
    epochs: tuple[Epoch, ...]
    groups: Mapping[str, GroupTrial]
    seconds: float

    @property
    def without_rank(self) -> list[str]:
        """The groups in which the probe found no rank after any epoch: a slope of 0 tells nothing of their size."""
        return [name for name, group in self.groups.items() if group.ranks and not any(group.ranks)]

    def to_json(self) -> str:
        """One line of ``history.jsonl``; it ends in its own checksum."""
        record = json.dumps(dataclasses.asdict(self), allow_nan=False)
        return f"{record[:-1]}{_SUM}{_checksum(record)}{_END}"

    @classmethod
    def from_json(cls, line: str) -> Trial:
        """The record of one line. Raises ``ValueError``, ``KeyError`` or ``TypeError`` on anything else."""
        start, _, checksum = line.strip().rpartition(_SUM)
        text = start + "}"
        if checksum != _checksum(text) + _END:
            raise ValueError("its checksum does not fit")
        record: dict[str, Any] = json.loads(text)
        epochs = tuple(Epoch.from_record(epoch) for epoch in record["epochs"])
        groups = {
            name: GroupTrial(**{**group, "ranks": tuple(group["ranks"])}) for name, group in record["groups"].items()
        }
        return cls(**{**record, "epochs": epochs, "groups": groups})


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A network trained to the end with one recipe and several seeds; ``accuracies`` are test top-1 in [0, 1].

    ``recipe`` says in words how it was trained, beside the ``epochs``.
    """

    label: str
    sizes: Mapping[str, int]
    params: int
    macs: int
    accuracies: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int
    recipe: str = ""


def read_history(lines: Iterable[str]) -> list[Trial]:
    """All trials of ``history.jsonl``, in order. Raises as :meth:`Trial.from_json`, naming the line."""
    trials: list[Trial] = []
    for number, line in enumerate((line for line in lines if line.strip()), start=1):
        try:
            trials.append(Trial.from_json(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedLineError(number, trials, error) from error
    return trials


class DamagedLineError(ValueError):
    """A line of a history that cannot be trusted; ``trials`` are those of the lines before it."""

    def __init__(self, number: int, trials: Sequence[Trial], cause: Exception) -> None:
        super().__init__(f"line {number}: {type(cause).__name__}: {cause}")
        self.trials = list(trials)
