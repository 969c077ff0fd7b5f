"""The page of one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from conet_fx.report.document import document, significant
from conet_fx.report.layout import layout
from conet_fx.report.run import Run, accuracy, change, count, duration
from conet_fx.report.tables import TITLES
from conet_fx.report.verdict import judge
from conet_fx.search.history import GroupTrial, Trial

SCRIPTS = ("kit.js", "explore.js", "run.js", "charts.js", "ranks.js", "training.js", "graph.js", "page.js")
RANK, RATE = 1e5, 1e3  # what ranks and log10 of learning rates are multiplied by, to be sent as whole numbers


def page(run: Run) -> str:
    """The page of a run: comparison, channels, graph, decisions, ranks, training, costs, groups and settings."""
    outcome = judge(run)
    return document(
        f"{run.model} on {run.data}",
        "run.html",
        SCRIPTS,
        payload(run),
        outcome=outcome.outcome,
        verdict=outcome.text.replace(" %", "\N{NO-BREAK SPACE}%"),
    )


def payload(run: Run) -> dict[str, Any]:
    """What the page's script draws: plain numbers (accuracies in percent) and text that is ready to show."""
    networks = [
        {
            "label": evaluation.label,
            "title": TITLES.get(evaluation.label, evaluation.label),
            "params": evaluation.params,
            "macs": evaluation.macs,
            "accuracy": accuracy(evaluation.accuracies),
            "accuracies": [100 * value for value in evaluation.accuracies],
            "seeds": list(evaluation.seeds),
            "epochs": evaluation.epochs,
        }
        for evaluation in run.evaluations
    ]
    found = run.found_sizes
    groups = [
        {
            "name": name,
            "writers": list(writers),
            "readers": list(run.readers.get(name, ())),
            "before": run.initial_sizes[name],
            "found": found[name],
            "frozen": run.frozen.get(name),
            "trials": [_decision(run, trial.groups.get(name)) for trial in run.trials],
        }
        for name, writers in run.groups.items()
    ]
    return {
        "summary": _summary(run),
        "advice": [f"{words[0].upper()}{words[1:]}." for words in run.advice],
        "tiles": _tiles(run),
        "networks": networks,
        "groups": groups,
        "trials": [_trial(trial) for trial in run.trials],
        "layers": _layers(run),
        "graph": _graph(run),
        "delta": run.config.get("delta"),
        "mu": run.config.get("mu"),
        "config": [[key, str(value)] for key, value in run.config.items()],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "params": trial.params,
        "macs": trial.macs,
        "loss": [significant(epoch.loss) for epoch in trial.epochs],
        "accuracy": [None if epoch.accuracy is None else significant(100 * epoch.accuracy) for epoch in trial.epochs],
    }


def _layers(run: Run) -> list[dict[str, Any]]:
    """The learning rate of each layer in every epoch of every trial, in the order of the network."""
    names = dict.fromkeys(name for trial in run.trials for epoch in trial.epochs for name in epoch.learning_rates)
    owners = {layer: index for index, layers in reversed(list(enumerate(run.groups.values()))) for layer in layers}
    return [
        {
            "name": name,
            "group": owners.get(name),
            "rates": [_steps(_rate(epoch.learning_rates.get(name)) for epoch in trial.epochs) for trial in run.trials],
        }
        for name in names
    ]


def _rate(value: float | None) -> int | None:
    return None if value is None or not 0 < value < math.inf else round(RATE * math.log10(value))


def _steps(values: Iterable[int | None]) -> list[int | None]:
    """Each value less the known one before it: short to write, since neighbours are alike."""
    steps: list[int | None] = []
    before = 0
    for value in values:
        steps.append(None if value is None else value - before)
        before = before if value is None else value
    return steps


