"""Everything that a search draws random numbers from: kept, put back, and seeded."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

_NO_GAUSS = float("nan")  # Python keeps None where it has no second normal number in store


@dataclasses.dataclass(frozen=True)
class RandomState:
    """The states of all generators at one moment, as tensors on the CPU by name, so that they can be written down.

    Those of Python, numpy and torch, of one CUDA device, and the loader's own (see :func:`generators`).
    """

    states: Mapping[str, Tensor]

    @classmethod
    def capture(cls, loader: Any, device: torch.device | None = None) -> Self:
        """The present states. ``device``: a CUDA device whose generator counts, or any other, which has none."""
        _, words, gauss = random.getstate()
        legacy: Any = np.random.get_state()
        _, keys, position, has_gauss, cached = legacy
        states = {
            "python": torch.tensor(words),
            "python_gauss": torch.tensor(_NO_GAUSS if gauss is None else gauss, dtype=torch.float64),
            "numpy": torch.from_numpy(keys.astype(np.int64)),
            "numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
            "torch": torch.get_rng_state(),
        }
        if device is not None and device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        for number, generator in enumerate(generators(loader)):
            states[f"loader.{number}"] = generator.get_state()
        return cls(states)

    def restore(self, loader: Any, device: torch.device | None = None) -> None:
        """Put all generators into these states. Raises ``ValueError`` where they are not those of such a loader."""
        states = self.states
        own = generators(loader)
        if [name for name in states if name.startswith("loader.")] != [f"loader.{n}" for n in range(len(own))]:
            raise ValueError(f"the loader has {len(own)} generators of its own, the random state is of another loader")
        gauss = float(states["python_gauss"])
        random.setstate((3, tuple(states["python"].tolist()), None if gauss != gauss else gauss))
        position, has_gauss, cached = states["numpy_rest"].tolist()
        keys = states["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
        torch.set_rng_state(states["torch"])
        if device is not None and device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], device)
        for number, generator in enumerate(own):
            generator.set_state(states[f"loader.{number}"])


def generators(loader: Any) -> list[torch.Generator]:
    """The random generators that a loader and its samplers hold."""
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


@contextlib.contextmanager
def reproducible(loader: Any, device: torch.device | None = None) -> Iterator[None]:
    """Put all random states back at the end."""
    before = RandomState.capture(loader, device)
    try:
        yield
    finally:
        before.restore(loader, device)


def seed_everything(seed: int, number: int, loader: Any, rank: int = 0) -> None:
    """Seed all generators for trial ``number``, so that it does not depend on the trials before.

    Processes of another ``rank`` draw other numbers, but from the loader's own generators, which shuffle for all.
    """
    word = _word(seed, number)
    for generator in generators(loader):
        generator.manual_seed(word)
    word = _word(seed, number, rank) if rank else word
    random.seed(word)
    np.random.seed(word)
    torch.manual_seed(word)


def _word(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
