"""The examples in docs/ run as they stand: all Python blocks of a page, one after the other."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from conet_fx.passes import custom, ops

DOCS = Path(__file__).parents[1] / "docs"
TABLES = (ops.FUNCTIONS, ops.METHODS, ops.MODULES, custom.FUNCTIONS, custom.CLASSES)


@pytest.mark.parametrize("page", ["operators.md", "fx.md", "probe.md", "search.md", "ship.md", "export.md"])
def test_examples(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where examples save what they made
    text = (DOCS / page).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 2
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    before = [table.copy() for table in TABLES]
    try:
        for block in blocks:
            lines_before = text.count("\n", 0, block.start(1))
            code = compile("\n" * lines_before + block.group(1), str(DOCS / page), "exec")
            exec(code, vars(module))
        for shown in re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):  # as a file has it
            assert any(shown in written.read_text() for written in tmp_path.glob("*.py"))
    finally:
        for table, old in zip(TABLES, before, strict=True):
            table.clear()
            table.update(old)  # type: ignore[arg-type]
