"""The command line: conet-fx search, evaluate, report, graph, resize, export.

conet-fx search --arch resnet18_cifar --data digits
conet-fx search --arch torchvision:mobilenet_v2 --data cifar10 --root data --delta 0.01 --trials 25
conet-fx evaluate runs/resnet18_cifar-digits --epochs 250 --seeds [0,1,2]
conet-fx report runs/resnet18_cifar-digits
conet-fx graph torchvision:densenet121 --shape 3 224 224 -o densenet.svg
conet-fx resize runs/mine/found --sizes layer1.0.conv1=24 --round_to 8 -o smaller
conet-fx export runs/resnet18_cifar-digits -o network.py
conet-fx export runs/resnet18_cifar-digits --shape 3 8 8 -o network.onnx
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import signal
import sys
import threading
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import torch
import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    SUPPRESS,
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)
from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console
from torch import nn

from conet_fx import data, models, recipe
from conet_fx.data import DataSet
from conet_fx.draw import check_suffix
from conet_fx.errors import ConetError, SearchError
from conet_fx.evaluate import RIVALS, EvaluationConfig, evaluate_rivals
from conet_fx.export import Format, export
from conet_fx.optimize import optimize
from conet_fx.plan import ChannelPlan, analyze
from conet_fx.recipe.files import RECIPE
from conet_fx.report import Observer, TensorBoard, collect, comparison, page, tables, verdict
from conet_fx.saving import save
from conet_fx.search import SearchConfig
from conet_fx.search.batches import first_batch, samples
from conet_fx.search.distributed import Distributed, make_fabric
from conet_fx.search.history import Epoch, Trial
from conet_fx.search.run_dir import CONFIG, FOUND, REPORT, RunDirectory
from conet_fx.search.task import SAMPLES

T = TypeVar("T")

# The paper's settings take hours; on the built-in data a search has to show the whole job within minutes on 2 cores.
MINUTES: Mapping[str, Any] = {
    "image_size": 8,
    "batch_size": 64,
    "trials": 8,
    "epochs_per_trial": 5,
    "final.epochs": 15,
    "final.lr": 0.05,
}
OF_ONE_CALL = ("config", "debug", "run", "quiet", "tensorboard")  # search's options that config.yaml lacks
EXIT_CODES = """\
exit status:
  0    done
  1    failed, as one line on standard error says (--debug shows where)
  2    wrong usage
  130  interrupted (SIGINT, Ctrl-C)
  143  terminated (SIGTERM)
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """Which network on which data.

    Args:
        arch: resnet18_cifar, torchvision:NAME or module:factory.
        data: digits, cifar10, cifar100, imagenet or folder:PATH.
        root: where the data set lies.
        download: fetch the data set if it is not there.
        image_size: side of the images, pixels.
        batch_size: samples in a batch, >= 1.
        workers: processes that load data, >= 0.
        data_on_device: keep the training images on the device and augment them there; not for images above 64 pixels.
    """

    arch: str
    data: str
    root: str | None = None
    download: bool = False
    image_size: int | None = None
    batch_size: PositiveInt = 128
    workers: NonNegativeInt = 0
    data_on_device: bool = False

    def dataset(self) -> DataSet:
        """The data set, read from disk."""
        return data.load(self.data, root=self.root, image_size=self.image_size, download=self.download)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status, as :data:`EXIT_CODES` has it."""
    sys.path.insert(0, os.getcwd())  # mymodel:factory is looked up where the user stands
    words = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "search": _search,
        "evaluate": _evaluate,
        "report": _report,
        "graph": _graph,
        "resize": _resize,
        "export": _export,
    }
    try:
        with _terminable():
            arguments = _parser(words).parse_args(words)
            commands[arguments.subcommand](arguments[arguments.subcommand])
            sys.stdout.flush()
    except BrokenPipeError:  # who reads our output has seen enough; nothing may be left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except _Terminated:
        return _failed("terminated", 143)
    except SystemExit as end:  # a search that was terminated has saved what it did
        if end.code == 143:
            return _failed("terminated", 143)
        raise
    except ArgumentError as error:
        command = f"conet-fx {words[0]}" if words and words[0] in commands else "conet-fx"
        return _failed(f"{_line(error)} (see {command} --help)", 2)
    except Exception as error:
        if "--debug" in words:
            raise
        ours = isinstance(error, (ConetError, ValueError, TypeError, OSError))
        return _failed(_line(error) if ours else f"{type(error).__name__}: {_line(error)} (--debug shows where)", 1)
    return 0


def _failed(message: str, status: int) -> int:
    print(f"conet-fx: {message}", file=sys.stderr)
    return status


def _line(error: BaseException) -> str:
    """An error in one line: a table that follows the first is left out, the rest of a sentence is not."""
    first, _, rest = str(error).strip().partition("\n\n")
    return " ".join(first.split()) + (" (more with --debug)" if rest else "")


class _Terminated(BaseException):
    """SIGTERM."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that what it has opened is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- commands --------------------------------------------------------------------------------------------------


