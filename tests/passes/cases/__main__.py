"""Write what the catalogue says into docs/support.md and README.md: ``python -m tests.passes.cases``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.passes.cases import CASES, LINEAR, OUTPUT, Case

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "support.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- support: begin -->", "<!-- support: end -->"

HEAD = """# What is followed

Written by `python -m tests.passes.cases` from the catalogue in `tests/passes/cases/`, which is also a test: each line
is a small network there, whose plan must be this, and on which all invariants are checked (shapes, gradients, costs,
inherited weights).

*may change*: the free channel groups with their sizes, and the steps in which they change where these are not 1; `~`
marks a group over which some operator normalises or reduces, so that inherited weights keep the function only nearly.
*frozen*: the groups that keep their size, and why; the network's own outputs (always frozen) are left out.
"""


def families() -> Mapping[str, list[Case]]:
    """The cases by the module that they stand in, modules in alphabetical order."""
    found: dict[str, list[Case]] = {}
    for case in CASES:
        found.setdefault(case.name.partition("-")[0], []).append(case)
    return dict(sorted(found.items()))


def page() -> str:
    """docs/support.md."""
    lines = [HEAD]
    for family, cases in families().items():
        lines += [f"## {family}", "", _about(family), "", "| construct | may change | frozen |", "| --- | --- | --- |"]
        lines += (f"| {_construct(case)} | {_free(case)} | {_frozen(case)} |" for case in cases)
        lines.append("")
    return "\n".join(lines)


def summary() -> str:
    """The table in README.md: constructs a family, and in how many of them only outputs and linear layers stay."""
    lines = ["| family | constructs | followed | what |", "| --- | --- | --- | --- |"]
    for family, cases in families().items():
        followed = sum(all(reason == LINEAR for _, reason in _reasons(case)) for case in cases)
        lines.append(f"| [{family}](docs/support.md#{family}) | {len(cases)} | {followed} | {_about(family)} |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """The text of README.md with the present table between its markers. Raises ``ValueError`` without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{summary()}\n{END}{after}"


def _about(family: str) -> str:
    module = importlib.import_module(f"tests.passes.cases.{family}")
    return _first_paragraph(module.__doc__)


def _first_paragraph(doc: str | None) -> str:
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split()).replace("|", "\\|").replace("``", "`")


def _construct(case: Case) -> str:
    name = case.name.partition("-")[2].replace("_", " ")
    options = ", ".join(f"`{option}={value}`" for option, value in case.options.items())
    about = _first_paragraph(case.build.__doc__)
    return f"**{name}**" + (f" ({options})" if options else "") + (f": {about}" if about else "")


def _free(case: Case) -> str:
    groups = []
    for name, (size, quantum) in case.free.items():
        steps = f" by {quantum}" if quantum > 1 else ""
        groups.append(f"`{name}` {size}{steps}{' ~' if name in case.mixed else ''}")
    return ", ".join(groups) or "nothing"


def _frozen(case: Case) -> str:
    return "; ".join(f"`{name}`: {reason}" for name, reason in _reasons(case)).replace("|", "\\|")


def _reasons(case: Case) -> list[tuple[str, str]]:
    return [(name, reason) for name, reason in case.frozen.items() if reason != OUTPUT]


def stale() -> Iterator[Path]:
    """The files that do not say what the catalogue says."""
    if not PAGE.exists() or PAGE.read_text() != page():
        yield PAGE
    if README.read_text() != readme(README.read_text()):
        yield README


def main() -> None:
    PAGE.write_text(page())
    README.write_text(readme(README.read_text()))


if __name__ == "__main__":
    main()
