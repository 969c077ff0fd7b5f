"""What a network costs where it runs: latency, memory, parameters, multiply-adds."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from conet_fx.passes.closures import copy_module
from conet_fx.passes.inputs import Arguments, Inputs
from conet_fx.passes.nodes import computed_by_hooks, tensors
from conet_fx.passes.shapes import undisturbed
from conet_fx.passes.verify import counting

WARM_UP = 3
REPEATS = 20
NOT_TRACKED = "torch does not track the memory of a CPU"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass in eval mode, without gradients, for a batch of ``batch_size``.

    ``median``, and between ``low`` and ``high`` the middle half of ``repeats`` runs, after ``warm_up`` runs that do not
    count. ``peak_memory``: bytes that torch held on the device at most, weights, inputs and all between; None on a CPU.
    """

    batch_size: int
    median: float
    low: float
    high: float
    repeats: int
    warm_up: int
    peak_memory: int | None

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return 1000 * self.batch_size / self.median


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One network on one device.

    ``parameters``: trainable and frozen ones, shared ones once. ``macs``: multiply-adds of one sample, of convolutions
    and matrix products, those inside attention and recurrent layers too (1 MAC is what FlopCounterMode counts as 2).
    ``no_memory``: why there is no peak memory, or None. ``threads``: of the CPU, where that is the device.
    """

    parameters: int
    macs: int
    latencies: tuple[Latency, ...]
    device: str
    threads: int | None
    no_memory: str | None

    def __str__(self) -> str:
        return str(Comparison({"": self}))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Networks side by side, measured in turns; ``print`` shows a table, ratios are to the first."""

    networks: Mapping[str, Measurement]

    def __getitem__(self, name: str) -> Measurement:
        return self.networks[name]

    def table(self) -> Table:
        """The table for rich: a row for each figure, a column for each network."""
        first, *others = self.networks.values()
        table = Table(title=_where(first))
        table.add_column("")
        for name in self.networks:
            table.add_column(name, justify="right")
        for row in _rows(first):
            values = [row.number(network) for network in (first, *others)]
            ratios = ["", *(f" x{value / values[0]:.2f}" if values[0] else "" for value in values[1:])]
            cells = (row.text(network) + ratio for network, ratio in zip((first, *others), ratios, strict=True))
            table.add_row(row.label, *cells)
        if first.no_memory:
            table.caption = f"no peak memory: {first.no_memory}"
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        console = Console(width=200, no_color=True)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get().rstrip()


def _where(measured: Measurement) -> str:
    if measured.threads is None:
        return measured.device
    return f"{measured.device}, {measured.threads} thread{'s' * (measured.threads > 1)}"


@dataclasses.dataclass(frozen=True)
class _Row:
    """One figure of all networks: its label, its number for the ratios, and how it is shown."""

    label: str
    number: Callable[[Measurement], float]
    text: Callable[[Measurement], str]


def _rows(like: Measurement) -> list[_Row]:
    rows = [
        _Row("parameters", lambda m: m.parameters, lambda m: f"{m.parameters:,}"),
        _Row("MACs of a sample", lambda m: m.macs, lambda m: f"{m.macs:,}"),
    ]
    for index in range(len(like.latencies)):
        rows.append(_time_row(index, like))
        if like.no_memory is None:
            rows.append(_memory_row(index, like))
    return rows


def _time_row(index: int, like: Measurement) -> _Row:
    def text(m: Measurement) -> str:
        found = m.latencies[index]
        return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"

    label = f"ms, batch of {like.latencies[index].batch_size}"
    return _Row(label, lambda m: m.latencies[index].median, text)


def _memory_row(index: int, like: Measurement) -> _Row:
    def mebibytes(m: Measurement) -> float:
        return (m.latencies[index].peak_memory or 0) / 2**20

    return _Row(f"peak MiB, batch of {like.latencies[index].batch_size}", mebibytes, lambda m: f"{mebibytes(m):.1f}")


def measure(
    module: nn.Module,
    example_inputs: Inputs,
    batch_sizes: Sequence[int] = (1, 32),
    device: torch.device | str | None = None,
    *,
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
) -> Measurement:
    """Latency, peak memory, parameters and multiply-adds of ``module``; see :func:`compare` for the arguments."""
    return compare({"": module}, example_inputs, batch_sizes, device, repeats=repeats, warm_up=warm_up)[""]


