"""The training of one candidate, which can be saved after any step and gone on with, bit for bit on a CPU."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import fx
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from conet_fx.errors import SearchError
from conet_fx.probe import Pending, Prober, probed_layers
from conet_fx.search.adas import AdaS
from conet_fx.search.batches import Loss
from conet_fx.search.config import SearchConfig
from conet_fx.search.distributed import Distributed
from conet_fx.search.history import Epoch
from conet_fx.search.hooks import Hooks
from conet_fx.search.randomness import RandomState
from conet_fx.search.training import Tally, train_epoch


class TrialTraining:
    """One trial: epochs of training with a probe of every weight after each (paper 2.1).

    The probe runs beside the next epoch. Under AdaS the first step of that epoch waits for it, since it sets the
    learning rates; it starts when the loader has its processes, lest one be forked from a thread that holds a lock.
    Several processes train together; the first one probes.
    """

    def __init__(
        self,
        candidate: fx.GraphModule,
        loader: Iterable[Any],
        config: SearchConfig,
        fabric: Fabric,
        hooks: Hooks,
        number: int,
    ) -> None:
        self.number = number
        self._candidate, self._loader, self._config, self._hooks = candidate, loader, config, hooks
        self._together = Distributed(fabric)
        if config.channels_last:
            candidate.to(memory_format=torch.channels_last)
        self._own = _optimizer(candidate, config, hooks)
        self._schedule = hooks.scheduler_fn(self._own) if hooks.scheduler_fn else None
        self._adas = (
            self._own if isinstance(self._own, AdaS) and config.scheduler == "adas" and not self._schedule else None
        )
        model: Any = torch.compile(candidate) if config.compile else candidate
        self._model, self._optimizer = fabric.setup(model, self._own)
        self.epochs: list[Epoch] = []
        self._trained: Epoch | None = None  # the last epoch, while it is not measured yet
        self._measuring = False  # its measurement has begun
        self._pending: Pending | None = None  # and is this one, in the first process
        self._tally = Tally()  # of the epoch under way
        self._began: list[RandomState] = []  # the random states of all processes before it

    @property
    def weights(self) -> dict[str, Any]:
        """The state_dict of the candidate as it is now."""
        return self._candidate.state_dict()

    def run(self, on_epoch: Callable[[Epoch], object], after_step: Callable[[bool], object]) -> tuple[Epoch, ...]:
        """Train the epochs that are left, and measure the last.

        Args:
            on_epoch: called with the record of each epoch once it is measured.
            after_step: called with False after each step, with True after each epoch; :meth:`state` may be taken then.

        Raises:
            SearchError: naming trial, epoch and batch of a loss that is not finite, or the layers whose weights are
                not, or what did not fit into the memory.
        """
        self._on_epoch = on_epoch
        handle = self._own.register_step_pre_hook(self._finish) if self._adas else None
        try:
            with Prober(linear=self._config.resize_linear) as self._prober:
                while self._count() < self._config.epochs_per_trial:
                    self._epoch(after_step)
                    after_step(True)
                self._measure()
                self._finish()
        finally:
            if handle:
                handle.remove()
        return tuple(self.epochs)

    def _count(self) -> int:
        return len(self.epochs) + (self._trained is not None)

    def _epoch(self, after_step: Callable[[bool], object]) -> None:
        index = self._count() + 1
        start, where = time.perf_counter(), f"trial {self.number}, epoch {index}"
        self._together.set_epoch(self._loader, self.number * self._config.epochs_per_trial + index)
        now = self._together.random_states(self._loader)
        if self._tally.steps:  # gone on with: the loader begins as it began
            self._together.restore(self._began, self._loader)
        else:
            self._began = now
        try:
            loss, accuracy = self._train(
                where, lambda: self._together.restore(now, self._loader), lambda: after_step(False)
            )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if (told := _out_of_memory(error, where, self._candidate, self._together.fabric)) is not None:
                raise told from error
            raise
        finally:
            self._finish()  # what was wrong in the epoch before is said first
        rates = self._learning_rates()
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(loss)
        elif self._schedule is not None:
            self._schedule.step()
        self._trained = Epoch(index, loss, accuracy, rates, {}, time.perf_counter() - start)
        self._tally = Tally()

    def _train(
        self, where: str, on_resume: Callable[[], object], after_step: Callable[[], object]
    ) -> tuple[float, float | None]:
        if self._hooks.train_epoch is None:
            return train_epoch(
                self._model,
                self._optimizer,
                self._loader,
                self._together.fabric,
                self._hooks.loss_fn or _cross_entropy(self._config),
                where,
                config=self._config,
                tally=self._tally,
                on_start=self._measure,
                on_resume=on_resume,
                after_step=after_step,
            )
        self._measure()
        self._model.train()
        result = self._hooks.train_epoch(self._model, self._optimizer, self._loader, self._together.fabric)
        loss, accuracy = result if isinstance(result, tuple) else (result, None)
        loss, accuracy = float(loss), None if accuracy is None else float(accuracy)
        if loss - loss != 0:
            raise SearchError(f"train_epoch returned the loss {loss} in {where}: lower the learning rate")
        return loss, accuracy

    def _measure(self) -> None:
        self._measuring = self._trained is not None
        if self._measuring and self._together.first:
            self._pending = self._prober.submit(self._candidate)

    def _finish(self, *_: object) -> None:
        """Wait for the measurement under way, if there is one, and let AdaS follow it."""
        if self._trained is None or not self._measuring:
            return
        trained, self._trained, self._measuring = self._trained, None, False
        pending, self._pending = self._pending, None
        metrics = self._together.from_first(lambda: pending.result() if pending else {})
        if self._adas is not None:
            self._adas.epoch_end(metrics)
        self.epochs.append(dataclasses.replace(trained, layers=metrics))
        self._on_epoch(self.epochs[-1])

    def _learning_rates(self) -> dict[str, float]:
        """The rate of each measured layer."""
        if isinstance(self._own, AdaS):
            return {path: float(rate) for path, rate in self._own.learning_rates.items()}
        rates = {parameter: group["lr"] for group in self._own.param_groups for parameter in group["params"]}
        found = {}
        for path, layer in probed_layers(self._candidate).items():
            of_layer = [rates[parameter] for parameter in layer.parameters if parameter in rates]
            if of_layer:
                found[path] = float(of_layer[0])
        return found

    # --- state -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the rest of the trial depends on; processes take it together. Not while an epoch of a hook runs."""
        self._finish()
        return {
            "model": self.weights,
            "optimizer": self._own.state_dict(),
            "schedule": self._schedule.state_dict() if self._schedule is not None else None,
            "precision": self._together.fabric.strategy.precision.state_dict(),
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            "trained": None if self._trained is None else dataclasses.asdict(self._trained),
            "tally": self._together.gather(self._tally.state()),
            "began": [random.states for random in self._began] if self._tally.steps else [],
            "random": [random.states for random in self._together.random_states(self._loader)],
        }

    def load(self, state: Mapping[str, Any], on_epoch: Callable[[Epoch], object] = lambda epoch: None) -> None:
        """Go on from a :meth:`state` of this candidate. Raises :class:`SearchError` for another number of processes."""
        if len(state["random"]) != self._together.fabric.world_size:
            raise SearchError(
                f"trial {self.number} was begun by {len(state['random'])} processes, these are "
                f"{self._together.fabric.world_size}: go on with as many, or choose another run directory"
            )
        self._candidate.load_state_dict(state["model"])
        self._own.load_state_dict(state["optimizer"])
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        self._together.fabric.strategy.precision.load_state_dict(state["precision"])
        self.epochs = [Epoch.from_record(record) for record in state["epochs"]]
        self._trained = None if state["trained"] is None else Epoch.from_record(state["trained"])
        own = state["tally"][self._together.fabric.global_rank]
        self._tally = Tally.from_state(own, self._together.fabric.device)
        self._began = [RandomState(states) for states in state["began"]]
        self._together.restore([RandomState(states) for states in state["random"]], self._loader)
        for epoch in self.epochs:
            on_epoch(epoch)


