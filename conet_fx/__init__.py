"""conet-fx: find the right channel size for every layer of a CNN."""

from conet_fx.errors import ConetError, ConstraintError, RecipeError, ResizeError, SearchError, TraceError
from conet_fx.plan import ChannelGroup, ChannelPlan, Cost, analyze

__all__ = [
    "ChannelGroup",
    "ChannelPlan",
    "ConetError",
    "ConstraintError",
    "Cost",
    "RecipeError",
    "ResizeError",
    "SearchError",
    "TraceError",
    "analyze",
]
