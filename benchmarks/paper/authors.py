"""The decision rule of the paper's authors, fed with the ranks of our searches: do both decide the same?

:class:`Rule` says what their ``channel_size_adjust_algorithm`` does, in our words, one group at a time;
:class:`Reference` runs that function itself, from a checkout of https://github.com/mahdihosseini/CONet.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Trial


class Decides(Protocol):
    """What keeps the state of all groups from one trial to the next."""

    def step(self, sizes: list[int], ranks: Sequence[Sequence[float]], conditions: Sequence[float]) -> list[int]:
        """The sizes after a trial; ``ranks`` has the mean ranks of each group by epoch."""


@dataclasses.dataclass
class Rule:
    """Their rule for one network. Its slope is divided by 0.0001 epochs more than lie between both ranks."""

    config: SearchConfig
    operations: list[int] = dataclasses.field(default_factory=list)
    factors: list[float] = dataclasses.field(default_factory=list)

    def step(self, sizes: list[int], ranks: Sequence[Sequence[float]], conditions: Sequence[float]) -> list[int]:
        first = not self.operations
        if first:
            self.operations, self.factors = [0] * len(sizes), [self.config.phi] * len(sizes)
        return [self._one(n, size, ranks[n], conditions[n], first) for n, size in enumerate(sizes)]

    def _one(self, n: int, size: int, ranks: Sequence[float], condition: float, first: bool) -> int:
        config, before = self.config, self.operations[n]
        if before == 0 and not first:
            return size
        top = int(np.argmax(ranks))
        low = (ranks[top] - ranks[0]) / (top + 0.0001) < config.delta or condition >= config.mu
        operation = -1 if (low and size > config.min_channels) or size > config.max_channels else 1
        if operation != before and not first:
            if self.factors[n] < config.gamma:
                operation = 0
            self.factors[n] /= 2
        self.operations[n] = operation
        wanted = 2 * round(size * (1 + self.factors[n] * operation) / 2)
        return int(min(max(wanted, config.min_channels), config.max_channels))


class Reference:
    """Their own function, as it is: what it would read from tables on disk and average is handed to it.

    It is the one of the DARTS search. That of the ResNet search has the same rule, and ends at its first trial with a
    TypeError, for it calls ``initialize_algorithm`` with an argument too many.
    """

    def __init__(self, checkout: Path, config: SearchConfig) -> None:
        folder = checkout / "CONet" if (checkout / "CONet").is_dir() else checkout
        if not (folder / "darts_scaling_algorithms.py").is_file():
            raise SystemExit(f"{checkout} is not a checkout of the authors' repository: no darts_scaling_algorithms.py")
        sys.path.insert(0, str(folder))
        try:
            self._theirs: Any = importlib.import_module("darts_scaling_algorithms")
        except ModuleNotFoundError as error:
            raise SystemExit(f"the authors' code needs {error.name}: pip install {error.name}") from error
        self._config = config
        self._operations: Any = []
        self._factors: Any = []

    def step(self, sizes: list[int], ranks: Sequence[Sequence[float]], conditions: Sequence[float]) -> list[int]:
        theirs, config = self._theirs, self._config
        theirs.find_cell_first_conv_idx = theirs.get_cells_type = lambda cells: None
        theirs.get_layer_conv_ranks = theirs.get_layer_mapping = lambda folder, trial: (None, None)
        theirs.get_cell_list_ranks_by_dependency = lambda *_: [[np.array(each) for each in ranks]]
        theirs.get_cell_list_mapping_condition = lambda *_: [list(conditions)]
        theirs.get_sep_conv_list_ranks_by_dependency = theirs.get_sep_conv_list_mapping_condition = lambda *_: []
        cells = [np.array(sizes)]
        found = theirs.channel_size_adjust_algorithm(
            cells,
            [],
            config.delta,
            config.phi,
            config.gamma,
            config.mu,
            config.min_channels,
            config.max_channels,
            None,
            None,
            self._operations,
            self._factors,
            [],
            [],
        )
        self._operations, self._factors = found[3], found[4]
        return [int(size) for size in cells[0]]


def agreement(history: Sequence[Trial], rule: Decides) -> tuple[int, int, str]:
    """How many of all decisions of a search are those of ``rule``, of how many, and the first that is not, in words."""
    same = total = 0
    first = ""
    for trial in history:
        groups = list(trial.groups.values())
        theirs = rule.step([g.size for g in groups], [g.ranks for g in groups], [g.condition for g in groups])
        for (name, group), size in zip(trial.groups.items(), theirs, strict=True):
            total += 1
            same += size == group.next_size
            if size != group.next_size and not first:
                first = f"trial {trial.number}, {name}: {group.next_size} and {size} channels, {group.reason}"
    return same, total, first