def _optimizer(candidate: fx.GraphModule, config: SearchConfig, hooks: Hooks) -> Optimizer:
    if hooks.optimizer_fn is None:  # AdaS is plain SGD where nobody tells it of the epochs
        return AdaS(candidate, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, beta=config.beta)
    optimizer = hooks.optimizer_fn(candidate)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer_fn returned a {type(optimizer).__name__}: return a torch.optim.Optimizer")
    return optimizer


def _cross_entropy(config: SearchConfig) -> Loss:
    def loss(output: Any, target: Any) -> torch.Tensor:
        try:
            return F.cross_entropy(output, target, label_smoothing=config.label_smoothing)
        except IndexError as error:  # on a CPU; of later batches than the one that was looked at before
            low, high = int(target.min()), int(target.max())
            raise SearchError(
                f"a batch has targets from {low} to {high}, and the model {output.shape[1]} outputs"
            ) from error

    return loss


def _out_of_memory(error: BaseException, where: str, candidate: fx.GraphModule, fabric: Fabric) -> SearchError | None:
    """What did not fit, in one sentence; None for another error."""
    words = str(error)
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in words:
        return None
    params = sum(parameter.numel() for parameter in candidate.parameters())
    peak = ""
    if fabric.device.type == "cuda":
        peak = f" (peak {torch.cuda.max_memory_allocated(fabric.device) / 2**30:.1f} GiB)"
    layers = probed_layers(candidate).items()
    widths = {path: layer.parameters[0].shape[0] for path, layer in layers if layer.parameters}
    largest = ", ".join(f"{path} {width}" for path, width in sorted(widths.items(), key=lambda item: -item[1])[:5])
    return SearchError(
        f"out of memory in {where}{peak}: the candidate has {params:,} parameters, its widest layers are {largest}. "
        "Use smaller batches (with accumulate=2 or more for the same steps), precision='bf16-mixed', or bound the "
        "growth with max_params, max_macs or max_channels. A run directory, if there is one, is whole: resume goes on"
    )
