"""Methods that differ in numbers alone are one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conet_fx
from conet_fx.export.numbers import numbers_in, with_numbers, without_numbers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("y = x.reshape(shape[0], -1, 3, 65)", [("0", "size"), ("1", "size"), ("3", "size"), ("65", "size")]),
        ("    y = y.bernoulli_(0.98)", [("0.98", "factor")]),
        ("y = F.dropout(y, p=0.1, training=self.training)", [("0.1", "p")]),
        ("y = self.layers[3](x, 2)", [("2", "size")]),
        ("y = self.part.layers[10].conv2(x)", []),
        ("y = y.permute(0, 2, 1).transpose(1, 2).flatten((1))", []),
        ("y = torch.permute(x, [0, 2, 3, 1])", []),
        ("y = y.mean(dim=1) + y.unflatten(1, (4, 6))", [("1", "size"), ("4", "size"), ("6", "size")]),
        ('y = torch.einsum("n2,3c->4", x1, x2)', []),
        ("if self.training:", []),
        ("y += 1e-06", [("1e-06", "factor")]),
    ],
)
def test_numbers_of_a_line(line: str, expected: list[tuple[str, str]]) -> None:
    found = list(numbers_in(line))
    assert [(number.text, number.name) for number in found] == expected
    assert [line[number.start : number.end] for number in found] == [number.text for number in found]
    assert with_numbers(line, iter(number.text for number in found)) == line
    assert without_numbers([line]) == [with_numbers(line, iter("_" * len(found)))]


class Heads(nn.Module):
    """Attention whose widths are spelt out."""

    def __init__(self, channels: int, heads: int, width: int, scale: float) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(channels, 3 * heads * width), nn.Linear(heads * width, channels)
        self.heads, self.width, self.scale = heads, width, scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return x + self.project(y.transpose(1, 2).reshape(x.shape[0], -1, self.heads * self.width))


class Size(nn.Module):
    """Has a part, a buffer and a list with names that parameters would have."""

    def __init__(self, width: int, times: float) -> None:
        super().__init__()
        self.size, self.out_features = nn.Linear(6, width), nn.Linear(width, 6)
        self.register_buffer("factor", torch.ones(1))
        self.width, self.times = width, times

    def forward(self, x: Tensor) -> Tensor:
        y = self.size(x).view(x.shape[0], -1, self.width)
        return x + self.out_features(y * self.times) * self.factor


class Twice(nn.Module):
    """Nothing but numbers."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x * self.times if self.training else x


def written(model: nn.Module, example: Tensor, sizes: dict[str, int], folder: Path) -> tuple[str, nn.Module, nn.Module]:
    plan = conet_fx.analyze(model, example, resize_linear=True)
    resized = plan.resize(sizes)
    conet_fx.save(resized, plan, folder)
    source = Path(conet_fx.export(folder, folder / "network.py", example_inputs=example)).read_text()
    space: dict[str, Any] = {}
    exec(source, space)
    network = space[type(model).__name__]()
    network.load_state_dict(resized.state_dict())
    for training in (True, False):
        assert torch.equal(network.train(training)(example), resized.train(training)(example))
    return source, network, resized


def test_attention_of_several_widths_is_one_class(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 6), *(Heads(6, 2, 4, 4**-0.5) for _ in range(3)), nn.Linear(6, 3))
    source, _, _ = written(model, torch.randn(2, 7, 5), {"1.qkv": 12, "2.qkv": 18, "0": 9}, tmp_path)
    assert re.findall(r"^class (\w+)", source, re.MULTILINE) == ["Block", "Sequential"]
    assert source.count("self.size = size") == 1


def test_parameters_are_not_named_like_parts(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 6), Size(4, 2.5), Size(5, 0.5), Twice(0.5), Twice(1.5), nn.Linear(6, 3))
    source, network, _ = written(model, torch.randn(2, 7, 5), {"1.size": 7}, tmp_path)
    assert re.findall(r"^class (\w+)", source, re.MULTILINE) == ["Block", "Block2", "Sequential"]
    assert isinstance(network.get_submodule("1.size"), nn.Linear)
    assert source.count("super().__init__()") == 2
