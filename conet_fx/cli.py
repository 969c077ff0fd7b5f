"""The command line: conet-fx search, report, graph, resize.

conet-fx search --arch resnet18_cifar --data digits
conet-fx search --arch torchvision:mobilenet_v2 --data cifar10 --root data --delta 0.01 --trials 25
conet-fx report runs/resnet18_cifar-digits
conet-fx graph torchvision:densenet121 --shape 3 224 224 -o densenet.svg
conet-fx resize runs/mine/found --sizes layer1.0.conv1=24 --round_to 8 -o smaller
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from conet_fx import data, models, recipe
from conet_fx.draw import check_suffix
from conet_fx.errors import ConetError
from conet_fx.evaluate import EvaluationConfig, evaluate, rivals
from conet_fx.optimize import optimize
from conet_fx.plan import ChannelPlan, analyze
from conet_fx.recipe.files import RECIPE
from conet_fx.report import collect, page, tables, verdict
from conet_fx.saving import save
from conet_fx.search import SearchConfig
from conet_fx.search.distributed import make_fabric
from conet_fx.search.result import SearchResult
from conet_fx.search.run_dir import CONFIG, FOUND, REPORT, RunDirectory

# The paper's settings take hours; on the built-in data a search has to show the whole job within minutes on 2 cores.
MINUTES: Mapping[str, Any] = {
    "image_size": 8,
    "batch_size": 64,
    "trials": 8,
    "epochs_per_trial": 5,
    "final.epochs": 15,
    "final.lr": 0.05,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, or 1 after an error that is told in one line."""
    sys.path.insert(0, os.getcwd())  # mymodel:factory is looked up where the user stands
    parser = _parser(list(sys.argv[1:] if argv is None else argv))
    arguments = parser.parse_args(argv)
    command = {"search": _search, "report": _report, "graph": _graph, "resize": _resize}[arguments.subcommand]
    try:
        command(arguments[arguments.subcommand])
    except (ConetError, ValueError, TypeError, OSError) as error:
        print(f"conet-fx: {error}", file=sys.stderr)
        return 1
    return 0


# --- commands --------------------------------------------------------------------------------------------------


def _search(arguments: Namespace) -> None:
    """Search, train the found network and its rivals to the end, show a table and write the report."""
    config = SearchConfig(**_fields(arguments, SearchConfig))
    final = EvaluationConfig(**{**_fields(arguments.final, EvaluationConfig), "seeds": tuple(arguments.final.seeds)})
    fabric = make_fabric(config)
    dataset = data.load(
        arguments.data, root=arguments.root, image_size=arguments.image_size, download=arguments.download
    )
    model = models.build(arguments.arch, dataset.classes, dataset.shape[0])
    train, _ = data.loaders(dataset, arguments.batch_size, config.seed, arguments.workers)
    path = Path(arguments.run) if arguments.run else _unused(arguments.arch, arguments.data)
    result = optimize(
        model,
        train,
        config=config,
        run_dir=path,
        resume=arguments.resume,
        fabric=fabric,
        progress=not arguments.quiet,
    )
    run = RunDirectory(path)
    run.write(CONFIG, _yaml(arguments))
    result.save(path / FOUND)
    if arguments.evaluate:
        _evaluate(result, dataset, final, arguments, run, fabric)
    record = collect(path)
    run.write(REPORT, page(record))
    console = Console()
    for table in tables(record):
        console.print(table)
    console.print(verdict(record), highlight=False)
    console.print(f"report: {path / REPORT}   network: {path / FOUND}", highlight=False, soft_wrap=True)


def _evaluate(
    result: SearchResult,
    dataset: data.DataSet,
    final: EvaluationConfig,
    arguments: Namespace,
    run: RunDirectory,
    fabric: Fabric,
) -> None:
    """Train the found network, the one handed in and a uniform one; those that are on disk already are not repeated."""
    known = {(e.label, tuple(e.sizes.items()), e.epochs, e.seeds): e for e in run.evaluations()}
    done = []
    for label, sizes in rivals(result.plan, result.sizes, arguments.round_to).items():
        evaluation = known.get((label, tuple(sizes.items()), final.epochs, final.seeds))
        if evaluation is None:
            if not arguments.quiet:
                seeds = f"{len(final.seeds)} seed" + "s" * (len(final.seeds) > 1)
                print(f"final training: {label}, {final.epochs} epochs, {seeds}", file=sys.stderr)
            evaluation, trained = evaluate(
                label,
                sizes,
                result.plan,
                dataset,
                final,
                fabric,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
            )
            if label == "found":
                save(trained.cpu(), result.plan, run.path / FOUND)
        done.append(evaluation)
        run.save_evaluations(done)


def _report(arguments: Namespace) -> None:
    """Write the page of a run anew."""
    run = RunDirectory(arguments.run)
    run.write(REPORT, page(collect(run.path)))
    print(run.path / REPORT)


def _graph(arguments: Namespace) -> None:
    """Say which channel groups a network has, or draw its labelled graph."""
    if arguments.output is not None:
        check_suffix(Path(arguments.output))
    plan = _plan(models.build(arguments.model, arguments.classes, arguments.shape[0]), arguments)
    if arguments.output is None:
        print(plan.explain())
    else:
        plan.draw(arguments.output)
        print(arguments.output)


