"""A network and data so small that a whole search takes a second or two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class TinyNet(nn.Module):
    """Two convolutions, a residual block and a linear head: groups a, b (size 8) and block (size 8, two writers)."""

    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.c = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.norm(x + self.c(F.relu(self.b(x)))))
        return self.head(x.mean((2, 3)))


class Branching(nn.Module):
    """Control flow that depends on data around ``net``: such a model is traced in pieces."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net(x)
        return x if x.sum() > 0 else -x


def tiny_data(classes: int = 3, samples: int = 96) -> TensorDataset:
    """Images of one bright stripe; the class is where it lies."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    images = 0.3 * torch.randn(samples, 1, 6, 6, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 1
    return TensorDataset(images, labels)


def tiny_loader(classes: int = 3, samples: int = 96) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Shuffled batches of 32 with the loader's own generator."""
    return DataLoader(
        tiny_data(classes, samples), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(1)
    )


QUICK = {"trials": 2, "epochs_per_trial": 2, "initial_channels": 8, "min_channels": 4, "lr": 0.03}