def _graph(run: Run) -> dict[str, Any] | None:
    """The drawing: of each box its place, what is in it, and its channels by the index of their group."""
    if run.network is None:
        return None
    drawing = layout(run.network)
    index = {name: i for i, name in enumerate(run.groups)}
    boxes = [
        {
            "at": [box.x, box.y],
            "kind": box.nodes[0].kind,
            "operators": [node.operator for node in box.nodes],
            "source": box.nodes[0].source.replace("\\", "/").rpartition("/")[2],
            "parts": [[index.get(name or ""), channels] for name, channels in box.nodes[0].parts],
        }
        for box in drawing.boxes
    ]
    wires = [[wire.x, wire.y, wire.end, int(wire.conv)] for wire in drawing.wires]
    return {"boxes": boxes, "wires": wires, "width": drawing.width, "height": drawing.height}


def _decision(run: Run, group: GroupTrial | None) -> dict[str, Any] | None:
    """A group's part in a trial; ``cause`` is what decided it: a threshold or a limit of the sizes."""
    if group is None:
        return None
    flat = group.slope < run.config.get("delta", -math.inf)
    weak = flat or group.condition >= run.config.get("mu", math.inf)
    cause = {
        "expand": "floor" if weak else "rising",
        "shrink": "slope" if flat else "condition" if weak else "limit",
        "stop": "stop",
    }[group.action]
    return {
        "size": group.size,
        "ranks": _steps(round(RANK * rank) for rank in group.ranks),
        "peak": max(range(len(group.ranks)), key=group.ranks.__getitem__, default=0),
        "slope": significant(group.slope),
        "condition": significant(group.condition),
        "action": group.action,
        "cause": cause,
        "phi": group.phi,
        "next": group.next_size,
        "reason": group.reason,
    }


def _summary(run: Run) -> str:
    """One line: the threshold, and how far the search went."""
    free = len(run.free)
    parts = [f"{free} of {len(run.groups)} channel groups free to change"]
    if "delta" in run.config:
        parts.insert(0, f"δ = {run.config['delta']}")
    if run.trials:
        epochs = sum(len(trial.epochs) for trial in run.trials)
        took = duration(sum(trial.seconds for trial in run.trials))
        trials = "1 trial" if len(run.trials) == 1 else f"{len(run.trials)} trials"
        parts.append(f"{trials}, {epochs} epochs, {took}")
        if not run.ended:
            parts.append(f"not ended yet (at most {run.config['trials']} trials)")
    return " · ".join(parts)


def _tiles(run: Run) -> list[dict[str, str]]:
    """The headline numbers: from the start to the found network, or as far as the trials have come."""
    tiles = [_cost_tile(run, "Parameters", "params"), _cost_tile(run, "MACs per image", "macs")]
    start, found = run.evaluation("start"), run.evaluation("found")
    if found and found.accuracies:
        mean, _, spread = accuracy(found.accuracies).removesuffix(" %").partition(" ")
        before = accuracy(start.accuracies).split(" ")[0] if start and start.accuracies else ""
        note = f"{spread} over {len(found.accuracies)} seeds" if spread else "one seed"
        tiles.append({"title": "Test accuracy", "from": before, "to": f"{mean} %", "note": note})
    if run.trials:
        groups = run.trials[-1].groups.values()
        settled = sum(group.action == "stop" for group in groups)
        size = statistics.median(run.found_sizes[name] for name in run.free) if run.free else 0
        note = f"median size {size:g} channels"
        tiles.append({"title": "Groups settled", "from": "", "to": f"{settled} of {len(groups)}", "note": note})
    return [tile for tile in tiles if tile]


def _cost_tile(run: Run, title: str, field: str) -> dict[str, str]:
    """Empty where nothing is known of the cost yet."""
    before = run.evaluation("start") or next(iter(run.trials), None)
    after = run.evaluation("found") or next(iter(reversed(run.trials)), None)
    if before is None or after is None:
        return {}
    first, last = getattr(before, field), getattr(after, field)
    note = change(first, last).replace("-", "\N{MINUS SIGN}")
    if isinstance(after, Trial):
        note = f"{note}, trial {after.number}"
    if after is before:
        return {"title": title, "from": "", "to": count(last), "note": f"trial {run.trials[0].number}"}
    return {"title": title, "from": count(first), "to": count(last), "note": note}
