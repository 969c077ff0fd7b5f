"""conet-fx: find the right channel size for every layer of a CNN."""

from conet_fx import probe, search
from conet_fx.errors import (
    ConetError,
    ConstraintError,
    ExportError,
    RecipeError,
    ResizeError,
    SearchError,
    TraceError,
)
from conet_fx.export import export
from conet_fx.optimize import optimize
from conet_fx.passes.info import ChannelInfo
from conet_fx.plan import ChannelGroup, ChannelPlan, Cost, analyze
from conet_fx.recipe import apply, load, save
from conet_fx.registration import Registration, register_module, register_op
from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Trial
from conet_fx.search.result import SearchResult

__version__ = "0.1.0"

__all__ = [
    "ChannelGroup",
    "ChannelInfo",
    "ChannelPlan",
    "ConetError",
    "ConstraintError",
    "Cost",
    "ExportError",
    "RecipeError",
    "Registration",
    "ResizeError",
    "SearchConfig",
    "SearchError",
    "SearchResult",
    "TraceError",
    "Trial",
    "analyze",
    "apply",
    "export",
    "load",
    "optimize",
    "probe",
    "register_module",
    "register_op",
    "save",
    "search",
]
