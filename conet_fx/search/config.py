"""SearchConfig: every number that steers a search, checked before any training."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

DEFAULT_DELTA = 0.0075

Scheduler = Literal["adas", "none"]
Accelerator = Literal["auto", "cpu", "cuda", "gpu", "mps"]
Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
Precision = Literal["64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"]
Weights = Literal["fresh", "trained"]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The settings of one search (paper Algorithm 2, section 4). Defaults are the paper's.

    Args:
        delta: slope threshold, ranks an epoch, > 0. A group whose mean rank rises more slowly is shrunk.
            Small values give large networks.
        mu: condition threshold, a ratio, > 0. A group whose mean condition reaches it is shrunk.
        gamma: smallest scale factor, in [0, 1). A group that turns back with phi below it stops for good.
        phi: first scale factor, in (0, 1): a group grows or shrinks by this fraction; halved at each turn.
        trials: most trials, >= 1. A search ends earlier when every group has stopped.
        epochs_per_trial: training epochs of a trial, >= 1. A slope needs 2.
        initial_channels: channels of every free group in the first trial, >= 1; None starts from the model's own
            sizes. Outside [min_channels, max_channels] it is allowed: the decisions lead back inside.
        min_channels: a group is never shrunk below it, channels, >= 1.
        max_channels: a group is never grown above it, channels, >= min_channels.
        round_to: sizes are multiples of lcm(round_to, quantum of the group), >= 1.
        lr: learning rate of the first epoch of each trial, > 0. The paper has 0.1, and 0.03 for ResNet.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, >= 0.
        beta: decay of the learning rates under AdaS, in [0, 1).
        scheduler: "adas" gives each conv layer its own learning rate from its knowledge gain; "none" keeps `lr`.
        seed: of weights and data order, in [0, 2**32).
        tie_concat: keep the parts of a concatenation in proportion where it meets one depth (authors' code).
        resize_linear: hidden linear layers may change size too (the paper keeps them).
        max_params, max_macs: groups grow only as far as the candidate has at most that many parameters, and
            multiply-adds for one sample; >= 1, or None.
        label_smoothing: of the cross entropy, in [0, 1).
        clip_norm: largest norm of all gradients together, > 0, or None.
        accumulate: batches for one step of the optimizer, >= 1; their mean loss counts.
        channels_last: lay out images and weights with the channels last, which is faster on most devices.
        compile: train what torch.compile makes of each candidate; a compilation a trial, worth it for long ones.
        accelerator, devices, strategy, num_nodes: where to train, in the words of Lightning Fabric. Several devices
            train on different batches and take the mean of their gradients (DDP).
        precision: of training, in the words of Lightning Fabric. The probe computes in float64 always.
        checkpoint_seconds: least time between two states of the trial under way in the run directory, >= 0. Saving
            never takes more than a hundredth of the time; 0 saves after every step.
        weights: of the model that is returned: "fresh" re-initialised (the paper trains it anew), or "trained" by
            the last trial.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or no multiple of `round_to` in [min_channels, max_channels].
    """

    delta: float = DEFAULT_DELTA
    mu: float = 10.0
    gamma: float = 0.01
    phi: float = 0.2
    trials: int = 25
    epochs_per_trial: int = 20
    initial_channels: int | None = 32
    min_channels: int = 16
    max_channels: int = 256
    round_to: int = 2
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    beta: float = 0.8
    scheduler: Scheduler = "adas"
    seed: int = 0
    tie_concat: bool = False
    resize_linear: bool = False
    max_params: int | None = None
    max_macs: int | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    accelerator: Accelerator = "auto"
    devices: int = 1
    strategy: Strategy = "auto"
    num_nodes: int = 1
    precision: Precision = "32-true"
    checkpoint_seconds: float = 60.0
    weights: Weights = "fresh"

    def __post_init__(self) -> None:
        for name in ("delta", "mu", "lr"):
            self._real(name, lambda v: v > 0, "a number > 0")
        for name in ("momentum", "beta", "gamma", "label_smoothing"):
            self._real(name, lambda v: 0 <= v < 1, "a number in [0, 1)")
        self._real("phi", lambda v: 0 < v < 1, "a number in (0, 1)")
        for name in ("weight_decay", "checkpoint_seconds"):
            self._real(name, lambda v: v >= 0, "a number >= 0")
        if self.clip_norm is not None:
            self._real("clip_norm", lambda v: v > 0, "a number > 0, or None")
        counts = ("trials", "epochs_per_trial", "min_channels", "max_channels", "round_to")
        for name in (*counts, "accumulate", "devices", "num_nodes"):
            self._integer(name, lambda v: v >= 1, "an integer >= 1")
        if self.initial_channels is not None:
            self._integer("initial_channels", lambda v: v >= 1, "an integer >= 1, or None for the model's own")
        for name in ("max_params", "max_macs"):
            if getattr(self, name) is not None:
                self._integer(name, lambda v: v >= 1, "an integer >= 1, or None")
        self._integer("seed", lambda v: 0 <= v < 2**32, "an integer in [0, 2**32)")
        for name in ("tie_concat", "resize_linear", "channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}: write True or False")
        self._choice("scheduler", get_args(Scheduler))
        self._choice("accelerator", get_args(Accelerator))
        self._choice("strategy", get_args(Strategy))
        self._choice("precision", get_args(Precision))
        self._choice("weights", get_args(Weights))
        if self.min_channels > self.max_channels:
            raise ValueError(
                f"min_channels={self.min_channels} is above max_channels={self.max_channels}: "
                "lower the first or raise the second"
            )
        if self.max_channels // self.round_to * self.round_to < self.min_channels:
            raise ValueError(
                f"no multiple of round_to={self.round_to} lies between min_channels={self.min_channels} and "
                f"max_channels={self.max_channels}: widen the range, or lower round_to"
            )

    @classmethod
    def build(cls, config: SearchConfig | None, delta: float | None, overrides: Mapping[str, Any]) -> SearchConfig:
        """The configuration of a call that takes a whole one, a delta and single fields by name.

        Later ones win: `config` (None: the defaults), `delta`, `overrides`. A `delta` of None, or the default that
        `optimize` has, leaves the one in `config`.

        Raises:
            TypeError: `config` is not a SearchConfig, or an override that no field is named after.
        """
        if config is None:
            config = cls()
        elif not isinstance(config, cls):
            raise TypeError(f"config={config!r}: pass a SearchConfig or None, and single fields as keywords")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in overrides:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(names)}"
                raise TypeError(f"no setting is named {name!r}: {hint}")
        given: dict[str, Any] = {} if delta is None or delta == DEFAULT_DELTA else {"delta": delta}
        return dataclasses.replace(config, **{**given, **overrides})

    def _real(self, name: str, valid: Any, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}={value!r}: write {wanted}")
        if not (math.isfinite(value) and valid(value)):
            raise ValueError(f"{name}={value!r}: write {wanted}")
        object.__setattr__(self, name, float(value))

    def _integer(self, name: str, valid: Any, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name}={value!r}: write {wanted}")
        if not valid(value):
            raise ValueError(f"{name}={value!r}: write {wanted}")
        object.__setattr__(self, name, int(value))

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if not isinstance(value, str):
            raise TypeError(f"{name}={value!r}: write one of {', '.join(map(repr, choices))}")
        if value not in choices:
            raise ValueError(f"{name}={value!r}: write one of {', '.join(map(repr, choices))}")
