"""The probe beside the training: a copy of the weights, measured in a thread of its own while the caller goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from conet_fx.probe.evbmf import Tau
from conet_fx.probe.metrics import LayerMetrics, measure, on_a_gpu, probed_weights
from conet_fx.probe.threads import crew, usable_cpus


class Prober:
    """Measures models while the caller goes on with something else; a context manager.

        with Prober() as prober:
            pending = prober.submit(model)  # copies the weights
            ...                             # go on training
            metrics = pending.result()      # what probe(model) would have given then, bit for bit

    There is one worker, which measures what it was given in that order; the CPU's part of it runs in one thread. On a
    CUDA device it uses a stream of its own, which waits for the copies and for nothing else, and as many threads as
    there are CPUs. Each copy takes the memory of the measured weights until it is measured.

    Leaving the block waits for the worker, and raises the error of a measurement that nobody asked for.

    Args:
        linear, tau: as for `probe`.
    """

    def __init__(self, *, linear: bool = False, tau: Tau = "exact") -> None:
        self._linear, self._tau = linear, tau
        self._open: list[Pending] = []
        self._worker = crew(1, "conet_fx.probe")
        self._helpers: Executor | None = None  # of the worker, once there are weights on a GPU

    def submit(self, model: nn.Module) -> Pending:
        """Copy the weights of a model and measure them later. Raises ValueError as `probe` does, RuntimeError once the
        block has been left."""
        weights = {path: weight.clone() for path, weight in probed_weights(model, linear=self._linear).items()}
        streams = {}
        for device in {weight.device for weight in weights.values() if weight.is_cuda}:
            streams[device] = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
            streams[device].wait_stream(torch.cuda.current_stream(device))
        if self._helpers is None and any(on_a_gpu(weight) for weight in weights.values()):
            self._helpers = crew(usable_cpus(), "conet_fx.spectra")
        pending = Pending(self._worker.submit(_measure_on, weights, streams, self._tau, self._helpers), self._open)
        self._open.append(pending)
        return pending

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(cancel_futures=error is not None)
        if self._helpers is not None:
            self._helpers.shutdown()
        if error is None:
            while self._open:
                self._open[0].result()


class Pending:
    """A measurement that was submitted."""

    def __init__(self, future: Future[dict[str, LayerMetrics]], others: list[Pending]) -> None:
        self._future, self._open = future, others

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._future.done()

    def result(self) -> dict[str, LayerMetrics]:
        """Wait for what `probe` gives, or raise what it raises."""
        if self in self._open:
            self._open.remove(self)
        return self._future.result()


def _measure_on(
    weights: Mapping[str, Tensor],
    streams: Mapping[torch.device, torch.cuda.Stream],
    tau: Tau,
    helpers: Executor | None,
) -> dict[str, LayerMetrics]:
    """Measure on the streams of the devices. They are done at the end, so the caller's stream may have the memory."""
    with contextlib.ExitStack() as stack:
        for stream in streams.values():
            stack.callback(stream.synchronize)
            stack.enter_context(torch.cuda.stream(stream))
        return measure(weights, tau=tau, helpers=helpers)
