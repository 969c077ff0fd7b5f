"""The command line: conet-fx search, report, graph, export.

conet-fx search --arch resnet18_cifar --data digits
conet-fx search --arch torchvision:mobilenet_v2 --data cifar10 --root data --delta 0.01 --trials 25
conet-fx report runs/resnet18_cifar-digits
conet-fx graph torchvision:densenet121 --shape 3 224 224 -o densenet.svg
conet-fx export runs/resnet18_cifar-digits -o network.py
conet-fx export runs/resnet18_cifar-digits --shape 3 8 8 -o network.onnx
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

from conet_fx import data, models, recipe
from conet_fx.draw import check_suffix
from conet_fx.errors import ConetError
from conet_fx.evaluate import EvaluationConfig, evaluate, rivals
from conet_fx.export import Format, export
from conet_fx.optimize import optimize
from conet_fx.plan import analyze
from conet_fx.recipe.files import RECIPE
from conet_fx.report import collect, page, tables, verdict
from conet_fx.search import SearchConfig
from conet_fx.search.result import SearchResult
from conet_fx.search.run_dir import CONFIG, FOUND, REPORT, RunDirectory
from conet_fx.search.training import make_fabric

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
    command = {"search": _search, "report": _report, "graph": _graph, "export": _export}[arguments.subcommand]
    try:
        command(arguments[arguments.subcommand])
    except (ConetError, ValueError, TypeError, FileNotFoundError) as error:
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
                recipe.save(trained.cpu(), run.path / FOUND, sizes=sizes, model_id=result.model_id)
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
    channels, *_ = arguments.shape
    model = models.build(arguments.model, arguments.classes, channels).eval()
    plan = analyze(
        model,
        torch.zeros(1, *arguments.shape),
        tie_concat=arguments.tie_concat,
        resize_linear=arguments.resize_linear,
        strict=arguments.strict,
    )
    if arguments.output is None:
        print(plan.explain())
    else:
        plan.draw(arguments.output)
        print(arguments.output)


def _export(arguments: Namespace) -> None:
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
    graph.add_argument("--shape", type=int, nargs=3, default=[3, 224, 224], help="channels, height and width")
    graph.add_argument("--classes", type=PositiveInt, default=10)
    graph.add_argument("--tie_concat", action="store_true", help="parts of a concatenation keep their proportion")
    graph.add_argument("--resize_linear", action="store_true", help="hidden linear layers may change too")
    graph.add_argument("--strict", action="store_true", help="fail at an operator that is not in the table")
    commands.add_subcommand("graph", graph, help="show the channel groups of a network")

    saving = ArgumentParser(description=_export.__doc__)
    saving.add_argument("saved", type=str, help="directory of a saved network, or of a run that found one")
    saving.add_argument("-o", "--output", type=str, required=True, help="the file to write")
    saving.add_argument("--format", type=Format | None, default=None, help="default: what the suffix of the file says")
    saving.add_argument(
        "--shape", type=PositiveInt, nargs="+", default=None,
        help="shape of one input, such as 3 224 224; needed for torch-export and onnx",
    )  # fmt: skip
    saving.add_argument("--fixed_batch", action="store_true", help="for batches of two only, not of any size")
    commands.add_subcommand("export", saving, help="write a saved network for other programs")
    return parser


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
