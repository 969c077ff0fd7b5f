"""The report as one HTML page that needs nothing else: no network, no library, no font."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import statistics
import string
from importlib import resources
from typing import Any

from conet_fx.report.run import Run, accuracy, change, count, duration
from conet_fx.report.tables import TITLES
from conet_fx.report.verdict import judge
from conet_fx.search.history import GroupTrial, Trial

SCRIPTS = ("kit.js", "explore.js", "charts.js", "page.js")  # one module, in this order


def page(run: Run) -> str:
    """The page of a run: comparison, channel and rank evolution, decisions, costs, groups and settings.

    Names come from the user: they reach the page as escaped text, and as JSON that is only ever set as text.
    The page's own security policy lets no script run but ours.
    """
    files = resources.files("conet_fx.report")
    style = files.joinpath("page.css").read_text("utf-8")
    script = "\n".join(files.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    outcome = judge(run)
    return string.Template(files.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(f"{run.model} on {run.data}"),
        outcome=outcome.outcome,
        verdict=html.escape(outcome.text.replace(" %", "\N{NO-BREAK SPACE}%")),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        payload=_embed(payload(run)),
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
            "before": run.initial_sizes[name],
            "found": found[name],
            "frozen": run.frozen.get(name),
            "trials": [_decision(run, trial.groups.get(name)) for trial in run.trials],
        }
        for name, writers in run.groups.items()
    ]
    return {
        "summary": _summary(run),
        "tiles": _tiles(run),
        "networks": networks,
        "groups": groups,
        "trials": [_trial(trial) for trial in run.trials],
        "delta": run.config.get("delta"),
        "mu": run.config.get("mu"),
        "config": [[key, str(value)] for key, value in run.config.items()],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    last = trial.epochs[-1] if trial.epochs else None
    return {
        "number": trial.number,
        "params": trial.params,
        "macs": trial.macs,
        "loss": last and last.loss,
        "accuracy": None if last is None or last.accuracy is None else 100 * last.accuracy,
        "seconds": trial.seconds,
    }


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
        "ranks": [round(rank, 5) for rank in group.ranks],
        "slope": group.slope,
        "condition": group.condition,
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


def _embed(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element, and what is not finite is null."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _hash(text: str) -> str:
    """The name of an inline element in the page's content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
