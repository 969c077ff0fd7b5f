"""Whether the user's ``forward`` follows a recipe: a width that is spelt out in it does not change by itself.

Nothing is computed: the ``forward`` of a copy on the meta device is followed along the graph of the recipe, on inputs
of the shapes that the recipe was made on (:mod:`conet_fx.passes.follow`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fractions import Fraction

import torch
from torch import nn
from torch.fx import GraphModule

from conet_fx.errors import RecipeError, TraceError
from conet_fx.passes import ops
from conet_fx.passes.closures import copy_module
from conet_fx.passes.follow import Followed, Named, Owner, Use, follow
from conet_fx.passes.inputs import Arguments
from conet_fx.passes.nodes import computed_by_hooks, hooks_that_compute
from conet_fx.passes.record import Recorder
from conet_fx.passes.shapes import Shapes, undisturbed
from conet_fx.recipe.names import qualified_name
from conet_fx.recipe.spec import Recipe
from conet_fx.recipe.values import decode_call

_SHOWN = 3  # lines of the user's in one message
_WAY_OUT = (
    "Write x.shape[1] (or the like) in place of the number, or use conet_fx.load, which gives the network as a "
    "torch.fx.GraphModule with all widths set, as plan.resize does"
)


def settle_widths(resized: nn.Module, model: nn.Module, recipe: Recipe, built: GraphModule) -> None:
    """Set the integer attributes of ``resized`` that are widths of the graph and nothing else to those of the recipe.

    An attribute (or an item of a tuple or list) is set where the graph has another number wherever ``forward`` uses it
    as it is, always the same, and where ``forward`` then has all the numbers of the graph, those computed from
    attributes included, in both modes. One that an assertion compares with a size is set to the width of the layer
    beside it that had its size. ``model``: the caller's, before.

    A recipe that does not say what it was traced on, and a model that takes another path in both modes, are taken as
    they are.

    Raises:
        RecipeError: a width is spelt out elsewhere, or ``resized`` does not run where ``model`` and the recipe do.
    """
    call = _call(resized, recipe, built)
    if call is None:
        return
    leaves = {path for path, spec in recipe.modules.items() if spec.cls is not None}
    sketch = _sketch(resized)
    if sketch is None:
        return
    if not recipe.has_graph:  # its numbers cannot be held against others
        with undisturbed():
            _must_run(sketch, model, call)
        return
    with undisturbed():
        followed, fixes = _in_both_modes(_named(sketch, leaves), call, built), dict[Owner, int]()
        if not any(followed):
            fixes = _compared_widths(sketch, _widths_of_own_layers(resized, model), leaves, call, built)
            _set(sketch, fixes)
            followed = _in_both_modes(_named(sketch, leaves), call, built) if fixes else []
        if not any(followed):
            _must_run(sketch, model, call)
            return
        wrong = _wrong(followed, model, call, built)
        if not wrong:
            _set(resized, fixes)
            return
        still = wrong
        lost = False  # what could be followed, no longer
        while not lost and (more := _attributes(followed, still)).keys() - fixes.keys():
            fixes |= more
            _set(sketch, fixes)
            again = _in_both_modes(_named(sketch, leaves), call, built)
            lost = any(before and not after for before, after in zip(followed, again, strict=False))
            followed, still = again, _wrong(again, model, call, built)
            if not lost and not still and (all(again) or not _breaks(sketch, model, call)):
                _set(resized, fixes)
                return
    raise RecipeError(
        f"this {qualified_name(type(model))} cannot take the sizes of the recipe, because its code spells them out: "
        f"{_said(wrong)}. {_WAY_OUT}"
    )


def _widths_of_own_layers(resized: nn.Module, model: nn.Module) -> dict[Owner, int]:
    """What integer attributes would be that are as large as a layer of their module was: ``channels``, which an
    assertion compares with those of the input. A guess, for a ``forward`` that does not run without it.
    """
    guesses: dict[Owner, int] = {}
    for path, module in resized.named_modules():
        before = model.get_submodule(path)
        changed: dict[str, dict[int, set[int]]] = {"in": {}, "out": {}}
        for name, layer in module.named_children():
            old = vars(before.get_submodule(name))
            for key, number in vars(layer).items():
                side = key.partition("_")[0]
                if side in changed and type(number) is int:
                    changed[side].setdefault(old[key], set()).add(number)
        for name, value in vars(module).items():
            if type(value) is int:
                sides = [side for side in changed if side in name.split("_")] or list(changed)
                found = next((changed[side][value] for side in sides if value in changed[side]), set())
                if len(found) == 1 and value not in found:
                    guesses[Owner(path, name)] = next(iter(found))
    return guesses


def _compared_widths(
    sketch: nn.Module, guesses: dict[Owner, int], leaves: Collection[str], call: Arguments, built: GraphModule
) -> dict[Owner, int]:
    """Those guesses that ``forward`` looks at, where it can be followed with them."""
    trial = copy_module(sketch, {})
    _set(trial, guesses)
    followed = _in_both_modes(_named(trial, leaves), call, built) if guesses else []
    looked_at = {owner for each in followed if each for owner in each.compared}
    looked_at |= {base for each in followed if each for use in each.uses for base in use.bases}
    return {owner: number for owner, number in guesses.items() if owner in looked_at}


def _call(model: nn.Module, recipe: Recipe, built: GraphModule) -> Arguments | None:
    """The call that the recipe was made on, in numbers of the type of its weights where it has changed since."""
    if recipe.call is None:
        return None
    args, kwargs = decode_call(recipe.call)
    try:
        call = Arguments.bind(model, args, kwargs)
    except TypeError:  # a forward of other arguments
        return None
    if not recipe.has_graph or _runs(built, call):
        return call
    types = {tensor.dtype for tensor in built.parameters() if tensor.is_floating_point()}
    return next((other for dtype in types if _runs(built, other := call.on_meta(floats=dtype))), None)


def _runs(built: GraphModule, call: Arguments) -> bool:
    shapes = Shapes(torch.device("cpu"))
    values: dict[object, object] = {}
    try:
        with undisturbed():
            for node in built.graph.nodes:
                given = node.op == "placeholder"
                values[node] = call[str(node.target)] if given else shapes.of(node, built, values.__getitem__)
    except Exception:  # whatever an operator has against other inputs than those of its user
        return False
    return True


def _sketch(model: nn.Module) -> nn.Module | None:
    """A copy on the meta device without hooks, which are not to be called here; None where there can be none."""
    memo: dict[int, object] = {**computed_by_hooks(model)}
    for tensor in (*model.parameters(), *model.buffers()):
        if nn.parameter.is_lazy(tensor):
            return None
        new = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    sketch = copy_module(model, memo)
    for module in sketch.modules():
        for name, value in vars(module).items():
            if "hooks" in name and isinstance(value, dict) and not hooks_that_compute(module):
                value.clear()
    return sketch


def _named(sketch: nn.Module, leaves: Collection[str]) -> nn.Module:
    """A copy in which integer attributes know what they are; those of the leaves of a recipe follow it anyway."""
    named = copy_module(sketch, {})
    for path, module in named.named_modules():
        if path not in leaves and not isinstance(module, GraphModule):
            for name, value in vars(module).items():
                if type(value) is int:
                    vars(module)[name] = Named.of(value, Owner(path, name))
                elif type(value) in (tuple, list) and all(type(item) is int for item in value):
                    items = (Named.of(item, Owner(path, name, number)) for number, item in enumerate(value))
                    vars(module)[name] = type(value)(items)
    return named


def _set(model: nn.Module, fixes: dict[Owner, int]) -> None:
    for (path, name, item), number in fixes.items():
        own = vars(model.get_submodule(path))
        value = own[name]
        own[name] = number if item is None else type(value)((*value[:item], number, *value[item + 1 :]))


def _in_both_modes(model: nn.Module, call: Arguments, built: GraphModule) -> list[Followed | None]:
    """What following gives in the present mode and, where the code looks at it, in the other."""
    found = [follow(model, call, built, ops.knows)]
    if found[0] is None or found[0].reads_mode:
        found.append(follow(model, call, built, ops.knows, flip_mode=True))
    return found


def _wrong(
    followed: Iterable[Followed | None], model: nn.Module, call: Arguments, built: GraphModule
) -> dict[tuple[str, int], Use]:
    """The numbers that are not those of the graph: counts, and other numbers that have come from sizes.

    A float that ``model`` had before (the rate of a dropout) is a setting of the caller's.
    """
    uses = {(use.node, use.place): use for each in followed if each for use in each.uses if use.differs}
    wrong = {key: use for key, use in uses.items() if isinstance(use.found, int) and isinstance(use.wanted, int)}
    if len(wrong) < len(uses) and (sketch := _sketch(model)):
        before = [use for each in _in_both_modes(sketch, call, built) if each for use in each.uses]
        settings = {(use.node, use.place, use.found) for use in before}
        known = {(use.node, use.place) for use in before}
        for key, use in uses.items():
            if key in known and (*key, use.found) not in settings:
                wrong[key] = use
    return wrong


def _attributes(followed: Iterable[Followed | None], wrong: dict[tuple[str, int], Use]) -> dict[Owner, int]:
    """What the attributes that ``wrong`` numbers are, or are computed from, would have to be, where that is one number.

    An attribute of which numbers are computed is taken to be in proportion to them: that is a guess, which following
    once more confirms or not.
    """
    uses = [use for each in followed if each for use in each.uses]
    wanted: dict[Owner, set[int]] = {}
    for use in uses:
        if use.owner is not None:
            wanted.setdefault(use.owner, set()).add(int(use.wanted))
    known = set(wanted)
    for use in uses:
        unknown = [base for base in use.bases if base not in known]
        if unknown and use.found:
            base = max(unknown, key=use.bases.__getitem__)  # rather than the number of heads or branches
            guess = round(Fraction(use.bases[base]) * Fraction(use.wanted) / Fraction(use.found))
            wanted.setdefault(base, set()).add(guess)
    owners = {owner for use in wrong.values() for owner in use.bases if owner in wanted}
    return {owner: min(wanted[owner]) for owner in owners if len(wanted[owner]) == 1}


def _said(wrong: dict[tuple[str, int], Use]) -> str:
    lines = list(dict.fromkeys(_line(use) for use in wrong.values()))
    return "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def _line(use: Use) -> str:
    name = str(use.owner or "") or ("from " + ", ".join(map(str, use.bases)) if use.bases else "")
    where = f"module {use.scope!r}" if use.scope else "the model itself"
    return (
        f"{use.found}{f' ({name})' if name else ''} where the recipe has {use.wanted}, in {use.operator} at {use.line} "
        f"({where})"
    )


def _must_run(sketch: nn.Module, model: nn.Module, call: Arguments) -> None:
    """Raise where ``sketch`` runs in neither mode, but ``model`` does: all that can be told of another path."""
    failures = _failures(sketch, call)
    before = _sketch(model)
    if len(failures) == 2 and before is not None and len(_failures(before, call)) < 2:
        raise RecipeError(
            f"this {qualified_name(type(model))} does not run at the sizes of the recipe: {failures[False]}. {_WAY_OUT}"
        )


def _breaks(sketch: nn.Module, model: nn.Module, call: Arguments) -> bool:
    """Whether ``sketch`` fails in a mode, perhaps one that cannot be followed, in which ``model`` runs."""
    failures = _failures(sketch, call)
    before = _sketch(model)
    return bool(failures) and (before is None or not failures.keys() <= _failures(before, call).keys())


def _failures(model: nn.Module, call: Arguments) -> dict[bool, TraceError]:
    """What the present mode (False) and the other (True) have against the call."""
    found: dict[bool, TraceError] = {}
    for flip_mode in (False, True):
        try:
            Recorder(model, call, ops.knows, flip_mode).record()
        except TraceError as error:
            found[flip_mode] = error
    return found
