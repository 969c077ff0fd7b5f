"""The page as text: self-contained, safe, and with the run's numbers in it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from conet_fx.report import Run, page
from tests.report.synthetic import synthetic_run


def embedded(text: str) -> Any:
    match = re.search(r'<script type="application/json" id="run">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


@pytest.fixture(scope="module")
def run() -> Run:
    return synthetic_run()


def test_no_address_in_it(run: Run) -> None:
    text = page(run)
    addresses = set(re.findall(r"\w+://[^\s\"'<]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of SVG, not a place to load from"
    assert not re.search(r"\b(src|href)=|@import|url\(", text)


def test_holds_the_run(run: Run) -> None:
    data = embedded(page(run))
    assert [trial["params"] for trial in data["trials"]] == [trial.params for trial in run.trials]
    assert [group["name"] for group in data["groups"]] == list(run.groups)
    assert data["groups"][0]["frozen"] == "network input"
    assert data["groups"][1]["found"] == run.evaluations[0].sizes["conv1"]
    assert data["tiles"][2] == {
        "title": "Test accuracy",
        "from": "98.85",
        "to": "98.81 %",
        "note": "± 0.16 over 5 seeds",
    }
    assert data["summary"] == "δ = 0.07 · 12 of 14 channel groups free to change · 8 trials, 40 epochs, 3 min 00 s"


def test_without_evaluations_the_last_trial_stands_for_the_found_network(run: Run) -> None:
    data = embedded(page(dataclasses.replace(run, evaluations=[])))
    assert [tile["title"] for tile in data["tiles"]] == ["Parameters", "MACs per image", "Groups settled"]
    assert data["tiles"][0]["note"].endswith(", trial 8")


def test_one_trial_has_gone_nowhere(run: Run) -> None:
    data = embedded(page(dataclasses.replace(run, evaluations=[], trials=run.trials[:1])))
    assert data["tiles"][0] == {"title": "Parameters", "from": "", "to": "102 k", "note": "trial 1"}


@pytest.mark.parametrize(
    ("slope", "condition", "action", "cause"),
    [
        (0.1, 5.0, "expand", "rising"),
        (0.0, 5.0, "expand", "floor"),
        (0.0, 99.0, "shrink", "slope"),
        (0.1, 99.0, "shrink", "condition"),
        (0.1, 5.0, "shrink", "limit"),
        (0.0, 5.0, "stop", "stop"),
    ],
)
def test_which_threshold_acted(run: Run, slope: float, condition: float, action: str, cause: str) -> None:
    group: Any = dataclasses.replace(run.trials[0].groups["conv1"], slope=slope, condition=condition, action=action)
    trial = dataclasses.replace(run.trials[0], groups={**run.trials[0].groups, "conv1": group})
    data = embedded(page(dataclasses.replace(run, trials=[trial])))
    assert data["groups"][1]["trials"][0]["cause"] == cause


def test_names_stay_text(run: Run) -> None:
    evil = "</script><script>alert(1)</script>"
    text = page(dataclasses.replace(run, model=evil, config={evil: evil}))
    assert evil not in text
    assert text.count("</script>") == 2, "the data and our script"
    assert embedded(text)["config"] == [[evil, evil]]


def test_dollars_and_braces_are_no_placeholders(run: Run) -> None:
    assert "net $title ${script}" in page(dataclasses.replace(run, model="net $title ${script}"))
