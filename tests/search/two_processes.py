"""What each process of a search does: started by torchrun, or alone.

    python -m tests.search.two_processes DIR [--interrupt N]

Writes what the process found to DIR/result-RANK.json. Without batch norm, on a list of global batches of which each
process takes its part; and with batch norm, on a DataLoader that is shared out. `--interrupt N`: SIGTERM to the first
process at the N-th batch of the second search.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import conet_fx
from conet_fx.search import checkpoint
from tests.search.undisturbed import SETTINGS, Augmented, Noisy, fingerprint
from tests.tiny import TinyNet, tiny_data


class Parts:
    """Global batches, of which each process gets every world-th sample."""

    def __init__(self, rank: int, world: int) -> None:
        images, labels = tiny_data(samples=96).tensors
        self.batches = [(images[i : i + 24], labels[i : i + 24]) for i in range(0, 96, 24)]
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Any]:
        for images, labels in self.batches:
            yield images[self.rank :: self.world], labels[self.rank :: self.world]


class Interrupted(DataLoader[Any]):
    """Sends one signal at a batch: a second would end the process at once."""

    interrupt: int | None = None

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if self.interrupt is not None:
                if self.interrupt == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                Interrupted.interrupt = self.interrupt - 1
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("--interrupt", type=int, default=None)
    options = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    settings = {**SETTINGS, "devices": world, "trials": 2}
    steady = {**settings, "lr": 0.1, "scheduler": "none", "initial_channels": 16, "epochs_per_trial": 12}

    torch.manual_seed(rank)  # the search seeds all that matters
    plain: Any = TinyNet()
    plain.norm = nn.Identity()
    alike = conet_fx.optimize(plain, Parts(rank, world), progress=False, **steady)
    checkpoint.STEPS = 1  # to stop inside an epoch, which has four
    Interrupted.interrupt = options.interrupt if rank == 0 else None
    loader = Interrupted(Augmented(), batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(5))
    shared = conet_fx.optimize(Noisy(), loader, run_dir=options.dir / "run", resume=True, progress=False, **settings)
    slopes = [{name: group.slope for name, group in trial.groups.items()} for trial in alike.history]
    losses = [epoch.loss for trial in alike.history for epoch in trial.epochs]
    result = {"slopes": slopes, "losses": losses, "sizes": alike.sizes, "shared": fingerprint(shared)}
    (options.dir / f"result-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
