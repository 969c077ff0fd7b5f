"""What a search returns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from torch import fx

from conet_fx.plan import ChannelPlan, Cost
from conet_fx.saving import save
from conet_fx.search.history import Trial


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The network that a search found.

    ``model``: with the found sizes, its weights fresh or trained as the configuration said. ``sizes``: channels of each
    free group. ``plan``: of the model that was handed in; ``plan.resize(result.sizes)`` makes further copies.
    ``history``: all trials. ``cost``: parameters, and multiply-adds for one sample.
    """

    model: fx.GraphModule
    sizes: dict[str, int]
    plan: ChannelPlan
    history: Sequence[Trial]
    cost: Cost
    model_id: Mapping[str, str] = dataclasses.field(repr=False)

    def save(self, dir: str | os.PathLike[str]) -> None:
        """Write weights and recipe to ``dir``; :func:`conet_fx.load` and :func:`conet_fx.apply` read them back.

        Raises :class:`~conet_fx.errors.RecipeError` for a model that :func:`conet_fx.save` cannot save.
        """
        save(self.model, self.plan, dir, model_id=self.model_id)
