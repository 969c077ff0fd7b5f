"""The state of an optimiser follows the channels of a resized model."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conet_fx.errors import ResizeError
from conet_fx.passes.info import KEY
from conet_fx.passes.inherit import Origin, origins
from conet_fx.passes.nodes import attribute, tensors
from conet_fx.plan import ChannelPlan


def resize_optimizer(optimizer: Optimizer, plan: ChannelPlan, resized: nn.Module) -> Optimizer:
    """An optimiser of the same class for ``resized``, with the state of ``optimizer`` on the channels that stayed.

    State of a parameter's shape (momentum, Adam's moments), and what has length 1 along some of its axes (Adafactor's
    rows and columns), is cut and grown as the weights were; entries of new channels are zero. Numbers, such as step
    counts, stay. Parameter groups keep their options and order; parameters that the resized model lacks, because the
    graph does not use them, are dropped. ``optimizer`` stays as it is, and so do schedulers of it: make new ones, which
    go on from the ``initial_lr`` and ``lr`` in the groups when they are given ``last_epoch``. Hooks are not taken over.

        optimizer = conet_fx.resize_optimizer(optimizer, plan, resized)

    Args:
        optimizer: over parameters of the model that ``plan`` was made from.
        plan: ``analyze(model, example)``.
        resized: ``plan.resize(sizes, init="inherit")``.

    Raises:
        ResizeError: ``resized`` does not come from ``plan``, or with fresh weights (``init="reset"``); a parameter of
            ``optimizer`` is not the model's; a state that no channel can be told of (LBFGS).
    """
    kept = getattr(resized, "meta", {}).get(KEY, {}).get("kept")
    if kept is None:
        raise ResizeError(
            f"this {type(resized).__name__} has not inherited its weights, so that no state belongs to them: pass the "
            'result of plan.resize(sizes, init="inherit")'
        )
    old_ones = {id(old): origin for origin, old in origins(plan.trace.whole, plan.facts, kept)}
    vanished = {id(parameter) for parameter in (plan.trace.model or plan.trace.whole).parameters()} - old_ones.keys()
    twins: dict[int, nn.Parameter] = {}  # by the id of the old parameter
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(optimizer.param_groups):
        stay = [index for index, parameter in enumerate(group["params"]) if id(parameter) not in vanished]
        for parameter in (group["params"][index] for index in stay):
            if id(parameter) not in old_ones:
                raise ResizeError(
                    f"parameter group {number} of the optimizer has a parameter of shape {tuple(parameter.shape)} that "
                    "is not one of the model that the plan was made from: pass the optimizer of that model"
                )
            twins[id(parameter)] = _twin(resized, old_ones[id(parameter)].path)
        options = copy.deepcopy({key: value for key, value in group.items() if key not in _ONE_EACH})
        each = {key: [group[key][index] for index in stay] for key in _ONE_EACH & group.keys()}
        groups.append({**options, **each, "params": [twins[id(group["params"][index])] for index in stay]})
    state: defaultdict[Any, Any] = defaultdict(dict)
    for parameter, values in cast(dict[Any, Any], optimizer.state).items():
        if (new := twins.get(id(parameter))) is not None:
            where = _Where(type(optimizer).__name__, parameter, new, old_ones[id(parameter)])
            state[new] = {key: _follow(where, key, value) for key, value in values.items()}
        elif not isinstance(parameter, Tensor):  # what some optimisers keep for all parameters together
            state[parameter] = copy.deepcopy(values)
    return _like(optimizer, copy.deepcopy(optimizer.defaults), state, groups)


_ONE_EACH = frozenset(("params", "param_names"))  # of a group: one entry a parameter


def _twin(resized: nn.Module, path: str) -> nn.Parameter:
    found = attribute(resized, path)
    if not isinstance(found, nn.Parameter):
        raise ResizeError(f"the resized model has no parameter {path!r}: it was made from another plan")
    return found


@dataclasses.dataclass(frozen=True)
class _Where:
    """Whose state it is: a parameter, the one that follows it, and how."""

    optimizer: str
    old: Tensor
    new: Tensor
    origin: Origin


@torch.no_grad()
def _follow(where: _Where, key: str, value: Any) -> Any:
    """One entry of the state of a parameter, for the parameter that follows it."""
    if not tensors(value):
        return copy.deepcopy(value)
    old, new, origin = where.old, where.new, where.origin
    if isinstance(value, Tensor):
        lengths = list(zip(value.shape, old.shape, new.shape, strict=False))
        if value.shape == old.shape or (
            value.ndim == old.ndim > 0 and origin.blocks == 1 and all(n in (1, m) for n, m, _ in lengths)
        ):
            stays = [n != m for n, m, _ in lengths]
            axes = tuple(None if stay else index for stay, index in zip(stays, origin.where, strict=True))
            fresh = value.new_zeros([n if stay else m for stay, (n, _, m) in zip(stays, lengths, strict=True)])
            try:
                return dataclasses.replace(origin, where=axes).take(value, fresh).clone().to(new.device)
            except (AssertionError, IndexError, RuntimeError, ValueError) as error:
                raise ResizeError(
                    f"{key!r} of {origin.path!r} does not fit the resized model ({error}): was it made from this plan?"
                ) from error
        if value.numel() == 1:
            return value.clone()
    raise ResizeError(
        f"{where.optimizer} keeps {key!r} of {origin.path!r} as {_said(value)}, which does not show the channels of a "
        f"parameter of shape {tuple(old.shape)}: start a new optimizer"
    )


def _said(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _like(
    optimizer: Optimizer, defaults: dict[str, Any], state: defaultdict[Any, Any], groups: list[dict[str, Any]]
) -> Optimizer:
    """An optimiser of the same class, made as unpickling makes one, with the other attributes that it had."""
    made = type(optimizer).__new__(type(optimizer))
    made.__setstate__({"defaults": defaults, "state": state, "param_groups": groups})
    for name, value in vars(optimizer).items():
        if name in vars(made) or name.startswith("_optimizer_") or name == "step":  # hooks, the mark of a scheduler
            continue
        if tensors(value):
            raise ResizeError(
                f"{type(optimizer).__name__} keeps tensors in its attribute {name!r}, which no channel can be told of: "
                "start a new optimizer"
            )
        setattr(made, name, copy.deepcopy(value))
    return made
