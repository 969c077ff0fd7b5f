"""conet-fx graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from conet_fx import models
from conet_fx.cli.common import add_analysis, command, plan_of
from conet_fx.draw import check_suffix

HELP = "show the channel groups of a network"


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_argument("model", type=str, help="resnet18_cifar, torchvision:NAME or module:factory")
    parser.add_argument(
        "-o", "--output", type=str | None, default=None, help="draw into a .dot, .svg, .png or .pdf file"
    )
    add_analysis(parser)
    return parser


def run(arguments: Namespace) -> None:
    """Say which channel groups a network has, or draw its labelled graph."""
    if arguments.output is not None:
        check_suffix(Path(arguments.output))
    plan = plan_of(models.build(arguments.model, arguments.classes, arguments.shape[0]), arguments)
    if arguments.output is None:
        print(plan.explain())
    else:
        plan.draw(arguments.output)
        print(arguments.output)
