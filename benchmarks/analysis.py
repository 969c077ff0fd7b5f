"""CPU time of the analysis and of a rewrite, beside the least that any tool has to do, and Torch-Pruning.

    python -m benchmarks.analysis [--networks NAME,...] [--repeats N] [--no-linearity] [--no-peers]
                                  [--out FILE [--resume]]

Seconds are CPU time of one thread, medians over the repeats, in which everything that is compared takes turns. Each
network has a process of its own.

* ``ours``: trace + propagate + label (``conet_fx.analyze(model, image).graph``), on the module as it is.
* ``fx``: ``torch.fx.symbolic_trace`` and one interpreted forward pass of the result on the meta device; moving the
  network there is not counted.
* ``fake``: one forward pass of the module under ``FakeTensorMode``; making its tensors fake is not counted.
* ``Torch-Pruning``: its dependency graph and all its groups, in turns with ``ours`` in another process, with a time
  limit, since it hangs on some networks.
* ``rewrite``: ``plan.resize`` of all groups to random sizes (half to twice the present ones), less ``weights``, the
  time in which the tensors of the result are allocated and each of its modules draws its weights once
  (``reset_parameters``).
* linearity: ``ours`` on chains and DenseNet-like networks of about 1,000, 3,000 and 10,000 nodes, and the slope of
  log seconds over log nodes.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.processes import describe, run_in_process, show_row, write_rows
from conet_fx.passes.trace import trace
from conet_fx.plan import analyze
from tests.passes.battery import random_sizes
from tests.property.test_linear_cost import Chain, Plain, Residual, Shuffled

NETWORKS = ["resnet18", "resnet152", "efficientnet_b7", "regnet_y_32gf", "densenet201", "swin_t", "swin_b", "vit_b_16"]
SIZE = 224  # of images, as the networks take them; conet-fx computes nothing, Torch-Pruning what it traces
NODES = (1_000, 3_000, 10_000)
Row = dict[str, Any]


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network of torchvision in eval mode, and one image for it."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval(), torch.zeros(1, 3, SIZE, SIZE)


def ours(model: nn.Module, image: Tensor) -> None:
    """Trace, propagate, label, as a user has it."""
    _ = analyze(model, image).graph


def fx_floor(model: nn.Module, image: Tensor) -> Callable[[], None]:
    """Symbolic trace and one interpreted forward pass on the meta device."""
    model, image = copy.deepcopy(model).to("meta"), image.to("meta")

    @torch.no_grad()
    def run() -> None:
        fx.Interpreter(fx.symbolic_trace(model)).run(image)

    return run


def fake_floor(model: nn.Module, image: Tensor) -> Callable[[], None]:
    """One forward pass on fake tensors."""
    mode = FakeTensorMode()
    tensors = (*model.parameters(), *model.buffers())
    fake = copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor, static_shapes=True) for tensor in tensors})
    fake_image = mode.from_tensor(image, static_shapes=True)

    @torch.no_grad()
    def run() -> None:
        with mode:
            fake(fake_image)

    return run


def torch_pruning(model: nn.Module, image: Tensor) -> Callable[[], None]:
    """Torch-Pruning's dependency graph, and all its groups."""
    import torch_pruning as tp

    def run() -> None:
        graph = tp.DependencyGraph().build_dependency(model, image)
        list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))

    return run


def weights_of(module: nn.Module) -> Callable[[], None]:
    """Allocate all tensors of a copy of ``module``, and let each part of it draw its weights once."""
    twin = copy.deepcopy(module)
    resets = [reset for part in twin.modules() if callable(reset := getattr(part, "reset_parameters", None))]

    def run() -> None:
        for part in twin.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        for reset in resets:
            reset()

    return run


def medians(
    repeats: int, runs: Mapping[str, Callable[[], Any]], report: Callable[[Row], None] = lambda row: None
) -> Row:
    """Median CPU seconds of each run after one warm-up, in turns; reported after each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    row: Row = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            gc.collect()
            start = time.process_time()
            run()
            if repeat > 0:
                seconds[name].append(time.process_time() - start)
        if repeat > 0:
            row = {name: statistics.median(times) for name, times in seconds.items()}
            report(row)
    return row


# --- what a process of its own measures ---------------------------------------------------------------------


def measure_network(name: str, repeats: int) -> None:
    model, image = network(name)
    runs = {
        "ours": lambda: ours(model, image),
        "fx": fx_floor(model, image),
        "fake": fake_floor(model, image),
    }
    nodes = len(analyze(model, image).trace.graph_module.graph.nodes)
    medians(repeats, runs, lambda row: show_row({"nodes": nodes, **row}))


def measure_peer(name: str, repeats: int) -> None:
    model, image = network(name)
    runs = {"Torch-Pruning": torch_pruning(copy.deepcopy(model), image), "ours": lambda: ours(model, image)}
    medians(repeats, runs, show_row)


def measure_rewrite(name: str, repeats: int) -> None:
    model, image = network(name)
    plan = analyze(model, image)
    sizes = random_sizes(plan.free, 0.5, 2, seed=0)
    resized = plan.resize(sizes)
    runs = {
        "resize": lambda: plan.resize(sizes),
        "weights": weights_of(resized),
        "analysis": lambda: ours(model, image),
    }
    told = {"groups": len(sizes), "parameters": sum(p.numel() for p in resized.parameters())}
    medians(repeats, runs, lambda row: show_row({**told, **row, "rewrite": row["resize"] - row["weights"]}))


class Functional(nn.Module):
    """Weights that ``forward`` reads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 8, 1, 1)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias).relu()


