"""The code of the paper's authors, from a checkout, as it is."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conet_fx.probe import probed_layers


class Authors:
    """`Metrics` and `EVBMF` of https://github.com/mahdihosseini/CONet."""

    def __init__(self, checkout: Path) -> None:
        folder = checkout / "CONet" if (checkout / "CONet").is_dir() else checkout
        if not (folder / "metrics.py").is_file():
            sys.exit(f"{checkout} is not a checkout of the authors' repository: no metrics.py in it")
        sys.path.insert(0, str(folder))
        self.metrics: Any = importlib.import_module("metrics")
        self.vbmf: Any = importlib.import_module("VBMF")

    def evaluate(self, model: nn.Module) -> Any:
        """What they measure of all convs of a model after its first epoch."""
        return self.metrics.Metrics([layer.weight for layer in probed_layers(model).values()], 1).evaluate(0)

    def rank(self, matrix: Tensor) -> int | None:
        """Values that their EVBMF keeps; None where it raises, for which their `Metrics` records rank 0."""
        try:
            return int(self.vbmf.EVBMF(matrix)[1].shape[0])
        except Exception:  # as they do
            return None

    def noise_and_energy(self, matrix: Tensor, noise: float) -> tuple[float, float, float]:
        """The noise variance that they settle on, their free energy there, and the one at `noise`."""
        minimize, found = self.vbmf.minimize_scalar, []

        def recorded(*args: Any, **kwargs: Any) -> Any:
            found.append(minimize(*args, **kwargs))
            return found[-1]

        self.vbmf.minimize_scalar = recorded
        try:
            self.vbmf.EVBMF(matrix)
        finally:
            self.vbmf.minimize_scalar = minimize
        rows, columns = matrix.shape
        alpha = rows / columns
        tau = 2.5129 * alpha**0.5
        singular = torch.linalg.svdvals(matrix.double()).numpy()
        theirs = float(found[-1].x)

        def energy(s2: float) -> float:
            return float(self.vbmf.EVBsigma2(s2, rows, columns, singular, 0.0, (1 + tau) * (1 + alpha / tau)))

        return theirs, energy(theirs), energy(noise)
