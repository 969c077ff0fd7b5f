"""What is foreseen is what torch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conet_fx.passes.foreseen import _RULES, foreseen
from conet_fx.passes.shapes import to_meta

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=5)
LIKE = [nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid]


def weight(*shape: int) -> Tensor:
    return torch.zeros(shape)


def calls(x: Tensor) -> list[tuple[Any, tuple[Any, ...]]]:
    """Calls of everything that has a rule, with ``x`` among the arguments."""
    last, dims, channels = x.shape[-1], x.dim(), x.shape[1] if x.dim() > 1 else 1
    norms = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    found: list[tuple[Any, tuple[Any, ...]]] = [(layer(), (x,)) for layer in LIKE]
    found += [(F.gelu, (x,)), (F.silu, (x,))]
    found += [(nn.LayerNorm(x.shape[-k:], elementwise_affine=k % 2 > 0), (x,)) for k in range(1, dims + 1)]
    found += [(F.layer_norm, (x, x.shape[-1:])), (F.layer_norm, (x, (last,), weight(last), weight(last), 1e-6))]
    found += [(nn.Linear(last, 3, bias=bias), (x,)) for bias in (True, False)]
    found += [(F.linear, (x, weight(2, last))), (F.linear, (x, weight(2, last), weight(2)))]
    found += [(torch.cat, ([x] * count, dim)) for count in (1, 2, 3) for dim in range(-dims, dims)]
    if dims in norms:
        found += [(norms[dims](channels), (x,)), (norms[dims](channels, affine=False).eval(), (x,))]
    return found


def on_meta(call: tuple[Any, tuple[Any, ...]]) -> tuple[Any, tuple[Any, ...]]:
    target, args = call
    moved = [[to_meta(a) for a in arg] if isinstance(arg, list) else to_meta(arg) for arg in args]
    return target.to("meta") if isinstance(target, nn.Module) else target, tuple(moved)


def looks(t: Tensor) -> tuple[Any, ...]:
    return t.shape, t.stride(), t.dtype


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([torch.float32, torch.float64]))
def test_what_is_foreseen_is_what_torch_gives(sizes: list[int], dtype: torch.dtype) -> None:
    told = 0
    for target, args in calls(torch.zeros(sizes, dtype=dtype)):
        try:
            with torch.no_grad():
                real = target(*args)
        except (RuntimeError, ValueError):
            real = None  # weights of another type, a batch norm of one value
        found = foreseen(*on_meta((target, args)))
        if found is not None:
            told += 1
            assert found.is_meta
            assert real is not None
            assert looks(found) == looks(real), (target, sizes)
    assert told > len(LIKE)


def test_everything_with_a_rule_is_foreseen() -> None:
    seen = {
        type(target) if isinstance(target, nn.Module) else target
        for x in map(torch.zeros, [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
        for target, args in map(on_meta, calls(x))
        if foreseen(target, args) is not None
    }
    assert seen == set(_RULES)


X = torch.zeros(2, 6, 4, 4)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (nn.BatchNorm2d(5), (X,)),
        (nn.BatchNorm2d(6), (X[0],)),
        (nn.BatchNorm2d(6).double(), (X,)),
        (nn.BatchNorm1d(6), (torch.zeros(1, 6),)),
        (nn.LayerNorm(6), (X,)),
        (nn.LayerNorm(4).double(), (X,)),
        (F.layer_norm, (X, (4,), weight(3))),
        (nn.LayerNorm(4), (X.long(),)),
        (nn.Linear(6, 3), (X,)),
        (nn.Linear(4, 3).double(), (X,)),
        (F.linear, (X, weight(3, 4), weight(2))),
        (F.linear, (X, weight(4))),
        (nn.Linear(4, 3), (torch.zeros(4),)),
        (nn.ReLU(), (X.long(),)),
        (nn.GELU(), (X.transpose(1, 2),)),
        (nn.GELU(), (X.to(memory_format=torch.channels_last),)),
        (nn.GELU(), (torch.zeros(0, 3),)),
        (nn.ReLU(), ([X],)),
        (torch.cat, ([X, X.double()], 1)),
        (torch.cat, ([X, X[:, :, 1:]], 1)),
        (torch.cat, ([X, X[0]], 0)),
        (torch.cat, ([X, torch.zeros(0)], 1)),
        (torch.cat, ([X, X], 4)),
        (torch.cat, ([], 1)),
        (torch.cat, (X, 1)),
        (torch.cat, ([X, X.to(memory_format=torch.channels_last)], 1)),
        (nn.Conv2d(6, 3, 1), (X,)),
        (torch.relu, (X,)),
    ],
)
def test_the_rest_is_left_to_torch(target: Any, args: tuple[Any, ...]) -> None:
    assert foreseen(*on_meta((target, args))) is None
