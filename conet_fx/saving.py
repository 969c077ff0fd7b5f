"""save(): a resized network on disk, with what its plan knows of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

from torch import nn

from conet_fx import recipe
from conet_fx.errors import RecipeError
from conet_fx.passes.info import KEY
from conet_fx.plan import ChannelPlan


def save(
    module: nn.Module,
    plan: ChannelPlan,
    dir: str | os.PathLike[str],
    *,
    model_id: Mapping[str, str] | None = None,
) -> None:
    """Write ``module`` to ``dir`` (made if missing) as ``model.safetensors`` and ``recipe.json``: :func:`conet_fx.load`
    and :func:`conet_fx.apply` read them. What is kept and what is not: :func:`conet_fx.recipe.save`. A model that was
    traced in pieces (``plan.trace.pieces``) is for :func:`conet_fx.apply` only, and so, with a warning, is one whose
    graph calls code of the user's (a module that torch.fx cannot look into, an autograd function).

    Args:
        module: what ``plan.resize(sizes)`` gave, trained or not; or ``plan.trace.graph_module``, the network as it was
            traced. It is not changed.
        plan: ``analyze(model, example)``; the recipe gets its groups, and which model it is of.
        dir: the directory; other files in it are left alone.
        model_id: of another model than that of the plan, for ``apply``: that of the recipe, where the plan is of a
            network that was loaded.

    Raises:
        RecipeError: ``module`` does not come from ``plan``, or something in it cannot be written as data. Nothing has
            been written then.
    """
    known = getattr(module, "meta", {}).get(KEY, {}).get("sizes")
    sizes = plan.sizes if module is plan.trace.graph_module else known
    if sizes is None or sizes.keys() != plan.sizes.keys():
        raise RecipeError(
            f"this {type(module).__name__} is not what plan.resize of this plan gave, so that the sizes of its groups "
            "are not known: save the result of plan.resize"
        )
    groups = {group.name: recipe.GroupSpec(sizes[group.name], group.quantum) for group in plan.groups}
    if model_id is None:
        model_id = recipe.identify(plan.trace.model or module)
    try:
        recipe.save(module, dir, groups=groups, model_id=model_id, call=plan.trace.call)
    except recipe.CodeError as error:
        recipe.save(module, dir, groups=groups, model_id=model_id, call=plan.trace.call, with_graph=False)
        warnings.warn(
            f"{os.fspath(dir)} has sizes and weights, but no graph, since {error}. conet_fx.apply puts them into your "
            "class; conet_fx.load cannot build the network without it",
            stacklevel=2,
        )
