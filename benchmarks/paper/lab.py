"""Searches and trainings that are done once, kept on disk, and gone on with where they were cut off."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, fx, nn
from torch.utils.data import Dataset, Subset

import conet_fx
from benchmarks.paper.authors import Decides, Rule
from benchmarks.paper.presets import Preset
from benchmarks.paper.pruned import prune
from conet_fx import models
from conet_fx.data import DataSet, loaders
from conet_fx.evaluate import evaluate
from conet_fx.final import EvaluationConfig
from conet_fx.plan import ChannelPlan
from conet_fx.recipes import Recipe, recipe
from conet_fx.search import SearchConfig
from conet_fx.search.history import Evaluation, Trial
from conet_fx.search.run_dir import RunDirectory
from conet_fx.search.task import cost_per_sample

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _say(words: str) -> None:
    print(words, flush=True)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search ended with."""

    sizes: Mapping[str, int]
    history: tuple[Trial, ...]
    config: SearchConfig


class Lab:
    """All that the experiments of one preset share.

    Args:
        out: the folder of everything that was done; another process on the same folder finds it.
        name: what the data are called in tables, and in those of the paper; their own name when left out.
        authors: gives the rule that decides as the paper's authors do.
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
        authors: Callable[[SearchConfig], Decides] = Rule,
        tell: Callable[[str], None] = _say,
    ) -> None:
        self.name = name or data.name.rpartition("/")[2]
        self.preset, self.fabric, self.authors, self._out, self._tell = preset, fabric, authors, out, tell
        self.data = limited(data, preset.train_images, preset.test_images)
        self._plans: dict[str, ChannelPlan] = {}
        self._heads: dict[str, ChannelPlan] = {}

    def plan(self, arch: str) -> ChannelPlan:
        """The plan of a network of this data set, at its own widths."""
        if arch not in self._plans:
            self._plans[arch] = conet_fx.analyze(self._build(arch), torch.zeros(2, *self.data.shape))
        return self._plans[arch]

    def _build(self, arch: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return models.build(arch, self.data.classes, self.data.shape[0])

    def kernels(self, arch: str) -> dict[str, str]:
        """The kernel of each conv, say "3x3"."""
        return {
            path: "x".join(map(str, module.kernel_size))
            for path, module in self._build(arch).named_modules()
            if isinstance(module, CONVS)
        }

    def search(self, arch: str, *, sizes: Mapping[str, int] | None = None, **settings: Any) -> Found:
        """Search from the preset's settings and these fields of SearchConfig, once.

        ``sizes``: of the network that is handed in; its own when left out.
        """
        preset, config = self.preset, self._search_config(arch, settings)
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
        return Found(result.sizes, tuple(result.history), config)

    def _search_config(self, arch: str, settings: Mapping[str, Any]) -> SearchConfig:
        preset = self.preset
        sized = {name: getattr(preset, name) for name in ("trials", "epochs_per_trial", "channels_last")}
        if preset.recipes:
            return dataclasses.replace(self._recipe(arch).search, **{**sized, **settings})
        sized |= {"initial_channels": preset.initial_channels, "min_channels": preset.min_channels}
        return SearchConfig(**{"lr": preset.lr_of(arch), **sized, **settings})

    def _recipe(self, arch: str) -> Recipe:
        return recipe(f"{self.preset.recipes}-{'darts' if 'darts' in arch else 'resnet'}")

    def baseline(self, arch: str, epochs: int, sizes: Mapping[str, int]) -> Trial:
        """One trial of a network of these sizes: its ranks by epoch."""
        found = self.search(arch, sizes=sizes, trials=1, epochs_per_trial=epochs, initial_channels=None)
        return found.history[0]

    def train(self, arch: str, label: str, sizes: Mapping[str, int], *, keep_weights: bool = False) -> Evaluation:
        """Train a network to the end with all seeds, once; ``label`` does not count."""
        plan, whole, folder = self.plan(arch), self._with_head(arch), self._training_folder(arch, sizes)
        every = {**{group.name: group.size for group in whole.free}, **sizes}
        trained = self._train(arch, label, whole, every, self._final(arch), folder, keep_weights=keep_weights)
        if whole is plan:
            return trained
        cost = cost_per_sample(plan, sizes)  # an auxiliary head is of the training alone
        return dataclasses.replace(trained, sizes=dict(sizes), params=cost.params, macs=cost.macs)

    def prune(self, arch: str, pruner: str, wide: Mapping[str, int], params: int) -> Evaluation:
        """The network of ``wide`` sizes, trained with each seed, cut to about ``params`` and trained as long again.

        Each seed finds widths of its own: ``params`` and ``macs`` of what is returned are means, and it has no sizes.
        """
        preset, plan, config = self.preset, self.plan(arch), self._final(arch)
        trained = []
        for seed in preset.seeds:
            one = dataclasses.replace(config, seeds=(seed,))
            folder = self._folder(
                "pruned", arch, {**dataclasses.asdict(one), "pruner": pruner, "wide": wide, "params": params}
            )
            known = RunDirectory(folder).evaluations()
            if known:
                trained.append(dataclasses.replace(known[0], label=pruner))
                continue
            network = plan.resize(wide)
            weights = self._weights(arch, wide, seed)
            network.load_state_dict({name: weights[name] for name in network.state_dict()})  # no auxiliary head
            network = prune(network, torch.zeros(2, *self.data.shape), pruner, params)
            cut = conet_fx.analyze(network, torch.zeros(2, *self.data.shape))
            sizes = {group.name: group.size for group in cut.free}
            trained.append(self._train(arch, pruner, cut, sizes, one, folder, weights=network.state_dict()))
        return dataclasses.replace(
            trained[0],
            sizes={},
            params=round(sum(each.params for each in trained) / len(trained)),
            macs=round(sum(each.macs for each in trained) / len(trained)),
            accuracies=tuple(accuracy for each in trained for accuracy in each.accuracies),
            seeds=tuple(preset.seeds),
        )

    def _final(self, arch: str) -> EvaluationConfig:
        preset = self.preset
        sized = {"epochs": preset.final_epochs, "seeds": preset.seeds, "channels_last": preset.channels_last}
        if preset.recipes:
            return dataclasses.replace(self._recipe(arch).final, **sized)
        return EvaluationConfig(**sized, lr=preset.final_lr)

    def _with_head(self, arch: str) -> ChannelPlan:
        """The plan of the network that is trained to the end: DARTS of a recipe has an auxiliary head then."""
        if not (self.preset.recipes and "darts" in arch):
            return self.plan(arch)
        if arch not in self._heads:
            torch.manual_seed(0)
            factory = getattr(models, arch)
            model = factory(num_classes=self.data.classes, in_channels=self.data.shape[0], auxiliary=True)
            self._heads[arch] = conet_fx.analyze(model.train(), torch.zeros(2, *self.data.shape))
        return self._heads[arch]

    def _training_folder(self, arch: str, sizes: Mapping[str, int]) -> Path:
        """The same for all seeds."""
        settings = {name: value for name, value in dataclasses.asdict(self._final(arch)).items() if name != "seeds"}
        return self._folder("training", arch, {**settings, "sizes": dict(sizes)})

    def _train(
        self,
        arch: str,
        label: str,
        plan: ChannelPlan,
        sizes: Mapping[str, int],
        config: EvaluationConfig,
        folder: Path,
        *,
        weights: Mapping[str, Tensor] | None = None,
        keep_weights: bool = False,
    ) -> Evaluation:
        """Train with the seeds that ``folder`` does not have yet, from these weights, or from fresh ones."""
        run = RunDirectory(folder)
        known = [dataclasses.replace(each, label=label) for each in run.evaluations()]
        if keep_weights:
            known = [_only(each, lambda seed: _weights_of(folder, seed).is_file()) for each in known]
        done = {seed: accuracy for each in known for seed, accuracy in zip(each.seeds, each.accuracies, strict=True)}

        def keep(evaluation: Evaluation, trained: nn.Module) -> None:
            [seed] = set(evaluation.seeds) - done.keys()
            done[seed] = evaluation.accuracies[evaluation.seeds.index(seed)]
            if keep_weights:
                safetensors.torch.save_file(_on_cpu(trained.state_dict()), _weights_of(folder, seed))
            # seeds that this preset does not have stay known
            run.save_evaluations([dataclasses.replace(evaluation, seeds=(*done,), accuracies=(*done.values(),))])
            percent = f"{100 * done[seed]:.2f} %"
            self._tell(f"train {arch} {label} ({evaluation.params:,} parameters), seed {seed}: {percent}")

        def load(module: nn.Module) -> None:
            if weights is not None and isinstance(module, fx.GraphModule):
                module.load_state_dict(weights)

        evaluation, _ = evaluate(
            label,
            sizes,
            plan,
            self.data,
            config,
            self.fabric,
            batch_size=self.preset.batch_size,
            on_device=self._on_device() is not None,
            init_fn=load,
            known=known,
            on_seed=keep,
            run_dir=run.path,
        )
        return evaluation

    def _weights(self, arch: str, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
        """Those after the training with one seed."""
        self.train(arch, "wide", sizes, keep_weights=True)
        return safetensors.torch.load_file(_weights_of(self._training_folder(arch, sizes), seed))

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


def _weights_of(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}.safetensors"


def _only(evaluation: Evaluation, wanted: Callable[[int], bool]) -> Evaluation:
    """What is left of it with these seeds."""
    left = {s: a for s, a in zip(evaluation.seeds, evaluation.accuracies, strict=True) if wanted(s)}
    return dataclasses.replace(evaluation, seeds=tuple(left), accuracies=tuple(left.values()))


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors wants it."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


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
