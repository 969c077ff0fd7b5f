"""conet-fx resize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from torch import nn

from conet_fx import models, recipe
from conet_fx.cli.common import add_analysis, command, plan_of
from conet_fx.recipe.files import RECIPE
from conet_fx.saving import save

HELP = "give a network other sizes, and save it"


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_argument(
        "model", type=str, help="a directory with a saved network, or resnet18_cifar, torchvision:NAME, module:factory"
    )
    parser.add_argument(
        "--sizes", type=str, nargs="+", required=True, help="GROUP=CHANNELS, or a YAML or JSON file {group: channels}"
    )
    parser.add_argument("--round_to", type=PositiveInt, default=1, help="take the nearest multiples of it, 8 say")
    parser.add_argument(
        "--init", choices=["inherit", "reset"], default="inherit", help="keep weights, or draw new ones"
    )
    parser.add_argument("-o", "--output", type=str, required=True, help="directory for the network")
    add_analysis(parser)
    return parser


def run(arguments: Namespace) -> None:
    """Give a network other sizes, and save it."""
    saved = Path(arguments.model) / RECIPE
    known = recipe.read(arguments.model) if saved.exists() else None  # whose model it is stays with it
    if known is not None:
        model: nn.Module = recipe.load(arguments.model)
    elif Path(arguments.model).is_dir():
        raise FileNotFoundError(f"there is no network in {arguments.model}: {saved} is missing")
    else:
        model = models.build(arguments.model, arguments.classes, arguments.shape[0])
    plan = plan_of(model, arguments)
    sizes = _sizes(arguments.sizes)
    if arguments.round_to > 1:
        sizes = plan.rounded(sizes, arguments.round_to)
    resized = plan.resize(sizes, init=arguments.init)
    identity = None if known is None else {key: known.model[key] for key in ("class", "keys") if key in known.model}
    save(resized, plan, arguments.output, model_id=identity)
    before, after = plan.cost(), plan.cost(sizes)
    print(
        f"{arguments.output}: {before.params:,} parameters -> {after.params:,}, "
        f"{before.macs:,} multiply-adds -> {after.macs:,}"
    )


def _sizes(words: Sequence[str]) -> dict[str, int]:
    """Channels by group, from words such as ``layer1.0.conv1=24`` and from files that hold {group: channels}."""
    sizes: dict[str, int] = {}
    for word in words:
        name, separator, number = word.rpartition("=")
        if separator:
            entries: Any = {name: int(number) if number.isdecimal() else number}
        else:
            try:
                entries = yaml.safe_load(Path(word).read_text())
            except yaml.YAMLError as error:
                raise ValueError(f"{word} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
        if not isinstance(entries, dict):
            raise ValueError(f"{word} holds no sizes: write {{group: channels}} as YAML or JSON")
        for name, size in entries.items():
            if isinstance(size, bool) or not isinstance(size, int):
                raise ValueError(f"{word}: the size of {name!r} must be a number of channels, not {size!r}")
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{name!r} is to have {sizes[name]} and {size} channels: name each group once")
    return sizes
