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
from conet_fx.measure import Comparison, Latency, Measurement, compare, measure
from conet_fx.optimize import optimize
from conet_fx.optimizer import resize_optimizer
from conet_fx.passes.info import ChannelInfo
from conet_fx.plan import ChannelGroup, ChannelPlan, Cost, analyze
from conet_fx.recalibrate import recalibrate_bn
from conet_fx.recipe import apply, load
from conet_fx.registration import Registration, register_module, register_op
from conet_fx.saving import save
from conet_fx.search.config import SearchConfig
from conet_fx.search.history import Trial
from conet_fx.search.result import SearchResult
from conet_fx.static_scale import static_scale

__version__ = "0.1.0"

__all__ = [
    "ChannelGroup",
    "ChannelInfo",
    "ChannelPlan",
    "Comparison",
    "ConetError",
    "ConstraintError",
    "Cost",
    "ExportError",
    "Latency",
    "Measurement",
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
    "compare",
    "export",
    "load",
    "measure",
    "optimize",
    "probe",
    "recalibrate_bn",
    "register_module",
    "register_op",
    "resize_optimizer",
    "save",
    "search",
    "static_scale",
]
