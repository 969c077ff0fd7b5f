"""A recipe on an instance of the user's own class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from conet_fx.errors import RecipeError
from conet_fx.passes.closures import copy_module
from conet_fx.passes.nodes import computed_by_hooks, plain_subclass
from conet_fx.recipe.build import build, named_tensors, plain_attributes, refresh
from conet_fx.recipe.describe import arguments_of
from conet_fx.recipe.files import digest
from conet_fx.recipe.layers import follow_weights
from conet_fx.recipe.names import qualified_name
from conet_fx.recipe.spec import Recipe
from conet_fx.recipe.widths import settle_widths

_SIZE_ARGUMENTS = frozenset(
    (
        *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"),
        *("num_channels", "num_groups", "num_parameters", "normalized_shape"),
        *("embed_dim", "num_heads", "kdim", "vdim", "packed", "num_embeddings", "embedding_dim"),
        *("input_size", "hidden_size", "proj_size", "unflattened_size", "weight_shape"),
    )
)


def transfer(model: nn.Module, recipe: Recipe) -> nn.Module:
    """See :func:`conet_fx.recipe.apply`."""
    built = build(recipe)
    if found := list(_differences(recipe, built, model)):
        raise RecipeError(
            f"the recipe (made from {recipe.model.get('class', 'an unnamed model')}) does not belong to this "
            f"{qualified_name(type(model))}: {'; '.join(found[:3])}"
            + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        )
    resized = copy_module(model, {**computed_by_hooks(model)})
    old, new = dict(named_tensors(resized)), dict(named_tensors(built))
    fresh: dict[int, Tensor] = {}
    for name in old.keys() & new.keys():
        tensor = new[name].detach().to(old[name].device)
        is_parameter = isinstance(old[name], nn.Parameter)
        fresh[id(old[name])] = nn.Parameter(tensor, old[name].requires_grad) if is_parameter else tensor
    for module in resized.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:  # a shared tensor is replaced under all of its names
            store.update({key: fresh.get(id(tensor), tensor) for key, tensor in store.items()})
    for path, spec in recipe.modules.items():
        if spec.cls is not None:
            leaf = resized.get_submodule(path)
            for part, twin in built.get_submodule(path).named_modules():
                vars(leaf.get_submodule(part)).update(plain_attributes(twin))
            refresh(leaf)
    follow_weights(resized, built, [path for path, spec in recipe.modules.items() if spec.cls is not None])
    settle_widths(resized, model, recipe, built)
    return resized


def identify(model: nn.Module) -> dict[str, str]:
    """What tells a user's model from others: its class, and the sha256 of the names of its tensors."""
    names = sorted(name for name, _ in named_tensors(model))
    return {"class": qualified_name(type(model)), "keys": digest(names)}


def _differences(recipe: Recipe, built: GraphModule, model: nn.Module) -> Iterator[str]:
    """In what ``model``, apart from sizes, is not what ``recipe`` was made from."""
    made_from, own = recipe.model.get("class", ""), qualified_name(type(model))
    graphs = any(name.startswith("torch.fx.") for name in (made_from, own))  # all of one class, whatever they hold
    if made_from and not graphs and made_from.rpartition(".")[2] != own.rpartition(".")[2]:
        yield f"its class is {own}, not {made_from}"  # the module may differ: __main__ is another name for it
    present = dict(model.named_modules(remove_duplicate=False))
    for path, spec in recipe.modules.items():
        if spec.cls is None:
            continue
        if path not in present:
            yield f"the model has no module {path!r}"
        elif plain_subclass(present[path]) is not type(built.get_submodule(path)):
            yield f"module {path!r} is a {qualified_name(type(present[path]))} in the model, " + (
                f"a {spec.cls} in the recipe"
            )
        else:
            for name, ours in arguments_of(path, present[path]).items():
                if name not in _SIZE_ARGUMENTS and ours != (theirs := spec.arguments.get(name)):
                    yield f"module {path!r} has {name}={ours} in the model, {theirs} in the recipe"
    tensors, model_tensors = dict(named_tensors(built)), dict(named_tensors(model))
    missing = [name for name in tensors if name not in model_tensors and not _CONSTANT.fullmatch(name)]
    yield from (f"the model has no {name!r}" for name in missing)
    for name, tensor in tensors.items():
        if name in model_tensors and tensor.dim() != model_tensors[name].dim():
            dims = f"{model_tensors[name].dim()} dimensions in the model, {tensor.dim()} in the recipe"
            yield f"{name!r} has {dims}"
    if not missing and recipe.model.get("keys") != identify(model)["keys"]:
        unknown = [name for name in model_tensors if name not in tensors]
        yield from (f"the recipe has no {name!r}" for name in unknown)
        if "keys" in recipe.model and not unknown:
            yield "the recipe was made from a model with more parameters and buffers"


_CONSTANT = re.compile(r"_tensor_constant\d+")  # a tensor that forward itself makes
