"""The input of every report, and how its numbers are written."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from conet_fx.report.network import Network
from conet_fx.search.history import Evaluation, Trial


@dataclasses.dataclass(frozen=True)
class Run:
    """One search, with the networks that were trained to the end afterwards.

    Attributes:
        model: what was searched, in words; likewise ``data``.
        config: the settings of the search by name; ``delta`` and ``mu`` are drawn as thresholds.
        trials: in the order in which they ran.
        evaluations: the reports know the labels ``found`` (the sizes that the search ended with), ``start``
            (the network as it was handed in) and ``uniform`` (one width in all groups, with as many parameters as
            ``found``); others are listed too. One without accuracies is a network that was not trained, of
            which only the cost is known.
        initial_sizes: the size of each group in the network as it was handed in.
        frozen: why a group keeps its size, by group name.
        groups: the writers (module paths) of every group, frozen ones too, in network order.
        readers: the layers that read it, likewise.
        network: the labelled graph, where it is known.
        advice: reasons to distrust the decisions, each with what to do.
    """

    model: str
    data: str
    config: Mapping[str, Any]
    trials: Sequence[Trial]
    evaluations: Sequence[Evaluation]
    initial_sizes: Mapping[str, int]
    frozen: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    readers: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    network: Network | None = None
    advice: Sequence[str] = ()

    @property
    def free(self) -> list[str]:
        """The groups that the search may resize, in network order."""
        return [name for name in self.groups if name not in self.frozen]

    @property
    def found_sizes(self) -> dict[str, int]:
        """Size of each group at the end: as evaluated, else as the last trial decided, else as it began."""
        found = self.evaluation("found")
        if found:
            decided = dict(found.sizes)
        elif self.trials:
            decided = {name: group.next_size for name, group in self.trials[-1].groups.items()}
        else:
            decided = {}
        return {**self.initial_sizes, **decided}

    @property
    def ended(self) -> bool:
        """Whether the search is over: all groups have stopped, or no further trial may be run."""
        if not self.trials:
            return False
        stopped = all(group.action == "stop" for group in self.trials[-1].groups.values())
        return stopped or len(self.trials) >= self.config.get("trials", 0)

    def evaluation(self, label: str) -> Evaluation | None:
        """The network of that label, or None."""
        return next((evaluation for evaluation in self.evaluations if evaluation.label == label), None)


def count(number: float) -> str:
    """A number of things with three significant digits: 987, 12.3 k, 1.27 M, 4.10 G."""
    for limit, unit in ((999.5e6, "G"), (999.5e3, "M"), (999.5, "k")):
        if number >= limit:
            scaled = number / {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{number:.0f}"


def accuracy(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent: ``95.56 ± 0.12 %``."""
    if not values:
        return "not trained"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} %"


def change(before: float, after: float) -> str:
    """The relative change: ``-72 %``, ``+5 %``, ``±0 %``; a factor above three: ``×4.1``."""
    if before <= 0:
        return ""
    if after > 3 * before:
        return f"×{after / before:.1f}"
    percent = round(100 * (after / before - 1))
    sign = "+" if percent > 0 else "-" if percent < 0 else "±"
    return f"{sign}{abs(percent)} %"


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds: ``2 h 05 min``, ``3 min 20 s``, ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
