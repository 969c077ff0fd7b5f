"""Wall time of a search, against a bare PyTorch loop that trains the same networks for the same epochs.

    python -m benchmarks.driver [--data digits,cifar10] [--root DIR] [--device cpu|cuda] [--trials N] [--epochs N]
                                [--repeats N] [--images N] [--json FILE]

A search is run once for its sizes. Then, in turns, the search is run again with a run directory (so it probes, decides,
rewrites, saves checkpoints and the history), and the networks of its trials are trained by a loop of zero_grad,
forward, backward and step, on the same batches in the same order. `ratio` is the median over the repeats of that of the
two wall times. `rewrite` and `save` are the shares of a search that resizing networks and writing files take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.probe.__main__ import table
from benchmarks.processes import describe
from conet_fx import SearchConfig, SearchResult, data, models, optimize
from conet_fx.plan import ChannelPlan
from conet_fx.search.distributed import make_fabric
from conet_fx.search.randomness import seed_everything
from conet_fx.search.run_dir import RunDirectory

BATCH = 64


class Timed:
    """Adds up the seconds that a method takes, wherever it is called."""

    def __init__(self, owner: type[Any], name: str) -> None:
        self.owner, self.name, self.seconds = owner, name, 0.0

    def __enter__(self) -> Timed:
        self.function: Callable[..., Any] = getattr(self.owner, self.name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return self.function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(self.owner, self.name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.function)


class Task:
    """One data set, and the network that is searched on it."""

    def __init__(self, name: str, root: str | None, images: int | None, config: SearchConfig) -> None:
        self.config = config
        self.data = data.load(name, root=root, image_size=8 if name == "digits" else None)
        still: Any = self.data.still
        picked = torch.randperm(len(still), generator=torch.Generator().manual_seed(0))[:images].tolist()
        self.samples: Any = [still[index] for index in picked]  # decoded now, not in the time that counts
        torch.manual_seed(0)
        self.model = models.build("resnet18_cifar", self.data.classes, in_channels=self.data.shape[0])

    def loader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        return torch.utils.data.DataLoader(self.samples, batch_size=BATCH, shuffle=True, generator=generator)

    def search(self, run_dir: str | None) -> SearchResult:
        return optimize(self.model, self.loader(), config=self.config, run_dir=run_dir, progress=False)

    def bare(self, plan: ChannelPlan, trials: list[Mapping[str, int]], device: torch.device) -> None:
        """The same training with nothing around it; the networks are made before the clock of a trial starts."""
        for number, sizes in enumerate(trials, start=1):
            loader = self.loader()
            seed_everything(self.config.seed, number, loader)
            network = plan.resize(sizes)
            start = time.perf_counter()
            self._train(network.to(device).train(), loader, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.seconds += time.perf_counter() - start

    seconds = 0.0

    def _train(self, network: nn.Module, loader: Any, device: torch.device) -> None:
        optimizer = torch.optim.SGD(network.parameters(), self.config.lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(self.config.epochs_per_trial):
            for images, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(network(images.to(device)), labels.to(device)).backward()
                optimizer.step()


def measure(task: Task, repeats: int, device: torch.device) -> Iterator[dict[str, float]]:
    result = task.search(None)  # a warm-up too
    sizes = [dict(trial.sizes) for trial in result.history]
    task.bare(result.plan, sizes[:1], device)
    for _ in range(repeats):
        with (
            tempfile.TemporaryDirectory() as folder,
            Timed(ChannelPlan, "resize") as rewrite,
            Timed(RunDirectory, "write") as save,
        ):
            start = time.perf_counter()
            task.search(str(Path(folder, "run")))
            searched = time.perf_counter() - start
        task.seconds = 0.0
        task.bare(result.plan, sizes, device)
        print(f"{searched:.2f} s, bare loop {task.seconds:.2f} s", file=sys.stderr, flush=True)
        yield {
            "search, s": searched,
            "bare loop, s": task.seconds,
            "ratio": searched / task.seconds,
            "rewrite": rewrite.seconds / searched,
            "save": save.seconds / searched,
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Wall time of a search against a bare loop.")
    parser.add_argument("--data", default="digits", help="digits,cifar10,folder:PATH (default digits)")
    parser.add_argument("--root", default=None, help="where the data sets lie")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5, help="in a trial (default 5)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=None, help="take only so many (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.data.split(","):
        config = SearchConfig(
            trials=options.trials, epochs_per_trial=options.epochs, lr=0.03, accelerator=options.device, gamma=0.0
        )
        device = make_fabric(config).device
        task = Task(name, options.root, options.images if name != "digits" else None, config)
        measured = list(measure(task, options.repeats, device))
        row: dict[str, Any] = {
            "data": name,
            "images": len(task.samples),
            "trials x epochs": f"{config.trials} x {config.epochs_per_trial}",
        }
        row |= {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        row["ratios"] = ", ".join(f"{one['ratio']:.3f}" for one in measured)
        rows.append(row)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{describe()}, {where}, median of {options.repeats}\n\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps({"environment": describe(), "where": where, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
