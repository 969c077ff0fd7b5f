"""Where the ranks differ from those of the authors' code, and why, unfolding by unfolding.

Networks are trained on the digits for a few epochs, seeded, and taken at three scales of their weights; ranks
must not depend on that scale. Each difference has the first cause that explains it:

* `tall`: more rows than columns; their search interval is empty, it raises, and they record rank 0.
* `tau`: theirs is what we find with `tau="approximate"`.
* `tolerance`: theirs is that once the entries have unit mean square: their search of the noise variance stops at an
  absolute tolerance.
* `minimum`: their free energy is higher where they stop than where we do, by their own formula.
* `other`: none of these.
"""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.probe.authors import Authors
from conet_fx import analyze, data, models
from conet_fx.probe import evbmf, probed_layers

CAUSES = ("tall", "tau", "tolerance", "minimum", "other")
SCALES = (1.0, 0.1, 0.01)
EPOCHS = 5


def trained(arch: str, channels: int | None) -> nn.Module:
    """A network after some epochs of SGD on the digits, every free group at `channels`."""
    torch.manual_seed(0)
    task = data.load("digits")
    model = models.build(arch, task.classes)
    if channels is not None:
        plan = analyze(model, torch.zeros(2, 3, *task.shape[1:]))
        model = plan.resize({group.name: -(-channels // group.quantum) * group.quantum for group in plan.free})
    loader, _ = data.loaders(task, 64, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images.expand(-1, 3, -1, -1)), labels).backward()
            optimizer.step()
    return model


def compare(reference: Authors) -> list[dict[str, Any]]:
    networks = {
        "resnet18_cifar, 32 channels": trained("resnet18_cifar", 32),
        "mobilenet_v2": trained("torchvision:mobilenet_v2", None),
    }
    rows = []
    for name, model in networks.items():
        matrices = [matrix for layer in probed_layers(model).values() for matrix in unfoldings(layer.weight.detach())]
        for scale in SCALES:
            causes = collections.Counter(
                cause for matrix in matrices if (cause := difference(matrix * scale, reference)) is not None
            )
            ours = sum(int(evbmf(matrix * scale).rank) for matrix in matrices)
            theirs = sum(reference.rank(matrix * scale) or 0 for matrix in matrices)
            rows.append(
                {
                    "network": name,
                    "weights x": scale,
                    "unfoldings": len(matrices),
                    "sum of ranks": ours,
                    "authors": theirs,
                    "differ": causes.total(),
                    **{cause: causes[cause] for cause in CAUSES},
                }
            )
    return rows


def unfoldings(weight: Tensor) -> list[Tensor]:
    """Modes 4 and 3 of a weight [Cout, Cin, *kernel]: [Cout, Cin * kernel] and [Cin, Cout * kernel]."""
    return [weight.flatten(1), weight.transpose(0, 1).flatten(1)]


def difference(matrix: Tensor, reference: Authors) -> str | None:
    """Why the authors' rank of a matrix is not ours; None where it is."""
    ours, theirs = int(evbmf(matrix).rank), reference.rank(matrix)
    if ours == (theirs or 0):
        return None
    if theirs is None:
        return "tall" if matrix.shape[0] > matrix.shape[1] else "other"
    approximate = evbmf(matrix, tau="approximate")
    if theirs == int(approximate.rank):
        return "tau"
    if reference.rank(matrix / matrix.square().mean().sqrt()) == int(approximate.rank):
        return "tolerance"
    _, there, here = reference.noise_and_energy(matrix, float(approximate.noise))
    return "minimum" if here < there else "other"
