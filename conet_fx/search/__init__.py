"""The search: decisions (paper Algorithm 2), static scaling (Eq. 4), AdaS, and the trial loop."""

from conet_fx.search.adas import AdaS
from conet_fx.search.config import SearchConfig
from conet_fx.search.decisions import GroupState, decide, reason
from conet_fx.search.static import static_sizes

__all__ = [
    "AdaS",
    "GroupState",
    "SearchConfig",
    "decide",
    "reason",
    "static_sizes",
]
