"""conet-fx evaluate."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from lightning_fabric import Fabric

from conet_fx import data, models, recipe
from conet_fx.cli.common import checked, command, names, nobody, tell
from conet_fx.cli.job import Job
from conet_fx.cli.report import show
from conet_fx.data import DataSet
from conet_fx.errors import SearchError
from conet_fx.evaluate import evaluate_rivals
from conet_fx.final import EvaluationConfig
from conet_fx.plan import ChannelPlan, analyze
from conet_fx.search import SearchConfig
from conet_fx.search.batches import first_batch, samples
from conet_fx.search.distributed import make_fabric
from conet_fx.search.run_dir import CONFIG, RunDirectory
from conet_fx.search.task import SAMPLES

HELP = "train the network of a run to the end, and its rivals"
# options of search that may be other ones now
OF_JOB: Mapping[str, Any] = {"root": str | None, "download": bool, "workers": NonNegativeInt}


def parser_of(words: Sequence[str]) -> ArgumentParser:
    """The options."""
    parser = command(run)
    parser.add_argument("run", type=str, help="run directory, written by conet-fx search")
    parser.add_class_arguments(EvaluationConfig)
    for name, what in OF_JOB.items():
        parser.add_argument(f"--{name}", type=what, help="as for search")
    parser.set_defaults(dict.fromkeys([*names(EvaluationConfig), *OF_JOB], SUPPRESS))
    parser.add_argument("--quiet", action="store_true", help="no word on what is done")
    return parser


def run(arguments: Namespace) -> None:
    """Train the network that a run has found, and its rivals, to the end with several seeds; write the report.

    What is left out is as the run has it. A seed that is done is not trained again: the same command goes on where it
    was interrupted.
    """
    record = RunDirectory(arguments.run)
    header, history = record.header(), record.history()
    settings = _settings(record)
    given = arguments.as_dict()
    job = checked(Job, {**settings, **{name: given[name] for name in OF_JOB if name in given}})
    final = checked(EvaluationConfig, {**settings["final"], **given})
    config = SearchConfig(**header["config"])
    if not history:
        raise SearchError(f"{record.path} has no finished trial, so there is nothing to train yet: wait, or resume it")
    fabric = make_fabric(config)
    dataset = job.dataset()
    model = models.build(job.arch, dataset.classes, dataset.shape[0])
    inputs, _ = first_batch(data.loaders(dataset, job.batch_size, config.seed)[0])
    plan = analyze(model, samples(inputs, SAMPLES), tie_concat=config.tie_concat, resize_linear=config.resize_linear)
    model_id = recipe.identify(model)
    if {**model_id, "sizes": plan.sizes} != header["model"]:
        raise SearchError(
            f"{record.path} holds a run of another network than {job.arch} gives now: restore the code of the model"
        )
    found = {name: group.next_size for name, group in history[-1].groups.items()}
    with record.locked() if fabric.is_global_zero else contextlib.nullcontext():
        compare_rivals(record, plan, found, model_id, dataset, job, final, config, fabric, quiet=arguments.quiet)
    if fabric.is_global_zero:
        show(record)


def compare_rivals(
    record: RunDirectory,
    plan: ChannelPlan,
    found: Mapping[str, int],
    model_id: Mapping[str, str],
    dataset: DataSet,
    job: Job,
    final: EvaluationConfig,
    config: SearchConfig,
    fabric: Fabric,
    *,
    quiet: bool,
) -> None:
    """Train the found sizes and their rivals to the end, as the job says, and keep the record of it."""
    evaluate_rivals(
        record,
        plan,
        found,
        model_id,
        dataset,
        final,
        fabric,
        round_to=config.round_to,
        batch_size=job.batch_size,
        workers=job.workers,
        on_device=job.data_on_device,
        tell=nobody if quiet else tell,
    )


def _settings(record: RunDirectory) -> dict[str, Any]:
    """What ``conet-fx search`` was called with. Raises :class:`SearchError` for a run that something else made."""
    file = record.path / CONFIG
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
        if not {"arch", "data"} & set(settings):
            raise SearchError(
                f"{record.path} names no arch and data, since it was not made by conet-fx search: call "
                "conet_fx.evaluate.evaluate with your model and data"
            )
        settings["arch"], settings["data"], settings["final"]["seeds"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SearchError(f"{file} is damaged ({type(error).__name__}: {error}): restore it") from error
    return settings