class Dense(nn.Module):
    """A block of DenseNet, of as many layers as the longest that DenseNet-121 has, and a transition."""

    def __init__(self, layers: int = 24) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(8 + 4 * i, 4, 1), nn.ReLU()) for i in range(layers))
        self.transition = nn.Conv2d(8 + 4 * layers, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.layers:
            parts.append(layer(torch.cat(parts, 1)))
        return self.transition(torch.cat(parts, 1))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "shuffle": Shuffled,
    "functional": Functional,
    "DenseNet": Dense,
}


def measure_linearity(kind: str, repeats: int) -> None:
    image = torch.zeros(1, 3, 4, 4)
    short, longer = (len(trace(Chain(n, KINDS[kind]).eval(), image).graph_module.graph.nodes) for n in (1, 2))
    models = [Chain(round((nodes - short) / (longer - short)) + 1, KINDS[kind]).eval() for nodes in NODES]
    counts = [len(trace(model, image).graph_module.graph.nodes) for model in models]
    seconds = medians(repeats, {str(i): lambda model=model: ours(model, image) for i, model in enumerate(models)})
    show_row({"nodes": counts, **seconds, "exponent": exponent(dict(zip(counts, seconds.values(), strict=True)))})


def exponent(seconds: Mapping[int, float]) -> float:
    """Slope of the least-squares line through (log nodes, log seconds)."""
    return statistics.linear_regression(
        [math.log(nodes) for nodes in seconds], [math.log(value) for value in seconds.values()]
    ).slope


PARTS: dict[str, Callable[[str, int], None]] = {
    "network": measure_network,
    "peer": measure_peer,
    "rewrite": measure_rewrite,
    "linearity": measure_linearity,
}


# --- the tables ---------------------------------------------------------------------------------------------


def network_table(rows: Mapping[str, Row]) -> Table:
    table = Table(title="Analysis, CPU seconds (median)")
    columns = ["nodes", "ours", "fx", "fake", "ours/fx", "ours/fake", "Torch-Pruning", "Torch-Pruning/ours"]
    table.add_column("network")
    for column in columns:
        table.add_column(column, justify="right")
    for key, row in rows.items():
        part, _, name = key.partition(" ")
        if part != "network":
            continue
        peer = rows.get(f"peer {name}", {})
        if "ours" not in row:
            table.add_row(name, row["ended"], style="red")
            continue
        cells = [f"{row['nodes']}", *(f"{row[k]:.3f}" for k in ("ours", "fx", "fake"))]
        cells += [f"{row['ours'] / row[k]:.2f}" for k in ("fx", "fake")]
        if "Torch-Pruning" in peer:
            cells += [f"{peer['Torch-Pruning']:.3f}", f"{peer['Torch-Pruning'] / peer['ours']:.2f}"]
        else:
            cells += [peer.get("ended", "-"), "-"]
        table.add_row(name, *cells)
    return table


def rest_table(rows: Mapping[str, Row], wanted: str, title: str) -> Table:
    """Every figure of the rows of one part."""
    found = {key.partition(" ")[2]: row for key, row in rows.items() if key.startswith(f"{wanted} ")}
    columns = list(
        dict.fromkeys(column for row in found.values() for column in row if column not in ("ended", "nodes"))
    )
    table = Table(title=title)
    table.add_column("network")
    for column in columns:
        table.add_column(f"~{NODES[int(column)]:,} nodes" if column.isdigit() else column, justify="right")
    for name, row in found.items():
        cells = [f"{v:,}" if isinstance(v := row.get(c, "-"), int) else v if v == "-" else f"{v:.3f}" for c in columns]
        table.add_row(name, *(cells if len(row) > 1 else [row["ended"]]), style=None if len(row) > 1 else "red")
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="CPU time of the analysis and of a rewrite.")
    parser.add_argument("--networks", default=",".join(NETWORKS), metavar="NAME,...", help="of torchvision")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median counts (default 5)")
    parser.add_argument("--no-linearity", action="store_true", help="leave the long chains out")
    parser.add_argument("--no-peers", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--timeout", type=float, default=300, help="CPU seconds for one process (default 300)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--resume", action="store_true", help="keep the figures that FILE has")
    parser.add_argument("--part", nargs=2, metavar=("PART", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        PARTS[options.part[0]](options.part[1], options.repeats)
        return

    if not options.no_peers and importlib.util.find_spec("torch_pruning") is None:
        sys.exit("torch_pruning is not installed: pip install '.[benchmarks]', or pass --no-peers")
    names = options.networks.split(",")
    keys = [f"{part} {name}" for name in names for part in ("network", *([] if options.no_peers else ["peer"]))]
    keys += [f"rewrite {name}" for name in names if name == "resnet152"]
    keys += [] if options.no_linearity else [f"linearity {kind}" for kind in KINDS]
    rows: dict[str, Row] = {}
    if options.resume:
        if options.out is None:
            sys.exit("--resume goes on with the file that --out names")
        rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    console = Console()
    for key in keys:
        if key in rows:
            continue
        repeats = 1 if key.startswith("linearity") else options.repeats
        row, ended = run_in_process(
            ["benchmarks.analysis", "--part", *key.split(" "), "--repeats", str(repeats)], options.timeout
        )
        rows[key] = {**row, "ended": ended}
        console.print(f"{key}: {ended}", markup=False, highlight=False)
        if options.out:
            write_rows(options.out, rows)
    rows = {key: rows[key] for key in keys}
    wide = Console(width=None if console.is_terminal else 160)
    wide.print(network_table(rows))
    for part, title in (
        ("rewrite", "Rewriting all groups, CPU seconds: resize = rewrite + weights"),
        ("linearity", "Analysis of long networks, CPU seconds, and the slope of log over log"),
    ):
        if any(key.startswith(part) for key in rows):
            wide.print(rest_table(rows, part, title))
    console.print(describe(), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