def _resize(arguments: Namespace) -> None:
    """Give a network other sizes, and save it."""
    saved = Path(arguments.model) / RECIPE
    known = recipe.read(arguments.model) if saved.exists() else None  # whose model it is stays with it
    if known is not None:
        model: nn.Module = recipe.load(arguments.model)
    elif Path(arguments.model).is_dir():
        raise FileNotFoundError(f"there is no network in {arguments.model}: {saved} is missing")
    else:
        model = models.build(arguments.model, arguments.classes, arguments.shape[0])
    plan = _plan(model, arguments)
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


def _plan(model: nn.Module, arguments: Namespace) -> ChannelPlan:
    return analyze(
        model.eval(),
        torch.zeros(1, *arguments.shape),
        tie_concat=arguments.tie_concat,
        resize_linear=arguments.resize_linear,
        strict=arguments.strict,
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


# --- arguments -------------------------------------------------------------------------------------------------


def _parser(argv: Sequence[str]) -> ArgumentParser:
    parser = ArgumentParser(prog="conet-fx", description="Find the right channel size for every layer of a CNN.")
    commands = parser.add_subcommands(required=True, dest="subcommand")

    search = ArgumentParser(description=_search.__doc__)
    search.add_argument("--config", action=ActionConfigFile, help="a YAML file with any of the settings below")
    search.add_argument("--arch", type=str, required=True, help="resnet18_cifar, torchvision:NAME or module:factory")
    search.add_argument("--data", type=str, required=True, help="digits, cifar10, cifar100, imagenet or folder:PATH")
    search.add_argument("--root", type=str | None, default=None, help="where the data set lies")
    search.add_argument("--download", type=bool, default=False, help="fetch the data set if it is not there")
    search.add_argument("--image_size", type=int | None, default=None, help="side of the images, pixels")
    search.add_argument("--batch_size", type=PositiveInt, default=128, help="samples in a batch")
    search.add_argument("--workers", type=NonNegativeInt, default=0, help="processes that load data")
    search.add_argument("--run", type=str | None, default=None, help="run directory (default: a new one in runs/)")
    search.add_argument("--resume", action="store_true", help="go on with the run in --run")
    search.add_argument("--evaluate", type=bool, default=True, help="train the networks to the end and compare them")
    search.add_argument("--quiet", action="store_true", help="no progress display")
    search.add_class_arguments(SearchConfig)
    search.add_class_arguments(EvaluationConfig, "final")
    if _value(argv, "--data") == "digits":
        search.set_defaults(dict(MINUTES))
    commands.add_subcommand("search", search, help="search the channel sizes of a network")

    report = ArgumentParser(description=_report.__doc__)
    report.add_argument("run", type=str, help="run directory")
    commands.add_subcommand("report", report, help="write the HTML page of a run")

    graph = ArgumentParser(description=_graph.__doc__)
    graph.add_argument("model", type=str, help="resnet18_cifar, torchvision:NAME or module:factory")
    graph.add_argument(
        "-o", "--output", type=str | None, default=None, help="draw into a .dot, .svg, .png or .pdf file"
    )
    _add_analysis(graph)
    commands.add_subcommand("graph", graph, help="show the channel groups of a network")

    resize = ArgumentParser(description=_resize.__doc__)
    resize.add_argument(
        "model", type=str, help="a directory with a saved network, or resnet18_cifar, torchvision:NAME, module:factory"
    )
    resize.add_argument(
        "--sizes", type=str, nargs="+", required=True, help="GROUP=CHANNELS, or a YAML or JSON file {group: channels}"
    )
    resize.add_argument("--round_to", type=PositiveInt, default=1, help="take the nearest multiples of it, 8 say")
    resize.add_argument(
        "--init", choices=["inherit", "reset"], default="inherit", help="keep weights, or draw new ones"
    )
    resize.add_argument("-o", "--output", type=str, required=True, help="directory for the network")
    _add_analysis(resize)
    commands.add_subcommand("resize", resize, help="give a network other sizes, and save it")
    return parser


def _add_analysis(parser: ArgumentParser) -> None:
    """How a network is traced and what may change in it."""
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 224, 224], help="channels, height and width")
    parser.add_argument("--classes", type=PositiveInt, default=10)
    parser.add_argument("--tie_concat", action="store_true", help="parts of a concatenation keep their proportion")
    parser.add_argument("--resize_linear", action="store_true", help="hidden linear layers may change too")
    parser.add_argument("--strict", action="store_true", help="fail at an operator that is not in the table")


def _value(argv: Sequence[str], option: str) -> str | None:
    """The value of ``--option value`` or ``--option=value``."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _fields(arguments: Namespace, cls: type[Any]) -> dict[str, Any]:
    return {field.name: arguments[field.name] for field in dataclasses.fields(cls)}


def _yaml(arguments: Namespace) -> str:
    """All settings, as ``--config`` reads them; what belongs to one invocation is left out."""
    settings = {k: v for k, v in arguments.as_dict().items() if k not in ("config", "run", "resume", "quiet")}
    settings["final"]["seeds"] = list(settings["final"]["seeds"])
    return yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)  # plain numbers, as YAML needs them


def _unused(arch: str, name: str) -> Path:
    """A run directory in ``runs/`` that does not exist yet."""
    stem = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in (arch, name))
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path