def _search(arguments: Namespace) -> None:
    """Search, train the found network and its rivals to the end, show a table and write the report."""
    config, final, job = (
        _checked(SearchConfig, arguments),
        _checked(EvaluationConfig, arguments.final),
        _checked(Job, arguments),
    )
    fabric = make_fabric(config)
    dataset = job.dataset()
    model = models.build(job.arch, dataset.classes, dataset.shape[0])
    device = fabric.device if job.data_on_device else None
    part = (fabric.global_rank, fabric.world_size)
    train, _ = data.loaders(dataset, job.batch_size, config.seed, job.workers, device=device, part=part)
    settings = _yaml(arguments)
    together = Distributed(fabric)
    path = together.from_first(
        lambda: (
            Path(arguments.run) if arguments.run else _chosen(job, settings, lambda run: _ended(run, arguments, final))
        )
    )
    run = RunDirectory(path)
    observers: list[Observer] = [_Settings(run, settings)]
    if arguments.tensorboard:
        observers.append(TensorBoard(arguments.tensorboard))
    result = optimize(
        model,
        train,
        config=config,
        run_dir=run.path,
        resume=True,
        fabric=fabric,
        progress=not arguments.quiet,
        observers=observers,
    )
    if together.first and not any(
        e.label == "found" and e.sizes == result.sizes and e.seeds for e in run.evaluations()
    ):
        result.save(run.path / FOUND)  # else it is there, trained
    if arguments.evaluate:
        evaluate_rivals(
            run,
            result.plan,
            result.sizes,
            result.model_id,
            dataset,
            final,
            fabric,
            round_to=config.round_to,
            batch_size=job.batch_size,
            workers=job.workers,
            on_device=job.data_on_device,
            tell=_nobody if arguments.quiet else _tell,
        )
    if together.first:
        _show(run)


class _Settings:
    """Writes the settings once the run directory is known to be ours, so that the report has them from the start."""

    def __init__(self, run: RunDirectory, settings: str) -> None:
        self._run, self._settings = run, settings

    def begin(self, history: Sequence[Trial]) -> None:
        self._run.write(CONFIG, self._settings)

    def epoch(self, trial: int, epoch: Epoch) -> None:
        pass

    def trial(self, trial: Trial) -> None:
        pass


def _evaluate(arguments: Namespace) -> None:
    """Train the network that a run has found, and its rivals, to the end with several seeds; write the report.

    What is left out is as the run has it. A seed that is done is not trained again: the same command goes on where it
    was interrupted.
    """
    run = RunDirectory(arguments.run)
    header, history = run.header(), run.history()
    settings = _settings(run)
    job = _checked(Job, {**settings, **arguments.as_dict()})
    final = _checked(EvaluationConfig, {**settings["final"], **arguments.as_dict()})
    config = SearchConfig(**header["config"])
    if not history:
        raise SearchError(f"{run.path} has no finished trial, so there is nothing to train yet: wait, or resume it")
    fabric = make_fabric(config)
    dataset = job.dataset()
    model = models.build(job.arch, dataset.classes, dataset.shape[0])
    inputs, _ = first_batch(data.loaders(dataset, job.batch_size, config.seed)[0])
    plan = analyze(model, samples(inputs, SAMPLES), tie_concat=config.tie_concat, resize_linear=config.resize_linear)
    model_id = recipe.identify(model)
    if {**model_id, "sizes": plan.sizes} != header["model"]:
        raise SearchError(
            f"{run.path} holds a run of another network than {job.arch} gives now: restore the code of the model"
        )
    evaluate_rivals(
        run,
        plan,
        {name: group.next_size for name, group in history[-1].groups.items()},
        model_id,
        dataset,
        final,
        fabric,
        round_to=config.round_to,
        batch_size=job.batch_size,
        workers=job.workers,
        on_device=job.data_on_device,
        tell=_nobody if arguments.quiet else _tell,
    )
    if fabric.is_global_zero:
        _show(run)


