"""The support tables are those of the catalogue."""

from __future__ import annotations

import pytest

from tests.passes.cases import CASES
from tests.passes.cases.__main__ import README, page, readme, stale, summary


def test_the_tables_are_current() -> None:
    paths = [path.name for path in stale()]
    assert not paths, f"{' and '.join(paths)}: run python -m tests.passes.cases"


def test_every_case_is_there() -> None:
    assert sum(line.startswith("| **") for line in page().splitlines()) == len(CASES)
    assert sum(int(line.split("|")[2]) for line in summary().splitlines()[2:]) == len(CASES)


def test_only_the_table_is_replaced() -> None:
    text = README.read_text()
    before, _, rest = text.partition(summary())
    assert readme(f"{before}| old | table |{rest}") == text
    with pytest.raises(ValueError, match=r"README.md has no markers"):
        readme("no markers")
