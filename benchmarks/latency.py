"""What sizes that are multiples of 8 do for latency: networks at 8n - 1, 8n and 8n + 1 channels, in turns.

    python -m benchmarks.latency [--networks NAME,...] [--factor F] [--batch-sizes N,...] [--device D] [--dtype T]
                                 [--repeats N] [--image N] [--out FILE]

Each free group of a network of torchvision gets ``factor`` times its channels, rounded by ``plan.rounded(sizes, 8)``,
and one channel less or more. The networks are measured in turns in one process (:func:`conet_fx.compare`), contiguous
and in ``channels_last``; the ratios of the time and of the multiply-adds are to the rounded network of the same row.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import conet_fx
from benchmarks.processes import describe, write_rows

NAMES = ("8n - 1", "8n", "8n + 1")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def candidates(name: str, factor: float, image: int) -> dict[str, nn.Module]:
    """The three networks, with random weights, in eval mode."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    plan = conet_fx.analyze(model, torch.zeros(1, 3, image, image))
    rounded = plan.rounded({group.name: factor * group.size for group in plan.free}, 8)
    beside = {
        label: {group.name: group.nearest(rounded[group.name] + step) for group in plan.free}
        for label, step in zip(NAMES, (-1, 0, 1), strict=True)
    }
    return {label: plan.resize(sizes).eval() for label, sizes in beside.items()}


def rows_of(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each memory format and batch size."""
    rows = []
    dtype = getattr(torch, arguments.dtype)
    networks = {label: net.to(dtype) for label, net in candidates(name, arguments.factor, arguments.image).items()}
    image = torch.randn(1, 3, arguments.image, arguments.image).to(dtype)
    for label, memory_format in FORMATS.items():
        found = conet_fx.compare(
            {key: net.to(memory_format=memory_format) for key, net in networks.items()},
            image.to(memory_format=memory_format),
            arguments.batch_sizes,
            arguments.device,
            repeats=arguments.repeats,
        )
        for index, size in enumerate(arguments.batch_sizes):
            rows.append(
                {
                    "network": name,
                    "format": label,
                    "batch": size,
                    "device": found["8n"].device,
                    "threads": found["8n"].threads,
                    "dtype": arguments.dtype,
                    **{f"macs {key}": found[key].macs for key in NAMES},
                    **{f"ms {key}": round(found[key].latencies[index].median, 3) for key in NAMES},
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> Table:
    """Milliseconds, and in brackets the ratios to the rounded network: of the time, and of the multiply-adds."""
    first = rows[0]
    table = Table(title=f"median ms of a forward pass, {first['device']}, {first['threads']} threads, {first['dtype']}")
    for column in ("network", "format", "batch", *NAMES):
        table.add_column(column, justify="left" if column in ("network", "format") else "right")
    for row in rows:
        cells = []
        for key in NAMES:
            ratio, macs = row[f"ms {key}"] / row["ms 8n"], row[f"macs {key}"] / row["macs 8n"]
            cells.append(f"{row[f'ms {key}']:.2f} (x{ratio:.2f}, x{macs:.2f})")
        table.add_row(row["network"], row["format"], str(row["batch"]), *cells)
    return table


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet50,mobilenet_v2")
    parser.add_argument("--factor", type=float, default=0.75, help="of the present channels (default: 0.75)")
    parser.add_argument("--batch-sizes", type=_numbers, default=(1, 16), help="default: 1,16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--image", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    console = Console(width=None if sys.stdout.isatty() else 110)
    for name in arguments.networks.split(","):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision about its own initialisation
            rows += rows_of(name, arguments)
        if arguments.out:
            write_rows(arguments.out, rows)
    console.print(show(rows))
    console.print(describe(), highlight=False)


if __name__ == "__main__":
    main()
