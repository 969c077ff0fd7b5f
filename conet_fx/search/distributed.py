"""What several processes do together: one decides, all know; their random states are kept side by side."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy
from lightning_fabric.strategies.fsdp import FSDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch.utils.data import DataLoader

from conet_fx.errors import ConetError
from conet_fx.search.config import SearchConfig
from conet_fx.search.randomness import RandomState

T = TypeVar("T")


class Distributed:
    """A Fabric, and what a search needs of it beyond training. With one process all of it costs nothing."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    @property
    def first(self) -> bool:
        """Whether this process is the one that probes, writes and shows."""
        return bool(self.fabric.is_global_zero)

    def from_first(self, compute: Callable[[], T]) -> T:
        """What ``compute`` gives in the first process, in all of them; an error of it is raised in all of them."""
        if self.fabric.world_size == 1:
            return compute()
        outcome: tuple[T | None, Exception | None] = (None, None)
        if self.first:
            try:
                outcome = (compute(), None)
            except (ConetError, ValueError, TypeError, OSError) as error:
                outcome = (None, error)
        found, raised = self.fabric.broadcast(outcome, src=0)
        if raised is not None:
            raise raised
        return found  # type: ignore[return-value]

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        if self.fabric.world_size == 1:
            return wish
        return bool(self.fabric.strategy.reduce_boolean_decision(wish, all=False))

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks. Tensors in them lie on the CPU."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def random_states(self, loader: Any) -> list[RandomState]:
        """The random states of all processes, in the order of their ranks."""
        return self.gather(RandomState.capture(loader, self.fabric.device))

    def restore(self, states: Sequence[RandomState], loader: Any) -> None:
        """Put the generators of this process into its states."""
        states[self.fabric.global_rank].restore(loader, self.fabric.device)

    def share(self, loader: Any) -> Any:
        """A loader of this process's part of the samples; what is no DataLoader shares them out itself."""
        if self.fabric.world_size == 1 or not isinstance(loader, DataLoader):
            return loader
        wrapped: Any = self.fabric.setup_dataloaders(loader, move_to_device=False)
        return wrapped._dataloader  # the wrapper would count epochs itself, and forget them when a run goes on

    @staticmethod
    def set_epoch(loader: Any, epoch: int) -> None:
        """Let a distributed sampler shuffle anew."""
        for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            for holder in (sampler, getattr(sampler, "sampler", None)):
                if callable(set_epoch := getattr(holder, "set_epoch", None)):
                    set_epoch(epoch)


def make_fabric(config: SearchConfig) -> Fabric:
    """Where to train, as the configuration says; the other processes, if any, are started."""
    return launch(
        Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy=config.strategy,
            num_nodes=config.num_nodes,
            precision=config.precision,
        )
    )


def launch(fabric: Fabric) -> Fabric:
    """Start the other processes, if there are any and they do not run yet.

    Raises ValueError for a strategy that spreads one weight over several processes: no process could measure it. Warns
    where torchrun or srun started several processes and each of them is to search alone.
    """
    if isinstance(fabric.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"{type(fabric.strategy).__name__} spreads each weight over several processes, and the probe needs it "
            "whole: use strategy='ddp'"
        )
    several = fabric.world_size > 1 or isinstance(fabric.strategy, DDPStrategy)  # which wants it for one process too
    if several and not fabric._launched:  # a second launch() would start them again
        if not torch.distributed.is_initialized():  # else it is the caller's, who leaves it
            atexit.register(_leave)
        fabric.launch()
    elif not several and (started := _started()) > 1:
        warnings.warn(
            f"{started} processes were started, and each of them searches alone: pass devices, the number of processes "
            "on a node (and num_nodes), to let them search together",
            stacklevel=3,
        )
    return fabric


def _started() -> int:
    """The number of processes that torchrun or srun started together with this one."""
    for environment, variable in ((TorchElasticEnvironment, "WORLD_SIZE"), (SLURMEnvironment, "SLURM_STEP_NUM_TASKS")):
        if environment.detect():
            return int(os.environ.get(variable, 1))
    return 1


def _leave() -> None:
    """Leave the process group, which Fabric does for NCCL alone: at exit, gloo's threads may abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
