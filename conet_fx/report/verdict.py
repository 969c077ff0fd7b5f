"""Was the search worth it? The found network against a uniform one with as many parameters."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from scipy import stats

from conet_fx.report.run import Run, accuracy, change, count

Outcome = Literal["better", "worse", "unclear", "unknown"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the comparison came to, and the sentence that says so."""

    outcome: Outcome
    text: str


def verdict(run: Run) -> str:
    """One plain sentence on the found network against the uniform one."""
    return judge(run).text


def judge(run: Run) -> Verdict:
    """``better`` and ``worse`` need a 95 % confidence interval of the difference that leaves out zero."""
    found, uniform = run.evaluation("found"), run.evaluation("uniform")
    if found is None or uniform is None or not found.accuracies or not uniform.accuracies:
        return Verdict(
            "unknown",
            "Not judged yet: the found network and a uniform one of equal size have not both been trained to the end.",
        )
    size = "equal size"
    if abs(uniform.params / found.params - 1) > 0.02:
        size = f"nearly equal size ({change(found.params, uniform.params)} parameters)"
    versus = f"{accuracy(found.accuracies)} against {accuracy(uniform.accuracies)} test accuracy"
    seeds = min(len(found.accuracies), len(uniform.accuracies))
    if seeds < 2:
        return Verdict(
            "unclear",
            f"The found network is not shown to be better than the uniform one of {size}: {versus}, "
            "and a single seed cannot tell a difference from noise.",
        )
    low, high = difference(found.accuracies, uniform.accuracies)
    gain = statistics.fmean(found.accuracies) - statistics.fmean(uniform.accuracies)
    evidence = (
        f"{versus}, a difference of {points(gain)} points "
        f"(95 % interval {points(low)} to {points(high)}, {seeds} seeds)."
    )
    if abs(found.macs / uniform.macs - 1) > 0.1:
        evidence += f" It takes {count(found.macs)} MACs an image, the uniform one {count(uniform.macs)}."
    if low > 0:
        return Verdict("better", f"The found network is better than the uniform one of {size}: {evidence}")
    if high < 0:
        return Verdict("worse", f"The found network is worse than the uniform one of {size}: {evidence}")
    return Verdict(
        "unclear",
        f"No clear difference: the found network is not better than the uniform one of {size} "
        f"beyond the noise between seeds: {evidence}",
    )


def difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Welch's confidence interval of mean(first) - mean(second); at least two values each."""
    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    centre = statistics.fmean(first) - statistics.fmean(second)
    if not any(errors):
        return centre, centre
    spread = sum(error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True))
    freedom = sum(errors) ** 2 / spread
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(sum(errors))
    return centre - half, centre + half


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign: ``+0.31``."""
    return f"{100 * value:+.2f}"
