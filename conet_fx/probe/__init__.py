"""The probe: numerical rank, condition and knowledge gain of weights (paper 2.1, 2.2)."""

from conet_fx.probe.beside import Pending, Prober
from conet_fx.probe.evbmf import Factorization, evbmf
from conet_fx.probe.groups import group_condition, group_rank, plateau, rank_slope
from conet_fx.probe.layers import ProbedLayer, probed_layers
from conet_fx.probe.metrics import LayerMetrics, NonFiniteError, layer_metrics, probe

__all__ = [
    "Factorization",
    "LayerMetrics",
    "NonFiniteError",
    "Pending",
    "ProbedLayer",
    "Prober",
    "evbmf",
    "group_condition",
    "group_rank",
    "layer_metrics",
    "plateau",
    "probe",
    "probed_layers",
    "rank_slope",
]
