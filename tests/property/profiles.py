"""How many examples the property tests draw: ``HYPOTHESIS_PROFILE=thorough`` for a night, else the few of CI.

CI draws the same examples every time; thorough ones are new each time, and a failure prints how to repeat it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, assume, settings

_ALWAYS: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=50, derandomize=True, **_ALWAYS)
settings.register_profile("thorough", max_examples=2_000, print_blob=True, **_ALWAYS)

EXAMPLES = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
MOST_LEFT_OUT = 0.1  # of the examples of one property


class Examples:
    """Counts the examples that a property says nothing about, so that they stay few."""

    tried = left_out = 0

    @classmethod
    def leave_out(cls, condition: bool) -> None:
        """Give up this example where ``condition`` holds."""
        cls.tried += 1
        cls.left_out += condition
        assume(not condition)


def few_left_out(test: Callable[[], None]) -> Callable[[], None]:
    """A property that fails where more than a few of its examples are left out."""

    @functools.wraps(test)
    def run() -> None:
        Examples.tried = Examples.left_out = 0
        test()
        assert Examples.left_out <= MOST_LEFT_OUT * Examples.tried, f"{Examples.left_out} of {Examples.tried}"

    return run
