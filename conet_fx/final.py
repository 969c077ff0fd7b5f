"""One network trained to the end: SGD, and what the paper's recipes add to it (A.3, A.4)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.ops import StochasticDepth

from conet_fx.errors import SearchError
from conet_fx.search.config import SearchConfig
from conet_fx.search.distributed import Distributed
from conet_fx.search.randomness import RandomState
from conet_fx.search.training import train_epoch


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How networks are trained to the end.

    Args:
        epochs: training epochs, >= 1; the learning rate is halved after each tenth of them.
        seeds: one training run each, for the mean and the spread.
        lr: first learning rate, > 0.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, >= 0.
        batch_size: samples in a batch, >= 1, or None for that of the search.
        label_smoothing: of the cross entropy, in [0, 1).
        clip_norm: largest norm of all gradients together, > 0, or None.
        cutout: side of the square that is cut out of each training image, pixels; 0: none.
        auxiliary: weight of the loss of each auxiliary head, where a network has some, >= 0.
        drop_path: probability that a path of torchvision's StochasticDepth is dropped, in [0, 1): it rises from 0 in
            the first epoch by as much each epoch, and would reach this after the last. None leaves the model's own.
        channels_last: lay out images and weights with the channels last, which is faster on most devices.

    Raises:
        ValueError: a number out of range, or no seed.
    """

    epochs: int = 250
    seeds: tuple[int, ...] = (0, 1, 2)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    cutout: int = 0
    auxiliary: float = 0.4
    drop_path: float | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        infinity = float("inf")
        for name, valid, wanted in (
            ("epochs", self.epochs >= 1, "an integer >= 1"),
            (
                "seeds",
                len(self.seeds) >= 1 and len(set(self.seeds)) == len(self.seeds),
                "one or more different integers",
            ),
            ("lr", 0 < self.lr < infinity, "a number > 0"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < infinity, "a number >= 0"),
            ("batch_size", self.batch_size is None or self.batch_size >= 1, "an integer >= 1, or None"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "a number in [0, 1)"),
            ("clip_norm", self.clip_norm is None or 0 < self.clip_norm < infinity, "a number > 0, or None"),
            ("cutout", self.cutout >= 0, "an integer >= 0"),
            ("auxiliary", 0 <= self.auxiliary < infinity, "a number >= 0"),
            ("drop_path", self.drop_path is None or 0 <= self.drop_path < 1, "a number in [0, 1), or None"),
        ):
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: write {wanted}")

    def lr_in(self, epoch: int) -> float:
        """The learning rate of an epoch, from 1 (paper A.3: StepLR of 25 epochs and 0.5, for 250 epochs)."""
        return float(self.lr * 0.5 ** (10 * (epoch - 1) // self.epochs))

    def drop_path_in(self, epoch: int) -> float:
        """The probability to drop a path in an epoch, from 1."""
        return (self.drop_path or 0.0) * (epoch - 1) / self.epochs

    def words(self, batch_size: int) -> str:
        """The recipe in one line, without epochs and seeds; ``batch_size`` is that of the search."""
        parts = [
            f"SGD, lr {self.lr:g}, momentum {self.momentum:g}, weight decay {self.weight_decay:g}",
            f"batch {self.batch_size or batch_size}",
        ]
        for name, value, normal in (
            ("label smoothing", self.label_smoothing, 0),
            ("gradients of norm <=", self.clip_norm, None),
            ("cutout", self.cutout, 0),
            ("auxiliary heads by", self.auxiliary, 0.4),
            ("drop path", self.drop_path, None),
        ):
            if value != normal:
                parts.append(f"{name} {value:g}")
        if self.channels_last:
            parts.append("channels last")
        return ", ".join(parts)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross entropy of class scores [N, classes]; of several, the first are the network's, the rest auxiliary."""
        scores, *auxiliary = [output] if isinstance(output, Tensor) else [each for each in output if each is not None]
        total = F.cross_entropy(scores, target, label_smoothing=self.label_smoothing)
        for head in auxiliary:
            total = total + self.auxiliary * F.cross_entropy(head, target, label_smoothing=self.label_smoothing)
        return total


class FinalTraining:
    """The epochs of one network and one seed, which can be saved after each and gone on with.

    Args:
        network: with fresh weights; it is trained in place.
        loader: of the part of the samples that this process trains on.
        record: what is trained and how, plain values: a checkpoint belongs to a training with the same one.

    Raises:
        SearchError: ``drop_path`` is set, and the network has no StochasticDepth.
    """

    def __init__(self, network: nn.Module, loader: Any, config: EvaluationConfig, fabric: Fabric, record: Any) -> None:
        self.number = 0  # there is one trial, so to speak
        self._record = json.dumps(record, sort_keys=True)
        self._network, self._loader, self._config, self._fabric = network, loader, config, fabric
        self._together = Distributed(fabric)
        self._paths = [module for module in network.modules() if isinstance(module, StochasticDepth)]
        if config.drop_path is not None and not self._paths:
            raise SearchError(
                f"drop_path={config.drop_path:g}, and {type(network).__name__} has no torchvision.ops.StochasticDepth: "
                "leave drop_path out, or build the network with such modules"
            )
        if config.channels_last:
            network.to(memory_format=torch.channels_last)
        self._own = SGD(network.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        self.model, self._optimizer = fabric.setup(network, self._own)
        self._step = SearchConfig(clip_norm=config.clip_norm, channels_last=config.channels_last)
        self._done = 0

    def run(self, after_step: Callable[[bool], object]) -> None:
        """Train the epochs that are left. ``after_step`` is called with True after each; :meth:`state` may be taken."""
        config = self._config
        while self._done < config.epochs:
            epoch = self._done + 1
            for group in self._own.param_groups:
                group["lr"] = config.lr_in(epoch)
            if config.drop_path is not None:
                for path in self._paths:
                    path.p = config.drop_path_in(epoch)
            Distributed.set_epoch(self._loader, epoch)
            where = f"final training, epoch {epoch}"
            train_epoch(self.model, self._optimizer, self._loader, self._fabric, config.loss, where, config=self._step)
            self._done = epoch
            after_step(True)

    def state(self) -> dict[str, Any]:
        """All that the rest depends on; processes take it together."""
        return {
            "record": self._record,
            "model": self._network.state_dict(),
            "optimizer": self._own.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "epochs": self._done,
            "random": [random.states for random in self._together.random_states(self._loader)],
        }

    def fits(self, state: Mapping[str, Any]) -> bool:
        """Whether a state is one of this training."""
        return bool(state["record"] == self._record)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` of this network. Raises SearchError for another number of processes."""
        if len(state["random"]) != self._fabric.world_size:
            raise SearchError(
                f"the final training was begun by {len(state['random'])} processes, these are "
                f"{self._fabric.world_size}: go on with as many"
            )
        self._network.load_state_dict(state["model"])
        self._own.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        self._done = state["epochs"]
        self._together.restore([RandomState(states) for states in state["random"]], self._loader)
