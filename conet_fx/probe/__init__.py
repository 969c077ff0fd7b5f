"""The probe: numerical rank, condition and knowledge gain of weights (paper 2.1, 2.2)."""

from conet_fx.probe.evbmf import Factorization, evbmf
from conet_fx.probe.metrics import LayerMetrics, NonFiniteError, layer_metrics, probe, probed_layers

__all__ = ["Factorization", "LayerMetrics", "NonFiniteError", "evbmf", "layer_metrics", "probe", "probed_layers"]
