"""What must hold for every network that can be traced: the invariants of DESIGN 4, checked on one model.

:func:`check_everything` is the judge of all test networks. It never looks at how a plan was found, only at what the
plan promises: sizes, costs, gradients, and that inherited weights keep the function.
"""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torchvision.ops  # noqa: F401  # registers its operators
from torch import fx, nn

import conet_fx
from conet_fx.passes.verify import counting
from conet_fx.plan import ChannelGroup, ChannelPlan

RECURRENT = (nn.RNNBase, nn.modules.rnn.RNNCellBase)
TOLERANCE = 1e-9  # float64, relative to the largest output


def call(module: nn.Module, inputs: Any) -> Any:
    """``module`` on inputs in any form that ``analyze`` takes."""
    if isinstance(inputs, Mapping):
        if isinstance(module, fx.GraphModule):  # what is no tensor is fixed in the graph
            taken = {node.target for node in module.graph.find_nodes(op="placeholder")}
            return module(**{name: value for name, value in inputs.items() if name in taken})
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, (tuple, list)) else module(inputs)


def tensors(nest: Any) -> Iterator[torch.Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(nest, torch.Tensor):
        yield nest
    elif isinstance(nest, (tuple, list)):
        for item in nest:
            yield from tensors(item)
    elif isinstance(nest, Mapping):
        for item in nest.values():
            yield from tensors(item)


def mapped(nest: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The nest with every tensor changed."""
    if isinstance(nest, torch.Tensor):
        return change(nest)
    if isinstance(nest, (tuple, list)):
        return type(nest)(mapped(item, change) for item in nest)
    return {key: mapped(item, change) for key, item in nest.items()} if isinstance(nest, Mapping) else nest


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Make norm statistics, affine parameters and constants (layer scales) random, so that mistakes show."""
    generator = torch.Generator().manual_seed(seed)
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.numel():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)


def random_sizes(groups: Sequence[ChannelGroup], low: float, high: float, seed: int) -> dict[str, int]:
    """A random allowed size between ``low`` and ``high`` times the present one for each group."""
    generator = random.Random(seed)
    sizes = {}
    for group in groups:
        first = max(group.minimum, int(group.size * low) // group.quantum * group.quantum)
        last = max(first, int(group.size * high) // group.quantum * group.quantum)
        sizes[group.name] = generator.randrange(first, last + 1, group.quantum)
    return sizes


def check_everything(
    model: nn.Module,
    inputs: Any,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    alone: bool = True,
    double: bool = True,
    loses: bool = False,
    **options: bool,
) -> ChannelPlan:
    """Every invariant on ``model``; returns its plan. ``options`` go to ``analyze``; ``alone`` also resizes each group
    by itself. The model is taken as it is: its mode is the mode of the plan. ``loses`` allows that channels which would
    stand elsewhere start anew; without it the warning that says so is an error.
    """
    plan = check_caller_is_untouched(model, inputs, loses, **options)
    check_identity(model, plan, inputs)
    for seed in seeds:
        check_resized(plan, random_sizes(plan.free, 0.3, 2, seed), inputs)
    if alone:
        for group in plan.free:
            check_resized(plan, {group.name: group.size + group.quantum}, inputs)
            check_resized(plan, {group.name: group.minimum}, inputs)
    model = copy.deepcopy(model)
    randomise(model)
    if double:
        model, inputs = model.double(), mapped(inputs, lambda t: t.double() if t.is_floating_point() else t)
    plan = conet_fx.analyze(model, inputs, **options)
    for seed in seeds:
        check_growing_keeps_the_function(model, plan, inputs, seed)
        check_shrinking_masks(model, plan, inputs, seed, loses)
    return plan


def check_caller_is_untouched(model: nn.Module, inputs: Any, loses: bool = False, **options: bool) -> ChannelPlan:
    """The plan, after which state, modes, hooks and random state of the caller are what they were."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identity = [id(p) for p in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    plan = conet_fx.analyze(model, inputs, **options)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    inherited(plan, random_sizes(plan.free, 0.5, 2, seed=9), loses)
    assert [module.training for module in model.modules()] == modes
    assert [id(p) for p in (*model.parameters(), *model.buffers())] == identity
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    return plan


def check_identity(model: nn.Module, plan: ChannelPlan, inputs: Any) -> None:
    """The traced module and a resize to the present sizes give the bits of the original."""
    resized = plan.resize({}, init="inherit")
    for positions in resized.meta["conet_fx"]["kept"].values():
        assert torch.equal(positions, torch.arange(len(positions)))
    source = origin(plan, model, resized)
    assert list(resized.state_dict()) == list(source.state_dict())
    assert set(resized.state_dict()) <= set(model.state_dict()) | set(source.state_dict())
    training = model.training and (plan.trace.one_mode or plan.trace.pieces is not None)
    expected = outputs(model, inputs, training)
    for module in (source, resized) if source is not model else (resized,):
        got = outputs(module, inputs, training)
        assert len(expected) == len(got)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def origin(plan: ChannelPlan, model: nn.Module, resized: nn.Module) -> nn.Module:
    """What ``resized`` was made from: the traced module, or ``model`` where the result is of the user's class."""
    return plan.trace.graph_module if isinstance(resized, fx.GraphModule) else model


def check_resized(
    plan: ChannelPlan, sizes: Mapping[str, int], inputs: Any, expected: Mapping[bool, set[str]] | None = None
) -> None:
    """The resized module runs forward and backward in both modes, and costs what the plan says.

    ``expected``: :func:`trained_parameters` of the original, where the caller has them already.
    """
    resized = plan.resize(sizes)
    if isinstance(resized, fx.GraphModule):
        resized.graph.lint()
    cost = plan.cost(sizes)
    assert sum(p.numel() for p in resized.parameters()) == cost.params, sizes
    if expected is None:
        expected = trained_parameters(plan, plan.trace.graph_module, inputs)
    if plan.trace.pieces is None:  # what lies between the pieces is not counted
        with counting() as counter, torch.no_grad():
            call(resized, inputs)
        assert counter.get_total_flops() // 2 == cost.macs, sizes
    for training, names in expected.items():
        assert gradients(resized, inputs, training) == names, sizes


def trained_parameters(plan: ChannelPlan, module: nn.Module, inputs: Any) -> dict[bool, set[str]]:
    """The parameters that get a gradient in eval (False) and train (True) mode, for the modes that the plan is of.

    A model that was traced in pieces (a detector) takes the inputs in its own mode only.
    """
    own_mode_only = plan.trace.one_mode or plan.trace.pieces is not None
    modes = (module.training,) if own_mode_only else (False, True)
    return {training: gradients(module, inputs, training) for training in modes}


def check_growing_keeps_the_function(model: nn.Module, plan: ChannelPlan, inputs: Any, seed: int) -> None:
    """New channels enter with zero reader weights: outputs stay, where no operator mixes channels."""
    sizes = random_sizes([g for g in plan.free if not g.mixed_by], 1, 2, seed)
    close(plan.resize(sizes, init="inherit"), model, inputs, plan)


def check_shrinking_masks(model: nn.Module, plan: ChannelPlan, inputs: Any, seed: int, loses: bool = False) -> None:
    """A shrunken module equals the original whose readers ignore the channels that went."""
    sizes = random_sizes([g for g in plan.free if not g.mixed_by], 0.3, 1, seed)
    resized = inherited(plan, sizes, loses)
    close(resized, masked(plan, resized, model), inputs, plan)


def inherited(plan: ChannelPlan, sizes: Mapping[str, int], loses: bool) -> fx.GraphModule:
    """The resized module. It must inherit all channels that the sizes leave, unless it ``loses`` some and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore" if loses else "error", "[^ ]* inherits only")
        return plan.resize(sizes, init="inherit")


@torch.no_grad()
def masked(plan: ChannelPlan, resized: nn.Module, model: nn.Module) -> nn.Module:
    """The original with zero weights wherever it reads a channel that ``resized`` does not have."""
    module = copy.deepcopy(origin(plan, model, resized))
    kept = resized.meta["conet_fx"]["kept"]
    for path, role in plan.facts.reading:
        if (path, role) not in kept:
            continue
        owner = module
        for name in path.split("."):
            owner = getattr(owner, name)
        positions = kept[path, role]
        assert len(positions) == width(resized, path, role)
        stayed = positions[positions >= 0].tolist()
        assert len(set(stayed)) == len(stayed)
        if isinstance(owner, torch.Tensor):
            zero_others(owner, int(role), positions)
        elif isinstance(owner, nn.MultiheadAttention):
            zero_others(attention_weight(owner, role), 1, positions)
        elif isinstance(owner, nn.Linear):
            zero_others(owner.weight, 1, positions)
        elif isinstance(owner, RECURRENT):
            for name, weight in owner.named_parameters():
                if name == "weight_ih" or name.startswith("weight_ih_l0"):
                    zero_others(weight, 1, positions)
        elif getattr(owner, "transposed", False):
            zero_others(owner.weight, 0, positions)
        else:
            blocks = owner.groups
            present = torch.zeros(owner.in_channels, dtype=torch.bool)
            present[positions[positions >= 0]] = True
            for weight, here in zip(owner.weight.chunk(blocks), present.chunk(blocks), strict=True):
                zero_others(weight, 1, here.nonzero().flatten())
    return module


def width(module: nn.Module, path: str, role: str) -> int:
    """Input channels of the layer at ``path``, or the length of axis ``role`` of a parameter."""
    owner: Any = module
    for name in path.split("."):
        owner = getattr(owner, name)
    if isinstance(owner, torch.Tensor):
        return owner.shape[int(role)]
    if isinstance(owner, nn.MultiheadAttention):
        return attention_weight(owner, role).shape[1]
    if isinstance(owner, RECURRENT):
        return int(owner.input_size)
    return int(owner.in_features if isinstance(owner, nn.Linear) else owner.in_channels)


def attention_weight(owner: nn.MultiheadAttention, role: str) -> torch.Tensor:
    """The weight whose columns read what comes in (from queries, keys, values) or out of the heads."""
    if role == "heads":
        return owner.out_proj.weight
    packed = {"in": owner.in_proj_weight}
    separate = {"in": owner.q_proj_weight, "key": owner.k_proj_weight, "value": owner.v_proj_weight}
    weight = (packed if owner.in_proj_weight is not None else separate)[role]
    assert isinstance(weight, torch.Tensor)
    return weight


def zero_others(weight: torch.Tensor, axis: int, kept: torch.Tensor) -> None:
    """Zero every slice of ``weight`` along ``axis`` but the kept ones."""
    gone = torch.ones(weight.shape[axis], dtype=torch.bool)
    gone[kept[kept >= 0]] = False
    weight.transpose(0, axis)[gone] = 0


def close(a: nn.Module, b: nn.Module, inputs: Any, plan: ChannelPlan | None = None) -> None:
    """Both modules give the same outputs in eval mode, up to rounding.

    Of a model that is traced in pieces those of the first call of each piece: what a detector does with them may turn
    on the last bit (equal scores are sorted).
    """
    pieces = plan.trace.pieces.paths if plan is not None and plan.trace.pieces else ()
    with first_outputs(a, pieces) as ours, first_outputs(b, pieces) as theirs:
        whole = outputs(a, inputs), outputs(b, inputs)
    left, right = (ours, theirs) if pieces else whole
    for got, expected in zip(tensors(left), tensors(right), strict=True):
        assert got.shape == expected.shape
        if not expected.numel():  # a detector that finds nothing
            continue
        if expected.dtype == torch.bool:
            got, expected = got.float(), expected.float()
        scale = float(expected.abs().max())
        tolerance = TOLERANCE if expected.dtype == torch.float64 else 1e-4
        assert float((got - expected).abs().max()) <= tolerance * max(scale, 1e-3)


@contextlib.contextmanager
def first_outputs(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the submodules at ``paths`` give when they are called first."""
    found: dict[str, Any] = {}

    def hook(path: str) -> Callable[..., None]:
        def note(part: nn.Module, args: Any, result: Any) -> None:
            found.setdefault(path, result)

        return note

    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def outputs(module: nn.Module, inputs: Any, training: bool = False) -> list[torch.Tensor]:
    """Output tensors in eval (or train) mode; the module is left as it was."""
    torch.manual_seed(0)
    if training:  # running statistics change
        return list(tensors(call(copy.deepcopy(module).train(), inputs)))
    modes = {part: part.training for part in module.modules()}
    try:
        return list(tensors(call(module.eval(), inputs)))
    finally:
        for part, mode in modes.items():
            part.training = mode


def gradients(module: nn.Module, inputs: Any, training: bool) -> set[str]:
    """Names of the parameters that get a gradient; the module is left as it was, without a copy, which may be large."""
    modes = {part: part.training for part in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    try:
        out = [t for t in tensors(call(module.train(training), inputs)) if t.requires_grad]
        if out:
            torch.stack([t.sum() for t in out]).sum().backward()
        return {name for name, p in module.named_parameters() if p.grad is not None}
    finally:
        module.zero_grad(set_to_none=True)
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