def compare(
    modules: Mapping[str, nn.Module],
    example_inputs: Inputs,
    batch_sizes: Sequence[int] = (1, 32),
    device: torch.device | str | None = None,
    *,
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
) -> Comparison:
    """Several networks side by side: ``print(conet_fx.compare({"before": model, "after": resized}, example))``.

    Copies are measured, in eval mode and without gradients, and they take turns, so that what slows the machine down
    meanwhile slows all of them. The modules, with their modes, devices and gradients, and all random states stay as
    they are; a hook of theirs runs as in any forward pass, on the copy.

    Args:
        modules: by the name that the table shows.
        example_inputs: a tensor, a tuple of positional or a dict of keyword inputs: at least one sample.
        batch_sizes: every tensor in the inputs whose first dim is that of the first tensor gets so many samples, which
            repeat those of the example.
        device: a CPU or CUDA device; where the parameters of the first module are when left out. On CUDA the time
            between two events of the stream counts, on a CPU that of the clock.
        repeats: runs that count; the median of them is reported. ``warm_up``: runs before.

    Raises:
        TypeError, ValueError: a bad argument, or a device other than CPU and CUDA.
    """
    counts = {"repeats": repeats, "warm_up": warm_up, **{f"batch size {n!r}": n for n in batch_sizes}}
    for what, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < (what != "warm_up"):
            raise ValueError(f"{what} is {number!r}: write an integer >= {int(what != 'warm_up')}")
    if not modules or not batch_sizes:
        raise ValueError("there is nothing to measure: give at least one module and one batch size")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name or 'module'!r} must be a torch.nn.Module, not {type(module).__name__}")
    first = next(iter(modules.values()))
    where = torch.device(device) if device is not None else _device_of(first)
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(where)!r} cannot be measured: take the CPU or a CUDA device")
    if where.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # its random state is put back, too
    with undisturbed(), torch.no_grad():
        calls = {name: _Call(module, example_inputs, where) for name, module in modules.items()}
        macs = {name: call.multiply_adds() for name, call in calls.items()}
        latencies: dict[str, list[Latency]] = {name: [] for name in calls}
        for size in batch_sizes:
            peaks = {name: call.prepare(size, warm_up) for name, call in calls.items()}
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(repeats):
                for name, call in calls.items():
                    times[name].append(call.milliseconds())
            for name, values in times.items():
                low, median, high = _quartiles(values)
                latencies[name].append(Latency(size, median, low, high, repeats, warm_up, peaks[name]))
    on_gpu = where.type == "cuda"
    return Comparison(
        {
            name: Measurement(
                parameters=sum(p.numel() for p in module.parameters()),
                macs=macs[name],
                latencies=tuple(latencies[name]),
                device=f"{where} ({torch.cuda.get_device_name(where)})" if on_gpu else str(where),
                threads=None if on_gpu else torch.get_num_threads(),
                no_memory=None if on_gpu else NOT_TRACKED,
            )
            for name, module in modules.items()
        }
    )


class _Call:
    """A copy of a network on its device, and a call of it."""

    def __init__(self, module: nn.Module, example: Inputs, device: torch.device) -> None:
        self._device = device
        self._example = Arguments.of_example(module, example)
        before = self._allocated()
        self._module = copy_module(module, {**computed_by_hooks(module)}).eval()
        for parameter in self._module.parameters():
            parameter.grad = None
        self._module.to(device)
        self._own = self._allocated() - before
        self._given = self._batch(1)

    def multiply_adds(self) -> int:
        """Those of one sample, by one pass without the kernels that hide their products from the counter."""
        with counting() as counter:
            self._run()
        return int(counter.get_total_flops()) // 2

    def prepare(self, size: int, warm_up: int) -> int | None:
        """Take batches of ``size`` from now on and warm up. Returns the peak memory in bytes."""
        self._given = self._batch(size)
        inputs = sum(tensor.nbytes for tensor in tensors(self._given))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        before = self._allocated()
        for _ in range(warm_up):
            self._run()
        if self._device.type != "cuda":
            return None
        if not warm_up:
            self._run()
        torch.cuda.synchronize(self._device)
        return self._own + inputs + torch.cuda.max_memory_allocated(self._device) - before

    def milliseconds(self) -> float:
        """Of one pass."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            self._run()
            return 1000 * (time.perf_counter() - start)
        with torch.cuda.device(self._device):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            events[0].record()
            self._run()
            events[1].record()
            events[1].synchronize()
        return float(events[0].elapsed_time(events[1]))

    def _run(self) -> None:
        given, example = self._given, self._example
        self._module(*(given[name] for name in example.positional), **{name: given[name] for name in example.keywords})

    def _batch(self, size: int) -> Any:
        """The inputs with ``size`` samples."""
        samples = next((tensor.shape[0] for tensor in tensors(self._example.values) if tensor.ndim), 0)

        def sized(tensor: Tensor) -> Tensor:
            if tensor.ndim and tensor.shape[0] == samples:
                last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=_LAST)
                tensor = tensor.index_select(0, torch.arange(size, device=tensor.device) % samples)
                tensor = tensor.contiguous(memory_format=_LAST) if last else tensor
            return tensor.detach().to(self._device)

        return tree_map_only(Tensor, sized, dict(self._example.values))

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0


_LAST = torch.channels_last


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _device_of(module: nn.Module) -> torch.device:
    return next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
