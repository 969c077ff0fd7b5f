"""Searches and trainings that are done once, kept on disk, and gone on with where they were cut off."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import Dataset, Subset

import conet_fx
from benchmarks.paper.presets import Preset
from conet_fx import models
from conet_fx.data import DataSet, loaders
from conet_fx.evaluate import evaluate
from conet_fx.final import EvaluationConfig
from conet_fx.plan import ChannelPlan
from conet_fx.search import SearchConfig
from conet_fx.search.history import Evaluation, Trial
from conet_fx.search.run_dir import RunDirectory


def _say(words: str) -> None:
    print(words, flush=True)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search ended with."""

    sizes: Mapping[str, int]
    history: tuple[Trial, ...]


class Lab:
    """All that the experiments of one preset share.

    Args:
        out: the folder of everything that was done; another process on the same folder finds it.
        name: what the data are called in tables, and in those of the paper; their own name when left out.
        tell: gets a line for each search and seed that is done.
    """

    def __init__(
        self,
        preset: Preset,
        data: DataSet,
        fabric: Fabric,
        out: Path,
        *,
        name: str | None = None,
        tell: Callable[[str], None] = _say,
    ) -> None:
        self.name = name or data.name.rpartition("/")[2]
        self.preset, self.fabric, self._out, self._tell = preset, fabric, out, tell
        self.data = limited(data, preset.train_images, preset.test_images)
        self._plans: dict[str, ChannelPlan] = {}

    def plan(self, arch: str) -> ChannelPlan:
        """The plan of a network of this data set, at its own widths."""
        if arch not in self._plans:
            self._plans[arch] = conet_fx.analyze(self._build(arch), torch.zeros(2, *self.data.shape))
        return self._plans[arch]

    def _build(self, arch: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return models.build(arch, self.data.classes, self.data.shape[0])

    def search(self, arch: str, *, sizes: Mapping[str, int] | None = None, **settings: Any) -> Found:
        """Search from the preset's settings and these fields of SearchConfig, once.

        ``sizes``: of the network that is handed in; its own when left out.
        """
        preset = self.preset
        common = {"trials": preset.trials, "epochs_per_trial": preset.epochs_per_trial, "lr": preset.lr}
        config = SearchConfig(**{**common, **settings})
        model = self._build(arch) if sizes is None else self.plan(arch).resize(sizes)
        folder = self._folder("search", arch, {"sizes": sizes, **dataclasses.asdict(config)})
        train, _ = loaders(self.data, preset.batch_size, config.seed, device=self._on_device())
        result = conet_fx.optimize(
            model,
            train,
            config=config,
            fabric=self.fabric,
            run_dir=folder,
            resume=True,
            progress=False,
        )
        self._tell(f"search {arch} {settings}: {result.cost.params:,} parameters, {len(result.history)} trials")
        return Found(result.sizes, tuple(result.history))

    def baseline(self, arch: str, epochs: int, channels: int | None) -> Trial:
        """One trial of a network with ``channels`` in each free group, or its own widths: its ranks by epoch."""
        return self.search(arch, trials=1, epochs_per_trial=epochs, initial_channels=channels).history[0]

    def train(self, arch: str, label: str, sizes: Mapping[str, int]) -> Evaluation:
        """Train a network to the end with all seeds, once; ``label`` does not count."""
        preset = self.preset
        config = EvaluationConfig(epochs=preset.final_epochs, seeds=preset.seeds, lr=preset.final_lr)
        how = {**dataclasses.asdict(config), "sizes": dict(sizes)}
        run = RunDirectory(self._folder("training", arch, {name: how[name] for name in how if name != "seeds"}))
        known = [dataclasses.replace(each, label=label) for each in run.evaluations()]

        def keep(evaluation: Evaluation, trained: Any) -> None:
            run.save_evaluations([evaluation])
            last = f"seed {evaluation.seeds[-1]}: {100 * evaluation.accuracies[-1]:.2f} %"
            self._tell(f"train {arch} {label} ({evaluation.params:,} parameters), {last}")

        evaluation, _ = evaluate(
            label,
            sizes,
            self.plan(arch),
            self.data,
            config,
            self.fabric,
            batch_size=preset.batch_size,
            on_device=self._on_device() is not None,
            known=known,
            on_seed=keep,
            run_dir=run.path,
        )
        return evaluation

    def _on_device(self) -> torch.device | None:
        return self.fabric.device if self.data.still is not None and self.data.augmentation is not None else None

    def _folder(self, kind: str, arch: str, settings: Mapping[str, Any]) -> Path:
        """A folder for what depends on these settings, the data and the network alone."""
        preset = self.preset
        data = [self.data.name, self.data.shape, preset.train_images, preset.test_images, preset.batch_size]
        text = json.dumps([kind, arch, data, settings], sort_keys=True)
        name = "".join(c if c.isalnum() else "_" for c in arch)
        folder = self._out / kind / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def limited(data: DataSet, train: int | None, test: int | None) -> DataSet:
    """The first images in a fixed random order, the same for all that is made from them."""

    def part(whole: Dataset[Any] | None, count: int | None) -> Any:
        if whole is None or count is None or count >= len(whole):  # type: ignore[arg-type]
            return whole
        order = np.random.default_rng(0).permutation(len(whole))  # type: ignore[arg-type]
        return Subset(whole, sorted(order[:count].tolist()))

    return dataclasses.replace(
        data, train=part(data.train, train), test=part(data.test, test), still=part(data.still, train)
    )
