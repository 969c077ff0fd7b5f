"""A small data set that lies on the device as a whole, and is augmented there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Pad by ``pad`` pixels on each side and crop at random to the size before; ``flip`` half of the images.

    ``fill``: what the padding is made of, a number for each channel; 0 when empty. ``cutout``: the side of a square in
    pixels that is set to 0, the mean of normalised images (DeVries and Taylor, 2017); its centre is drawn anywhere in
    the image, so it may stick out.
    """

    pad: int = 0
    flip: bool = False
    fill: tuple[float, ...] = ()
    cutout: int = 0

    def __call__(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Each of ``images`` [N, C, H, W] on its own; random numbers come from the CPU, the same for every device."""
        count, _, height, width = images.shape
        if self.pad:
            offsets = torch.randint(2 * self.pad + 1, (2, count, 1, 1), generator=generator).to(images.device)
            rows = offsets[0] + torch.arange(height, device=images.device)[:, None]
            columns = offsets[1] + torch.arange(width, device=images.device)
            numbers = torch.arange(count, device=images.device)[:, None, None]
            padded = F.pad(images, 4 * [self.pad])
            if self.fill:
                fill = torch.tensor(self.fill, dtype=images.dtype, device=images.device)[:, None, None]
                outside = F.pad(torch.zeros(height, width, device=images.device), 4 * [self.pad], value=1).bool()
                padded = torch.where(outside, fill, padded)
            images = padded[numbers, :, rows, columns].permute(0, 3, 1, 2)
        if self.flip:
            turned = torch.rand(count, 1, 1, 1, generator=generator).to(images.device) < 0.5
            images = torch.where(turned, images.flip(3), images)
        if self.cutout:
            inside = [
                self._covered(torch.randint(side, (count, 1), generator=generator), side) for side in (height, width)
            ]
            hidden = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(images.device)
            images = images.masked_fill(hidden, 0)
        return images

    def _covered(self, centres: Tensor, side: int) -> Tensor:
        """Which of ``side`` pixels a square around each of ``centres`` [N, 1] covers: [N, side]."""
        start = centres - self.cutout // 2
        pixels = torch.arange(side)
        return (pixels >= start) & (pixels < start + self.cutout)


class OnDevice:
    """A loader of shuffled batches (images [N, C, H, W], class indices [N]) from tensors on ``device``.

    Args:
        dataset: gives (image, class index), not augmented; read once, now.
        batch_size: samples in a batch. A last batch of one image is left out: batch norm cannot train on it.
        seed: of the order and the augmentation, which its ``generator`` draws.
        part: (rank, world): each of ``world`` processes gets batches of its own; some samples are repeated so that all
            get equally many.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        device: torch.device,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        everything = list(DataLoader(dataset, batch_size=512))
        self.images = torch.cat([images for images, _ in everything]).to(device)
        self.labels = torch.cat([labels for _, labels in everything]).to(device)
        self.augmentation, self.batch_size, self.part = augmentation, batch_size, part
        self.generator = torch.Generator().manual_seed(seed)

    def _samples(self) -> int:
        return -(-len(self.images) // self.part[1])

    def __len__(self) -> int:
        whole, rest = divmod(self._samples(), self.batch_size)
        return whole + (rest > 1 or (rest == 1 and whole == 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rank, world = self.part
        order = torch.randperm(len(self.images), generator=self.generator)
        order = order.repeat(2)[: self._samples() * world][rank::world]
        for number in range(len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size].to(self.images.device)
            yield self.augmentation(self.images[index], self.generator), self.labels[index]
