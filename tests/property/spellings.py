"""Every spelling of an operator: ``torch.abs(x)``, ``x.abs()``, ``x.abs_()``, ``torch.abs_(x)``, ``F.relu_(x)``.

Tables of element-wise functions, of reductions and of what moves along a dim, for the operators of
:mod:`tests.property.networks`. A new name is one word in a line; the spellings that torch has follow by themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Run = Callable[..., Any]

POSITIVE = "positive"  # between 0.5 and 1.5
SHARE = "share"  # between 0.1 and 0.9
LARGE = "large"  # above 1
WHOLE = "whole"  # integers from 1 to 3
BOOL = "bool"
DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    POSITIVE: lambda x: torch.tanh(x) * 0.5 + 1.0,
    SHARE: lambda x: torch.tanh(x) * 0.4 + 0.5,
    LARGE: lambda x: torch.tanh(x) * 0.5 + 2.0,
    WHOLE: lambda x: (torch.tanh(x) + 2.0).round().long(),
    BOOL: lambda x: x > 0.0,
}


def spellings(name: str, *more: Any, first: tuple[Any, ...] = ()) -> Iterator[tuple[str, Run]]:
    """All ways to call ``name`` on operands, then ``more``; ``first`` come before the operands of a function."""
    for owner in (torch, F):
        for ending in ("", "_"):
            function = getattr(owner, name + ending, None)
            if callable(function) and not (owner is F and function is getattr(torch, name + ending, None)):
                label = "torch" if owner is torch else "F"
                yield f"{label}.{name}{ending}", _function(function, ending, first, more)
    for ending in ("", "_"):
        if hasattr(Tensor, name + ending):
            yield name + ending, _method(name + ending, ending, (*first, *more))


def _function(function: Run, ending: str, first: tuple[Any, ...], more: tuple[Any, ...]) -> Run:
    return lambda x, *others, **options: function(*first, x.clone() if ending else x, *others, *more, **options)


def _method(name: str, ending: str, more: tuple[Any, ...]) -> Run:
    return lambda x, *others, **options: getattr(x.clone() if ending else x, name)(*others, *more, **options)


def table(domain: str, names: str, *more: Any, **given: Any) -> dict[str, tuple[str, Run]]:
    """label -> (domain, function) for all spellings of all names."""
    return {label: (domain, run) for name in names.split() for label, run in spellings(name, *more, **given)}


# of one value
UNARY: dict[str, tuple[str, Run]] = {
    **table(
        POSITIVE,
        "abs absolute angle arcsinh arctan asinh atan ceil celu conj conj_physical cos cosh deg2rad detach digamma elu "
        "erf erfc exp exp2 expm1 fix floor frac gelu hardshrink hardsigmoid hardswish hardtanh i0 isfinite isinf isnan "
        "isneginf isposinf isreal leaky_relu lgamma log log10 log1p log2 logical_not logsigmoid mish nan_to_num neg "
        "negative positive rad2deg reciprocal relu relu6 resolve_conj resolve_neg round rsqrt selu sgn sigmoid sign "
        "signbit silu clone sin sinc sinh softplus softshrink softsign sqrt square tan tanh tanhshrink trunc byte char "
        "short",
    ),
    **table(SHARE, "acos arccos arcsin arctanh asin atanh erfinv logit bernoulli"),
    **table(LARGE, "acosh arccosh"),
    **table(LARGE, "mvlgamma", 1),
    **table(LARGE, "polygamma", first=(1,)),
    **table(POSITIVE, "clamp clip", 0.6, 1.4),
    **table(POSITIVE, "clamp_min clamp_max", 1.0),
    **table(POSITIVE, "threshold", 0.7, 0.1),
    **table(POSITIVE, "dropout alpha_dropout feature_dropout feature_alpha_dropout", 0.5, False),
    **table(WHOLE, "bitwise_not"),
    **{name: (POSITIVE, _method(name, "_", ())) for name in
       ("cauchy_", "exponential_", "log_normal_", "normal_", "uniform_", "random_")},
    "geometric_": (POSITIVE, _method("geometric_", "_", (0.5,))),
    "bernoulli_": (POSITIVE, _method("bernoulli_", "_", (0.5,))),
    "torch.rrelu": (POSITIVE, lambda x: torch.rrelu(x, training=False)),
    "F.rrelu_": (POSITIVE, lambda x: F.rrelu_(x.clone(), training=False)),
    "polygamma": (LARGE, lambda x: x.polygamma(1)),
    "polygamma_": (LARGE, lambda x: x.clone().polygamma_(1)),
    "torch.randint_like": (POSITIVE, lambda x: torch.randint_like(x, 3)),
    **{name: (POSITIVE, lambda x, name=name: torch.real(getattr(x, name)())) for name in ("cdouble", "cfloat")},
    "torch.real": (POSITIVE, lambda x: torch.real(torch.complex(x, x))),
    "torch.imag": (POSITIVE, lambda x: torch.imag(torch.polar(x, x))),
    "view_as_real": (POSITIVE, lambda x: torch.view_as_complex(torch.view_as_real(x.cdouble())).real),
}  # fmt: skip
for _random in ("cauchy_", "exponential_", "log_normal_", "normal_", "uniform_", "random_", "geometric_", "bernoulli_",
                "bernoulli", "torch.bernoulli", "torch.randint_like"):  # fmt: skip
    UNARY[_random] = (UNARY[_random][0], lambda x, run=UNARY[_random][1]: run(x).nan_to_num(0.0, 0.0, 0.0) * 0.0)

# of two values
BINARY: dict[str, tuple[str, Run]] = {
    **table(
        POSITIVE,
        "add arctan2 atan2 copysign div divide eq float_power floor_divide fmax fmin fmod ge greater greater_equal gt "
        "heaviside hypot igamma igammac isclose le less less_equal logaddexp logaddexp2 logical_and logical_or "
        "logical_xor lt maximum minimum mul multiply ne nextafter not_equal pow remainder sub subtract true_divide "
        "xlogy",
    ),
    **table(POSITIVE, "lerp", 0.25),
    **table(POSITIVE, "ldexp"),
    **table(WHOLE, "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm"),
    "operator.xor": (BOOL, operator.xor),
    "torch.addcdiv": (POSITIVE, lambda x, y: torch.addcdiv(x, x, y)),
    "addcdiv": (POSITIVE, lambda x, y: x.addcdiv(x, y)),
    "addcdiv_": (POSITIVE, lambda x, y: x.clone().addcdiv_(x, y)),
    "addcmul_": (POSITIVE, lambda x, y: x.clone().addcmul_(x, y)),
    "torch.masked_fill": (POSITIVE, lambda x, y: torch.masked_fill(x, y > 1.0, 0.5)),
}

# give the values and something else
PAIRS = {
    "aminmax", "cummax", "cummin", "max", "median", "min", "mode", "nanmedian", "sort", "std_mean", "topk", "var_mean",
}  # fmt: skip
# over one dim, to length 1: called with the dim and keepdim=True; a pair gives its first
REDUCTIONS: dict[str, Run] = {
    **{label: run for name in
       ("amax", "amin", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean", "median", "min", "mode",
        "nanmean", "nanmedian", "nansum", "prod", "std", "std_mean", "sum", "var", "var_mean", "quantile",
        "nanquantile", "aminmax", "any", "all", "norm")
       for label, run in spellings(name)},
    "torch.linalg.norm": torch.linalg.norm,
    "torch.linalg.vector_norm": torch.linalg.vector_norm,
}  # fmt: skip


def reduced(label: str, x: Tensor, dim: int) -> Tensor:
    """The reduction ``label`` over ``dim``, which keeps length 1."""
    name = label.rpartition(".")[2]
    if name in ("quantile", "nanquantile"):
        found = REDUCTIONS[label](x, 0.5, dim=dim, keepdim=True)
    elif name == "count_nonzero":
        found = REDUCTIONS[label](x, dim=dim).unsqueeze(dim)
    elif name == "aminmax":
        found = REDUCTIONS[label](x, dim=dim, keepdim=True)
    elif name in ("std", "var", "std_mean", "var_mean"):
        found = REDUCTIONS[label](x, dim=dim, unbiased=False, keepdim=True)
    elif label == "torch.norm":
        found = torch.norm(x, 2, dim, True)
    else:
        found = REDUCTIONS[label](x > 0.0 if name in ("any", "all") else x, dim=dim, keepdim=True)
    return found[0] if name in PAIRS else found


def _over(function: Run) -> Run:
    return lambda x, dim: function(x, dim=[dim])


def _scattered(function: Run, by_rows: bool, reduces: bool, fills: bool) -> Run:
    """A function that puts the values of a map at the opposite end of a dim."""

    def run(x: Tensor, dim: int) -> Tensor:
        index = torch.arange(x.shape[dim]).flip(0)
        if not by_rows:
            index = index.view([-1 if d == dim else 1 for d in range(x.ndim)]).expand(x.shape)
        values = (x.clone(), dim, index, 0.5 if fills else x * 0.5)
        found: Tensor = function(*values, "amax") if reduces else function(*values)
        return found

    return run


# along one dim, of the same length
ALONG: dict[str, Run] = {
    **{label: run for name in ("argsort", "cummax", "cummin", "cumprod", "cumsum", "logcumsumexp", "sort")
       for label, run in spellings(name)},
    **{f"fft.{name}": getattr(torch.fft, name) for name in ("fft", "ifft")},
    "fft.rfft": lambda x, dim: torch.fft.irfft(torch.fft.rfft(x, dim=dim), n=x.shape[dim], dim=dim),
    "fft.hfft": lambda x, dim: torch.fft.hfft(torch.fft.ihfft(x, dim=dim), n=x.shape[dim], dim=dim),
    **{f"fft.{name}": _over(getattr(torch.fft, name)) for name in ("fft2", "fftn", "ifft2", "ifftn")},
    "fft.rfftn": lambda x, dim: torch.fft.irfftn(torch.fft.rfftn(x, dim=[dim]), s=[x.shape[dim]], dim=[dim]),
    "fft.rfft2": lambda x, dim: torch.fft.irfft2(torch.fft.rfft2(x, dim=[dim]), s=[x.shape[dim]], dim=[dim]),
    "fft.hfftn": lambda x, dim: torch.fft.hfftn(torch.fft.ihfftn(x, dim=[dim]), s=[x.shape[dim]], dim=[dim]),
    "fft.hfft2": lambda x, dim: torch.fft.hfft2(torch.fft.ihfft2(x, dim=[dim]), s=[x.shape[dim]], dim=[dim]),
    "fft.fftshift": lambda x, dim: torch.fft.ifftshift(torch.fft.fftshift(x, dim=dim), dim=dim),
    "gumbel_softmax": lambda x, dim: F.gumbel_softmax(x, dim=dim) * 0.0,
    "F.glu": lambda x, dim: F.glu(torch.cat([x, x], dim), dim),
    "topk": lambda x, dim: x.topk(x.shape[dim], dim=dim),
    "torch.topk": lambda x, dim: torch.topk(x, x.shape[dim], dim=dim),
    "take_along_dim": lambda x, dim: x.take_along_dim(x.argsort(dim), dim),
    "torch.take_along_dim": lambda x, dim: torch.take_along_dim(x, x.argsort(dim), dim),
    "gather": lambda x, dim: x.gather(dim, x.argsort(dim)),
    "torch.gather": lambda x, dim: torch.gather(x, dim, x.argsort(dim)),
    **{label: _scattered(run, name.startswith("index_"), "reduce" in name, "fill" in name) for name in
       ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce")
       for label, run in spellings(name)},
    "diff": lambda x, dim: torch.cat([x.narrow(dim, 0, 1), x.diff(dim=dim)], dim),
    "torch.diff": lambda x, dim: torch.cat([torch.diff(x, dim=dim), x.narrow(dim, 0, 1)], dim),
    "repeat_interleave": lambda x, dim: x.repeat_interleave(2, dim).unflatten(dim, (-1, 2)).sum(dim + 1),
    "torch.repeat_interleave": lambda x, dim: (
        torch.repeat_interleave(x, 2, dim=dim).unflatten(dim, (-1, 2)).sum(dim + 1)
    ),
    "roll": lambda x, dim: x.roll(1, dim),
    "index_select": lambda x, dim: x.index_select(dim, torch.arange(x.shape[dim])),
    "torch.index_select": lambda x, dim: torch.index_select(x, dim, torch.arange(x.shape[dim])),
    "torch.flip": lambda x, dim: torch.flip(x, [dim]),
}  # fmt: skip


def along(label: str, x: Tensor, dim: int) -> Tensor:
    """The operator ``label`` along ``dim``; of a pair the first, of a complex number the real part."""
    found = ALONG[label](x, dim=dim)
    found = found[0] if label.rpartition(".")[2] in PAIRS else found
    return torch.real(found) if label.startswith("fft.") else found