def _settings(run: RunDirectory) -> dict[str, Any]:
    """What ``conet-fx search`` was called with. Raises :class:`SearchError` for a run that something else made."""
    file = run.path / CONFIG
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings["arch"], settings["data"], settings["final"]["seeds"]
    except FileNotFoundError:
        raise SearchError(
            f"{run.path} has no {CONFIG}, since it was not made by conet-fx search: call conet_fx.evaluate.evaluate "
            "with your model and data"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SearchError(f"{file} is damaged ({type(error).__name__}: {error}): restore it") from error
    return settings  # type: ignore[no-any-return]


def _tell(words: str) -> None:
    print(words, file=sys.stderr)


def _nobody(words: str) -> None:
    pass


def _show(run: RunDirectory) -> None:
    """Write the page, print the tables and the verdict."""
    record = collect(run.path)
    run.write(REPORT, page(record))
    console = Console()
    for table in tables(record):
        console.print(table)
    console.print(verdict(record), highlight=False)
    console.print(f"report: {run.path / REPORT}   network: {run.path / FOUND}", highlight=False, soft_wrap=True)


def _report(arguments: Namespace) -> None:
    """Write the page of a run, finished or not; of several runs one that compares them."""
    runs = _named(arguments.runs)
    records = {name: collect(path) for name, path in runs.items()}
    if arguments.tensorboard:
        for name, record in records.items():
            folder = Path(arguments.tensorboard) / (name if len(runs) > 1 else "")
            TensorBoard(folder).write(record.trials)
            print(folder)
    (path, *others) = runs.values()
    if not others:
        file = Path(arguments.output) if arguments.output else path / REPORT
        text = page(next(iter(records.values())))
    else:
        file = Path(arguments.output or "comparison.html")
        pages = {name: path / REPORT for name, path in runs.items() if (path / REPORT).exists()}
        links = {name: quote(Path(os.path.relpath(page, file.parent)).as_posix()) for name, page in pages.items()}
        text = comparison(records, links)
    RunDirectory(file.parent).write(file.name, text)
    print(file)


def _named(paths: Sequence[str]) -> dict[str, Path]:
    """Run directories by the shortest end of their paths that tells them apart."""
    runs = {Path(path).resolve(): Path(path) for path in paths}
    depth = 1
    while len({path.parts[-depth:] for path in runs}) < len(runs):
        depth += 1
    return {"/".join(path.parts[-depth:]).lstrip("/"): given for path, given in runs.items()}


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


def _parser(words: Sequence[str]) -> ArgumentParser:
    set_parsing_settings(add_print_completion_argument=True)
    parser = ArgumentParser(
        prog="conet-fx",
        description="Find the right channel size for every layer of a CNN.",
        epilog=EXIT_CODES,
        formatter_class=_Help,
        exit_on_error=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(required=True, dest="subcommand")

    search = _command(_search)
    search.add_class_arguments(Job)
    search.add_argument("--run", type=str | None, default=None, help="run directory (default: a new one in runs/)")
    search.add_argument("--evaluate", type=bool, default=True, help="train the networks to the end and compare them")
    search.add_argument("--quiet", action="store_true", help="no progress display")
    search.add_argument("--tensorboard", type=str | None, default=None, help="write scalars into this folder meanwhile")
    search.add_class_arguments(SearchConfig)
    search.add_class_arguments(EvaluationConfig, "final")
    if _value(words, "--data") == "digits":
        search.set_defaults(dict(MINUTES))
    commands.add_subcommand("search", search, help="search the channel sizes of a network")

    evaluation = _command(_evaluate)
    evaluation.add_argument("run", type=str, help="run directory, written by conet-fx search")
    evaluation.add_class_arguments(EvaluationConfig)
    for name, what in (("root", str | None), ("download", bool), ("workers", NonNegativeInt)):
        evaluation.add_argument(f"--{name}", type=what, help="as for search")
    evaluation.set_defaults(dict.fromkeys([*_names(EvaluationConfig), "root", "download", "workers"], SUPPRESS))
    evaluation.add_argument("--quiet", action="store_true", help="no word on what is done")
    commands.add_subcommand("evaluate", evaluation, help="train the network of a run to the end, and its rivals")

    report = _command(_report)
    report.add_argument("runs", type=str, nargs="+", help="one run directory, or several to compare")
    report.add_argument("-o", "--output", type=str | None, default=None, help="the page (default: report.html in the "
                        "run directory, comparison.html here for several)")  # fmt: skip
    report.add_argument("--tensorboard", type=str | None, default=None, help="also write scalars into this folder")
    commands.add_subcommand("report", report, help="write the HTML page of a run, or of several")

    graph = _command(_graph)
    graph.add_argument("model", type=str, help="resnet18_cifar, torchvision:NAME or module:factory")
    graph.add_argument(
        "-o", "--output", type=str | None, default=None, help="draw into a .dot, .svg, .png or .pdf file"
    )
    _add_analysis(graph)
    commands.add_subcommand("graph", graph, help="show the channel groups of a network")

    resize = _command(_resize)
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

    saving = _command(_export)
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


def _command(function: Callable[[Namespace], None]) -> ArgumentParser:
    """The parser of a subcommand, with what all have."""
    parser = ArgumentParser(
        description=inspect.getdoc(function), epilog=EXIT_CODES, formatter_class=_Help, exit_on_error=False
    )
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file with any of the settings below")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


class _Help(DefaultHelpFormatter):
    """Keeps the lines of the exit codes."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text == EXIT_CODES else str(super()._fill_text(text, width, indent))


def _add_analysis(parser: ArgumentParser) -> None:
    """How a network is traced and what may change in it."""
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 224, 224], help="channels, height and width")
    parser.add_argument("--classes", type=PositiveInt, default=10)
    parser.add_argument("--tie_concat", action="store_true", help="parts of a concatenation keep their proportion")
    parser.add_argument("--resize_linear", action="store_true", help="hidden linear layers may change too")
    parser.add_argument("--strict", action="store_true", help="fail at an operator that is not in the table")


def _value(argv: Sequence[str], option: str) -> str | None:
    """The value of ``--option value`` or ``--option=value``."""
    for index, word in enumerate(argv):
        if word == option:
            return argv[index + 1] if index + 1 < len(argv) else None
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _names(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _checked(cls: type[T], settings: Mapping[str, Any] | Namespace) -> T:
    """The data class of these settings. A value out of range is wrong usage."""
    values = dict(settings.items())
    try:
        fields = {name: values[name] for name in _names(cls) if name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    except (TypeError, ValueError) as error:
        raise ArgumentError(None, str(error)) from error


def _yaml(arguments: Namespace) -> str:
    """All settings, as ``--config`` reads them; what belongs to one invocation is left out."""
    settings = {k: v for k, v in arguments.as_dict().items() if k not in OF_ONE_CALL}
    settings["final"]["seeds"] = list(settings["final"]["seeds"])
    return yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)  # plain numbers, as YAML needs them


def _chosen(job: Job, settings: str, ended: Callable[[RunDirectory], bool]) -> Path:
    """A directory in ``runs/`` for a search with these settings: one that was cut off, to go on with, or a new one."""
    stem = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in (job.arch, job.data))
    path, number = Path("runs") / stem, 1
    while path.exists():
        file = path / CONFIG
        if file.is_file() and file.read_text(encoding="utf-8") == settings and not ended(RunDirectory(path)):
            _tell(f"going on with {path}")
            return path
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


def _ended(run: RunDirectory, arguments: Namespace, final: EvaluationConfig) -> bool:
    """Whether a search has done all that it was asked to."""
    if not (run.path / FOUND).is_dir():
        return False
    done = {evaluation.label for evaluation in run.evaluations() if len(evaluation.seeds) == len(final.seeds)}
    return not arguments.evaluate or done >= RIVALS
