"""The benchmark of exports: what it says of a network that goes every way, and of one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import export, zoo
from benchmarks.export import Row
from tests.tiny import TinyNet


def row_of(model: zoo.Model, monkeypatch: pytest.MonkeyPatch, **options: bool) -> Row:
    monkeypatch.setattr(zoo, "build", lambda entry: model)
    rows: list[Row] = []
    export.examine("any", rows.append, **options)
    return {"network": "zoo/any", **rows[-1]}


def test_a_network_that_goes_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(zoo.Model(TinyNet().eval(), torch.randn(2, 1, 6, 6)), monkeypatch)
    assert {name: row[name] for name in export.CHECKS} == dict.fromkeys(export.CHECKS, "ok")
    assert row["groups"] == 2
    assert export.passed(row)


def test_without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(zoo.Model(TinyNet().eval(), torch.randn(2, 1, 6, 6)), monkeypatch, programs=False)
    assert [export.cell(row, name) for name in export.CHECKS] == ["ok"] * 4 + ["-"] * 2
    assert export.passed(row)


class Deciding(nn.Module):
    """Traced in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x if bool(x.sum() > 0) else -x


def test_a_network_that_keeps_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(zoo.Model(Deciding().eval(), torch.randn(2, 3, 4, 4)), monkeypatch, programs=False)
    assert [export.cell(row, name) for name in export.CHECKS[:4]] == ["ok", "class", "ok", "class"]
    assert export.passed(row)


class Wrong(nn.Module):
    """Neither a recipe nor a program takes it: outputs of a data class, a batch that is spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.out = nn.utils.parametrizations.orthogonal(nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x)).view(2, -1)


def test_a_network_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(zoo.Model(Wrong().eval(), torch.randn(2, 3, 4, 4)), monkeypatch)
    assert "remove the parametrizations" in row["saved"]
    assert row["loaded"] == row["applied"] == row["source"] == "not saved"
    assert "a batch of any size" in row["pt2"]
    assert "a batch of any size" in row["pt2 of torch"]
    assert [export.cell(row, name) for name in export.CHECKS] == ["FAIL"] * 4 + ["torch"] * 2
    assert not export.passed(row)


def row(**changes: Any) -> Row:
    return {"network": "zoo/a", "parameters": 1000, "groups": 2, **dict.fromkeys(export.CHECKS, "ok"), **changes}


def test_the_page(tmp_path: Path) -> None:
    rows = [
        row(),
        row(network="zoo/b", onnx="no form", **{"onnx of torch": "no form"}),
        row(network="zoo/c", source="x"),
    ]
    assert [export.passed(r) for r in rows] == [True, True, False]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{export.BEGIN}old\n{export.END}after\n")
    for _ in range(2):
        export.write_markdown(page, export.markdown_of(rows, "command"))
    text = page.read_text()
    assert text.startswith(f"before\n{export.BEGIN}`command`, ")
    assert text.endswith(f"{export.END}after\n")
    assert "old" not in text
    assert (
        "of 3 networks saved 3, loaded 3, applied 3, source 2, pt2 3, onnx 2; 0 keep their class; 1 failures of" in text
    )
    assert "| zoo/b | 1,000 | 2 | ok | ok | ok | ok | ok | torch |" in text
    assert "* zoo/b: onnx (as the original): no form" in text
    assert "* zoo/c: source: x" in text


@pytest.mark.parametrize("found", [[], [torch.zeros(3)], [torch.zeros(2) + 1e-9]])
def test_outputs_are_the_same_or_not(found: list[Tensor]) -> None:
    export.same([torch.zeros(2)], [torch.zeros(2)])
    with pytest.raises(AssertionError, match="output"):
        export.same(found, [torch.zeros(2)])
