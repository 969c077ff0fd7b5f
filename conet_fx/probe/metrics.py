"""Rank, condition and knowledge gain of conv and linear weights (paper 2.1, Eq. 1 and 3).

A weight [Cout, Cin, *kernel] is unfolded along its output channels (mode 4, Cout x Cin*kernel) and along its input
channels (mode 3, Cin x Cout*kernel). EVBMF splits each unfolding into low rank + noise and keeps N'_d shrunken
singular values sigma_1 >= ... >= sigma_N'_d. With N_d the channels of that mode, Cout or Cin,

    rank       R_d = N'_d / N_d
    condition  kappa_d = sigma_1 / sigma_N'_d,            0 where nothing is kept
    gain       G_d = sum_h (sigma_h / sigma_1) / N_d,     0 where nothing is kept

N_d counts channels also where an unfolding has more rows than columns and is factorised as its transpose: a 1x1 conv
from 16 to 64 channels can never show more than 8 of its 64 output channels. `cap_in` and `cap_out` say that.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from conet_fx.errors import SearchError
from conet_fx.probe.evbmf import Tau, solve
from conet_fx.probe.layers import probed_layers
from conet_fx.probe.spectra import gram, normalise, start_eigenvalues
from conet_fx.probe.threads import crew, one_thread, usable_cpus

_BATCH = 1 << 18  # most entries of weights that are multiplied together, unless one layer has more
_GPU_BATCH = 1 << 23  # on a GPU, where a product takes no longer than to ask for it: 64 MiB in float64


@dataclasses.dataclass(frozen=True)
class LayerMetrics:
    """What the probe says of one layer; _in is along the input channels (mode 3), _out along the output (mode 4).

    `rank` R, `gain` G and `cap`, the highest R that a weight of this shape can show, are in [0, 1); `condition` kappa
    is a ratio >= 1, or 0 where the rank is 0.
    """

    rank_in: float
    rank_out: float
    condition_in: float
    condition_out: float
    gain_in: float
    gain_out: float
    cap_in: float = 1.0
    cap_out: float = 1.0


class NonFiniteError(SearchError):
    """Some weights are NaN or infinite: training diverged. The other layers were measured all the same.

    `layers` are the paths of the bad modules, `metrics` what was measured of the good ones.
    """

    def __init__(self, layers: Sequence[str], metrics: dict[str, LayerMetrics]) -> None:
        more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
        super().__init__(
            f"NaN or infinite weights in {', '.join(map(repr, layers[:8]))}{more}: training diverged; "
            "lower the learning rate, or train in a wider precision"
        )
        self.layers = tuple(layers)
        self.metrics = metrics

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[Sequence[str], dict[str, LayerMetrics]]]:
        return type(self), (self.layers, self.metrics)  # processes tell each other


def probe(model: nn.Module, *, linear: bool = False, tau: Tau = "exact") -> dict[str, LayerMetrics]:
    """Measure every conv of a model; nothing in it changes, and no graph is recorded.

    Dense and grouped convs and transposed convs of 1, 2 or 3 dimensions count, depthwise ones (groups == in_channels
    > 1) do not (paper 4.1). The weights may lie on any device; what the CPU does is done in one thread, so that the
    answer does not depend on how many there are. A grouped weight is taken as it is stored: its input channels are
    those of one group, since all groups share the axis (for a transposed conv: the output channels).

    Args:
        linear: measure `nn.Linear` too.
        tau: as for `evbmf`.

    Returns:
        Metrics by module path, in the order of `named_modules`; a shared module once, by its first path.

    Raises:
        NonFiniteError: weights are NaN or infinite. It names the layers, and has the metrics of all others.
        ValueError: a weight is empty, complex or sparse, or holds no numbers (on the meta device, or of a lazy layer).
    """
    return measure(probed_weights(model, linear=linear), tau=tau)


def measure(
    weights: Mapping[str, Tensor], *, tau: Tau = "exact", helpers: Executor | None = None
) -> dict[str, LayerMetrics]:
    """What `probe` measures, of the weights that `probed_weights` gave. Raises NonFiniteError as `probe` does.

    `helpers` are threads that compute with one thread each; with weights on a GPU there are some if none are given.
    """
    with torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        if helpers is None and any(on_a_gpu(weight) for weight in weights.values()):
            helpers = stack.enter_context(crew(usable_cpus(), "conet_fx.spectra"))
        measured = _measure(list(weights.values()), tau, helpers)
    metrics = {path: found for path, found in zip(weights, measured, strict=True) if found is not None}
    if len(metrics) < len(weights):
        raise NonFiniteError([path for path in weights if path not in metrics], metrics)
    return metrics


def on_a_gpu(weight: Tensor) -> bool:
    """Whether a weight is multiplied on a GPU. That of an Apple is measured on the CPU, for it has no float64."""
    return weight.device.type not in ("cpu", "mps")


def probed_weights(model: nn.Module, *, linear: bool = False) -> dict[str, Tensor]:
    """Weights that `probe` measures, by module path, as views [Cout, Cin / groups, kernel entries].

    Raises ValueError for a weight that cannot be measured, with its path.
    """
    return {
        path: _channels_first(layer.weight, layer.transposed, f"the weight of {path!r}")
        for path, layer in probed_layers(model, linear=linear).items()
    }


def layer_metrics(weight: Tensor, *, transposed: bool = False, tau: Tau = "exact") -> LayerMetrics:
    """Measure one weight.

    Args:
        weight: [Cout, Cin / groups, *kernel] of a conv or linear layer, on any device.
        transposed: `weight` is [Cin, Cout / groups, *kernel], of a transposed conv.
        tau: as for `evbmf`.

    Raises:
        ValueError: `weight` has fewer than 2 dimensions or no entry, is complex or sparse, or holds no numbers (on the
            meta device, or of a lazy layer).
        NonFiniteError: it has an entry that is NaN or infinite.
    """
    return measure({"weight": _channels_first(weight, transposed, "weight")}, tau=tau)["weight"]


def _channels_first(weight: Tensor, transposed: bool, name: str) -> Tensor:
    """[Cout, Cin, kernel entries] of a weight of any kernel. Raises ValueError for what is no matrix of numbers."""
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"{name} has no shape yet: run the model once")
    if weight.is_meta:
        raise ValueError(f"{name} is on the meta device and has no numbers: move the model with to_empty() and load it")
    if weight.is_complex() or weight.layout is not torch.strided:
        kind = "complex" if weight.is_complex() else "sparse"
        raise ValueError(f"{name} is {kind}, and the probe measures dense real weights: leave it out")
    if weight.ndim < 2 or weight.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}: pass [Cout, Cin / groups, *kernel], not empty")
    weight = weight.detach()
    return (weight.transpose(0, 1) if transposed else weight).flatten(2) if weight.ndim > 2 else weight[..., None]


def _measure(weights: Sequence[Tensor], tau: Tau, helpers: Executor | None) -> list[LayerMetrics | None]:
    """Metrics of weights [Cout, Cin, kernel entries]; None where one is not finite.

    Small weights of a shape are multiplied together, all Gram matrices of a size are decomposed together, all spectra
    are factorised together. Nothing waits for a device before the spectra.
    """
    sides: list[tuple[int, int]] = []  # L and M of every unfolding
    grams: dict[tuple[int, torch.device], list[tuple[range, Tensor]]] = collections.defaultdict(list)
    modes: list[list[int]] = [[] for _ in weights]  # the unfoldings of every weight: mode 4, then mode 3
    for members in _batches(weights):
        alike = [weights[member] for member in members]
        batch = torch.stack(alike) if len(alike) > 1 else alike[0][None]
        if batch.device.type == "mps":  # has no float64
            batch = batch.cpu()
        if batch.dtype == torch.float64:  # the squares of anything narrower cannot overflow
            batch = normalise(batch)[0]
        # with a kernel of one entry, mode 3 is the transpose of mode 4 and has the same spectrum
        for tensors in [batch, batch.transpose(1, 2)] if batch.shape[3] > 1 else [batch]:
            product = gram(tensors)
            unfoldings = range(len(sides), len(sides) + len(members))
            grams[product.shape[-1], product.device].append((unfoldings, product))
            sides += [(product.shape[-1], tensors[0].numel() // product.shape[-1])] * len(members)
            for member, unfolding in zip(members, unfoldings, strict=True):
                modes[member].append(unfolding)
    if not sides:
        return []

    spectra = torch.zeros(len(sides), max(size for size, _ in grams), dtype=torch.float64)
    finite = torch.zeros(len(sides), dtype=torch.bool)
    begun: list[tuple[list[int], Callable[[], Tensor]]] = []
    for _, parts in sorted(grams.items(), key=lambda item: item[0][0], reverse=True):  # the longest tasks first
        index = [unfolding for unfoldings, _ in parts for unfolding in unfoldings]
        products = torch.cat([product for _, product in parts])
        good = products.diagonal(dim1=1, dim2=2).sum(1).isfinite()
        begun.append((index, start_eigenvalues(products.masked_fill_(~good[:, None, None], 0), helpers)))
        finite[index] = good.cpu()
    for index, eigenvalues in begun:
        values = eigenvalues()
        spectra[index, : values.shape[1]] = values
    split = solve(spectra, *torch.tensor(sides, dtype=torch.float64).T, tau=tau)

    first, last = split.values[:, 0], split.values.gather(1, (split.rank - 1).clamp_min(0)[:, None])[:, 0]
    kept = split.rank > 0
    condition = torch.where(kept, first / last, 0).tolist()
    gain = torch.where(kept, split.values.sum(1) / first, 0).tolist()
    rank, cap = split.rank.tolist(), split.cap.tolist()
    metrics: list[LayerMetrics | None] = []
    for weight, mode in zip(weights, modes, strict=True):
        out, into = mode[0], mode[-1]
        couts, cins = weight.shape[:2]
        found = LayerMetrics(
            rank_in=rank[into] / cins,
            rank_out=rank[out] / couts,
            condition_in=condition[into],
            condition_out=condition[out],
            gain_in=gain[into] / cins,
            gain_out=gain[out] / couts,
            cap_in=cap[into] / cins,
            cap_out=cap[out] / couts,
        )
        metrics.append(found if finite[out] else None)
    return metrics


def _batches(weights: Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of weights that are alike in shape, type and device, few enough that copies of them stay small."""
    alike = collections.defaultdict(list)
    for number, weight in enumerate(weights):
        alike[weight.shape, weight.dtype, weight.device].append(number)
    for (shape, _, device), members in alike.items():
        most = _BATCH if device.type == "cpu" else _GPU_BATCH
        size = max(most // shape.numel(), 1)
        yield from (members[first : first + size] for first in range(0, len(members), size))
