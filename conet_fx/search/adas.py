"""AdaS: SGD whose learning rate follows, layer by layer, how fast the knowledge gain of a conv still rises.

Hosseini and Plataniotis, "AdaS: Adaptive Scheduling of Stochastic Gradients" (2020); the paper trains all trials
with it. With G the mean knowledge gain of both modes of a layer (`gain_in`, `gain_out`), after epoch t

    lr_t = max(min_lr, beta lr_{t-1} + zeta (G_t - G_{t-1}))

The first epoch has no velocity yet and leaves every rate as it is. What the probe does not measure (norms, biases,
depthwise convs, linear layers, bare parameters) trains with the measured conv before it in the order of modules, as
in the authors' code; parameters before the first one keep their rate. There is one difference: their linear layers
follow the output gain of the last conv alone, these the mean of its two gains like everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from conet_fx.probe import LayerMetrics, probed_layers


class AdaS(SGD):
    """`torch.optim.SGD` with one parameter group for each conv that the probe measures.

    `step()` is that of SGD, on a GPU for all groups together; call `epoch_end` with what `conet_fx.probe.probe(model)`
    measured after each epoch. Without such calls this is plain SGD. All state is in `param_groups`, so `state_dict`
    holds the rates and gains.

    Args:
        model: any module; a shared module or parameter counts once.
        lr: learning rate of the first epoch, > 0.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty, >= 0.
        beta: how much of its rate a layer keeps each epoch, in [0, 1).
        zeta: learning rate for each unit of knowledge gain, > 0.
        min_lr: lower bound of every rate, > 0.

    Raises:
        ValueError: a number out of range, or a model without parameters to train.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.1,
        *,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        beta: float = 0.8,
        zeta: float = 1.0,
        min_lr: float = 1e-20,
    ) -> None:
        for name, value, valid, wanted in (
            ("lr", lr, lr > 0, "> 0"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("beta", beta, 0 <= beta < 1, "in [0, 1)"),
            ("zeta", zeta, zeta > 0, "> 0"),
            ("min_lr", min_lr, min_lr > 0, "> 0"),
        ):
            if not valid:
                raise ValueError(f"{name}={value!r}: write a number {wanted}")
        rule = {"gain": None, "beta": beta, "zeta": zeta, "min_lr": min_lr}
        groups = [{"params": params, "layer": path, **rule} for path, params in _by_layer(model).items()]
        super().__init__(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)

    @property
    def learning_rates(self) -> dict[str, float]:
        """The present rate of each measured layer, by module path."""
        return {group["layer"]: group["lr"] for group in self.param_groups if group["layer"] is not None}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of SGD, each layer at its rate. `closure`, if given, computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._on_a_gpu_and_alike():
            self._step_together()
        else:
            inspect.unwrap(SGD.step)(self)  # without the hooks that torch wraps around each step: they have run
        return loss

    def _on_a_gpu_and_alike(self) -> bool:
        """Whether the groups differ in nothing but their rates, and launching kernels for each costs more than they."""
        first = self.param_groups[0]
        return all(
            (group["momentum"], group["weight_decay"]) == (first["momentum"], first["weight_decay"])
            and not any(group[name] for name in ("dampening", "nesterov", "maximize", "fused"))
            and group["foreach"] is not False
            and all(p.is_cuda and (p.grad is None or not p.grad.is_sparse) for p in group["params"])
            for group in self.param_groups
        )

    def _step_together(self) -> None:
        """What SGD does, in a few kernels for all groups."""
        first = self.param_groups[0]
        pairs = [(p, group["lr"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not pairs:
            return
        params, rates = [p for p, _ in pairs], [float(rate) for _, rate in pairs]
        updates: list[Tensor] = [p.grad for p in params]
        if first["weight_decay"]:
            updates = list(torch._foreach_add(updates, params, alpha=first["weight_decay"]))
        if first["momentum"]:
            updates = self._momentum(params, updates, first["momentum"])
        torch._foreach_sub_(params, torch._foreach_mul(updates, rates))

    def _momentum(self, params: list[nn.Parameter], updates: list[Tensor], momentum: float) -> list[Tensor]:
        """The buffers of the parameters, gone on by a step; a new one begins with its first update."""
        buffers = [self.state[p].get("momentum_buffer") for p in params]
        known = [(buffer, update) for buffer, update in zip(buffers, updates, strict=True) if buffer is not None]
        if known:
            torch._foreach_mul_([buffer for buffer, _ in known], momentum)
            torch._foreach_add_([buffer for buffer, _ in known], [update for _, update in known])
        for parameter, buffer, update in zip(params, buffers, updates, strict=True):
            if buffer is None:
                self.state[parameter]["momentum_buffer"] = update.clone()
        return [self.state[p]["momentum_buffer"] for p in params]

    def epoch_end(self, metrics: Mapping[str, LayerMetrics]) -> None:
        """Set the rates of the next epoch from what the probe measured after this one, by module path.

        Raises:
            KeyError: a layer with trainable parameters was not measured. No rate has changed then.
        """
        measured = [group for group in self.param_groups if group["layer"] is not None]
        gains = [(metrics[group["layer"]].gain_in + metrics[group["layer"]].gain_out) / 2 for group in measured]
        for group, gain in zip(measured, gains, strict=True):
            if group["gain"] is not None:
                wanted = group["beta"] * group["lr"] + group["zeta"] * (gain - group["gain"])
                group["lr"] = max(group["min_lr"], wanted)
            group["gain"] = gain


def _by_layer(model: nn.Module) -> dict[str | None, list[nn.Parameter]]:
    """Trainable parameters by the path of the measured layer that they train with; None for those before the first."""
    layers = probed_layers(model)
    groups: dict[str | None, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    current = None
    for path, module in model.named_modules():
        current = path if path in layers else current
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                groups.setdefault(current, []).append(parameter)
    return groups
