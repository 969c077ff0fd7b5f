"""Random numbers that a forward draws, while its graph is recorded."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from conet_fx.errors import TraceError
from conet_fx.passes.lines import user_line


@contextlib.contextmanager
def random_numbers_drawn_anew(record: Callable[..., Any], running: Callable[[], bool]) -> Iterator[None]:
    """Have what draws random numbers recorded, though nothing in its arguments may come from the graph: a network draws
    anew each time. Raise :class:`TraceError` where Python draws them, of which a graph would hold one outcome.

    ``record(function, args, options)`` records a call; ``running()`` tells that modules run for their shapes. What
    other threads draw is none of the model's.
    """
    own = threading.get_ident()

    def left_alone() -> bool:
        return running() or threading.get_ident() != own

    def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return original(*args, **options) if left_alone() else record(original, args, options)

        return call

    def refused(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if left_alone():
                return original(*args, **options)
            raise drawn_in_python(f"{original.__name__} at {user_line()[0]}")

        return call

    places = [(torch, _DRAWS, recorded), (random, _DRAWS_IN_PYTHON, refused), (np.random, _DRAWS_IN_NUMPY, refused)]
    originals = [(place, name, getattr(place, name)) for place, names, _ in places for name in names]
    try:
        for place, names, wrap in places:
            for name in names:
                setattr(place, name, wrap(getattr(place, name)))
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)


def drawn_in_python(what: str) -> TraceError:
    """The error for a model that draws random numbers which its graph would not."""
    return TraceError(
        f"{what} draws random numbers in Python, or into a tensor that is made of no value of the network "
        "(torch.empty(8).bernoulli_(0.5)); a graph would hold one outcome for good. Draw them with torch.rand, "
        "torch.randn or torch.bernoulli, as a factor in place of a branch (torchvision.ops.StochasticDepth), or "
        "analyze the model in eval mode"
    )


States = tuple[Any, Any, torch.Tensor]


def random_states() -> States:
    """Of Python, numpy and torch."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def put_back(states: States) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def same(a: States, b: States) -> bool:
    """Whether nothing was drawn between two moments, or as much as between two others."""
    numpy = all(np.array_equal(one, other) for one, other in zip(a[1], b[1], strict=True))
    return a[0] == b[0] and numpy and torch.equal(a[2], b[2])


_DRAWS = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "rand_like", "randn_like", "randint_like")
_OWN = getattr(random.random, "__self__", None)  # the generator whose methods are the functions of the module
_DRAWS_IN_PYTHON = [
    name
    for name, value in vars(random).items()
    if getattr(value, "__self__", None) is _OWN and name not in ("seed", "getstate", "setstate")
]
_DRAWS_IN_NUMPY = (
    *("beta", "binomial", "choice", "default_rng", "exponential", "gamma", "geometric", "laplace", "lognormal"),
    *("multinomial", "normal", "permutation", "poisson", "rand", "randint", "randn", "random", "random_sample"),
    *("shuffle", "standard_normal", "uniform"),
)
