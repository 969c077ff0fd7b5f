"""What a search leaves behind: plain records of every trial, written as JSON lines.

The records hold numbers and names only; the report, the table and a resumed search read nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from conet_fx.probe import LayerMetrics

Action = Literal["expand", "shrink", "stop"]


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


@dataclasses.dataclass(frozen=True)
class GroupTrial:
    """What a trial said of one channel group, and what was decided.

    ``ranks`` has the mean rank of the group for each epoch; ``slope`` and ``condition`` are S and kappa of the paper
    (Eq. 2, 3); ``phi`` is the scale factor after the decision; ``reason`` says in words which threshold acted.
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

    def to_json(self) -> str:
        """One line of ``history.jsonl``."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Trial:
        """The record of one line. Raises ``ValueError``, ``KeyError`` or ``TypeError`` on anything else."""
        record: dict[str, Any] = json.loads(line)
        epochs = tuple(
            Epoch(**{**epoch, "layers": {k: LayerMetrics(**v) for k, v in epoch["layers"].items()}})
            for epoch in record["epochs"]
        )
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
    """All trials of ``history.jsonl``, in order."""
    return [Trial.from_json(line) for line in lines if line.strip()]
