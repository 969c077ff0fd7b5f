"""A small search with every source of random numbers in it, and how to hold two of its results against each other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import conet_fx
from tests.tiny import TinyNet, tiny_data

SETTINGS: dict[str, Any] = {
    "trials": 3,
    "epochs_per_trial": 3,
    "initial_channels": 8,
    "min_channels": 4,
    "lr": 0.05,
    "accelerator": "cpu",
    "checkpoint_seconds": 0.0,
}


class Noisy(nn.Module):
    """TinyNet behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.net = TinyNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.drop(x))


class Augmented(Dataset[Any]):
    """Images with noise of torch, numpy and Python; the last draws normal numbers in pairs, of which it keeps one."""

    def __init__(self) -> None:
        self.data = tiny_data(samples=48)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        shift = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return image + 0.1 * torch.randn(image.shape) + shift, label


def loader(workers: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(Augmented(), batch_size=12, shuffle=True, generator=generator, num_workers=workers)


class Calling:
    """A loader that calls a function with the number of each batch before it hands it out, from 1 over all epochs."""

    def __init__(self, call: Callable[[int], object], workers: int = 0) -> None:
        self.loader, self.call, self.count = loader(workers), call, -1  # the first batch is asked for once, to check it
        self.generator = self.loader.generator

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.count += 1
            self.call(self.count)
            yield batch


def search(batches: Any = None, run_dir: Path | None = None, **settings: Any) -> conet_fx.SearchResult:
    torch.manual_seed(3)
    resume = run_dir is not None
    given = {**SETTINGS, **settings}
    return conet_fx.optimize(
        Noisy(), loader() if batches is None else batches, run_dir=run_dir, resume=resume, progress=False, **given
    )


def fingerprint(result: conet_fx.SearchResult) -> str:
    """All that a result says and holds, but the time that it took."""
    records = [json.loads(trial.to_json()) for trial in result.history]
    for record in records:
        for timed in [record, *record["epochs"]]:
            timed.pop("seconds")
        record.pop("sha256")
    weights = {name: value.tolist() for name, value in result.model.state_dict().items()}
    return json.dumps([records, result.sizes, weights])
