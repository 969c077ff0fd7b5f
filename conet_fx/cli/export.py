"""conet-fx export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from conet_fx.cli.common import command
from conet_fx.export import Format, export
from conet_fx.recipe.files import RECIPE
from conet_fx.search.run_dir import FOUND

HELP = "write a saved network for other programs"


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_argument("saved", type=str, help="directory of a saved network, or of a run that found one")
    parser.add_argument("-o", "--output", type=str, required=True, help="the file to write")
    parser.add_argument("--format", type=Format | None, default=None, help="default: what the suffix of the file says")
    parser.add_argument(
        "--shape", type=PositiveInt, nargs="+", default=None,
        help="shape of one input, such as 3 224 224; needed for torch-export and onnx",
    )  # fmt: skip
    parser.add_argument("--fixed_batch", action="store_true", help="for batches of two only, not of any size")
    return parser


def run(arguments: Namespace) -> None:
    """Write a saved network as Python source (.py), a program of torch.export (.pt2) or ONNX (.onnx)."""
    saved, run = Path(arguments.saved), Path(arguments.saved, FOUND)
    inputs = torch.randn(2, *arguments.shape) if arguments.shape else None
    path = export(
        run if run.is_dir() and not (saved / RECIPE).exists() else saved,
        arguments.output,
        format=arguments.format,
        example_inputs=inputs,
        dynamic_batch=not arguments.fixed_batch,
    )
    print(path)
