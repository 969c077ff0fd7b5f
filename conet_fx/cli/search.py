"""conet-fx search."""

from __future__ import annotations

import contextlib
import json
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from conet_fx import data, models, recipes
from conet_fx.cli.common import checked, command, tell
from conet_fx.cli.evaluate import compare_rivals
from conet_fx.cli.job import Job
from conet_fx.cli.report import show
from conet_fx.evaluate import RIVALS
from conet_fx.final import EvaluationConfig
from conet_fx.optimize import optimize
from conet_fx.report import Observer, TensorBoard
from conet_fx.search import SearchConfig
from conet_fx.search.distributed import Distributed, make_fabric
from conet_fx.search.history import Epoch, Trial
from conet_fx.search.run_dir import CONFIG, FOUND, RunDirectory

HELP = "search the channel sizes of a network"

# The paper's settings take hours; on the built-in data a search has to show the whole job within minutes on 2 cores.
MINUTES: Mapping[str, Any] = {
    "image_size": 8,
    "batch_size": 64,
    "trials": 8,
    "epochs_per_trial": 5,
    "final.epochs": 15,
    "final.lr": 0.05,
}
OF_ONE_CALL = ("config", "recipe", "debug", "run_dir", "quiet", "tensorboard")  # what config.yaml lacks of the options


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_class_arguments(Job)
    parser.add_argument("--run_dir", type=str | None, default=None, help="run directory (default: a new one in runs/)")
    parser.add_argument("--evaluate", type=bool, default=True, help="train the networks to the end and compare them")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--tensorboard", type=str | None, default=None, help="write scalars into this folder meanwhile")
    parser.add_class_arguments(SearchConfig)
    parser.add_class_arguments(EvaluationConfig, "final")
    parser.add_argument("--recipe", type=str | None, default=None, help=f"of the paper: {', '.join(recipes.names())}")
    if _value(words, "--data") == "digits":
        parser.set_defaults(dict(MINUTES))
    if name := _value(words, "--recipe"):
        parser.set_defaults(_defaults(name))
    return parser


def run(arguments: Namespace) -> None:
    """Search, train the found network and its rivals to the end, show a table and write the report."""
    config, final, job = (
        checked(SearchConfig, arguments),
        checked(EvaluationConfig, arguments.final),
        checked(Job, arguments),
    )
    fabric = make_fabric(config)
    dataset = job.dataset()
    model = models.build(job.arch, dataset.classes, dataset.shape[0])
    device = fabric.device if job.data_on_device else None
    part = (fabric.global_rank, fabric.world_size)
    train, _ = data.loaders(dataset, job.batch_size, config.seed, job.workers, device=device, part=part)
    settings = _yaml(arguments)
    together = Distributed(fabric)

    def choose() -> Path:
        if arguments.run_dir:
            return Path(arguments.run_dir)
        return _chosen(job, settings, arguments.evaluate, len(final.seeds))

    record = RunDirectory(together.from_first(choose))
    observers: list[Observer] = [_Settings(record, settings)]
    if arguments.tensorboard:
        observers.append(TensorBoard(arguments.tensorboard))
    with record.locked() if together.first else contextlib.nullcontext():
        result = optimize(
            model,
            train,
            config=config,
            run_dir=record.path,
            resume=True,
            fabric=fabric,
            progress=not arguments.quiet,
            observers=observers,
        )
        trained = any(e.label == "found" and e.sizes == result.sizes and e.seeds for e in record.evaluations())
        if together.first and not trained:
            result.save(record.path / FOUND)
        if arguments.evaluate:
            of_model = result.plan, result.sizes, result.model_id
            compare_rivals(record, *of_model, dataset, job, final, config, fabric, quiet=arguments.quiet)
    if together.first:
        show(record)


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


def _yaml(arguments: Namespace) -> str:
    """All settings, as ``--config`` reads them; what belongs to one invocation is left out."""
    settings = {k: v for k, v in arguments.as_dict().items() if k not in OF_ONE_CALL}
    settings["final"]["seeds"] = list(settings["final"]["seeds"])
    return yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)  # plain numbers, as YAML needs them


def _chosen(job: Job, settings: str, evaluate: bool, seeds: int) -> Path:
    """A directory in ``runs/`` for a search with these settings: one that was cut off, to go on with, or a new one."""
    stem = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in (job.arch, job.data))
    path, number = Path("runs") / stem, 1
    while path.exists():
        file = path / CONFIG
        if (
            file.is_file()
            and file.read_text(encoding="utf-8") == settings
            and not _ended(RunDirectory(path), evaluate, seeds)
        ):
            tell(f"going on with {path}")
            return path
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


def _ended(run: RunDirectory, evaluate: bool, seeds: int) -> bool:
    """Whether a search has done all that it was asked to."""
    if not (run.path / FOUND).is_dir():
        return False
    done = {evaluation.label for evaluation in run.evaluations() if len(evaluation.seeds) == seeds}
    return not evaluate or done >= RIVALS


def _defaults(name: str) -> dict[str, Any]:
    """The settings of a recipe of the paper, which options and a configuration file go before."""
    try:
        settings = yaml.safe_load(recipes.path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArgumentError(None, str(error)) from error
    final = {f"final.{key}": tuple(value) if key == "seeds" else value for key, value in settings.pop("final").items()}
    return {**settings, **final}


def _value(argv: Sequence[str], option: str) -> str | None:
    """The value of ``--option value`` or ``--option=value``."""
    for index, word in enumerate(argv):
        if word == option:
            return argv[index + 1] if index + 1 < len(argv) else None
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
