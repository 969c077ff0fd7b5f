"""The page as text: self-contained, safe, and with the run's numbers in it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import conet_fx
from conet_fx.report import Run, page
from conet_fx.report.collect import collect
from conet_fx.report.page import RANK, RATE
from tests.report.synthetic import searched_network, synthetic_run
from tests.tiny import QUICK, TinyNet, tiny_loader


def embedded(text: str) -> Any:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
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


def test_says_what_is_wrong_with_the_slopes(run: Run) -> None:
    assert embedded(page(run))["advice"] == []
    doubtful = dataclasses.replace(run, advice=("trials are too short", "delta is too small"))
    assert embedded(page(doubtful))["advice"] == ["Trials are too short.", "Delta is too small."]


def test_the_advice_is_read_from_a_run_directory(tmp_path: Path) -> None:
    conet_fx.optimize(TinyNet(), tiny_loader(), run_dir=tmp_path, progress=False, **{**QUICK, "trials": 2})
    first, second = collect(tmp_path).advice
    assert first.startswith("the probe finds no rank in 2 of 2 groups")
    assert second.startswith("delta 0.0075 is less than")


def test_without_evaluations_the_last_trial_stands_for_the_found_network(run: Run) -> None:
    data = embedded(page(dataclasses.replace(run, evaluations=[])))
    assert [tile["title"] for tile in data["tiles"]] == ["Parameters", "MACs per image", "Groups settled"]
    assert data["tiles"][0]["note"].endswith(", trial 8")


def test_a_search_that_goes_on_says_so(run: Run) -> None:
    assert "not ended yet" not in embedded(page(run))["summary"]
    begun = dataclasses.replace(run, evaluations=[], trials=run.trials[:3])
    assert embedded(page(begun))["summary"].endswith(
        "3 trials, 15 epochs, 1 min 08 s · not ended yet (at most 8 trials)"
    )


def test_numbers_come_as_steps(run: Run) -> None:
    data = embedded(page(run))
    ranks = run.trials[2].groups["conv1"].ranks
    sent = data["groups"][1]["trials"][2]["ranks"]
    assert [sum(sent[: i + 1]) / RANK for i in range(len(sent))] == pytest.approx(ranks, abs=1e-5)
    assert data["groups"][1]["trials"][2]["peak"] == ranks.index(max(ranks))
    layer = next(layer for layer in data["layers"] if layer["name"] == "layer1.0.conv2")
    assert data["groups"][layer["group"]]["name"] == "conv1"
    rates = [epoch.learning_rates["layer1.0.conv2"] for epoch in run.trials[1].epochs]
    sent = layer["rates"][1]
    assert [10 ** (sum(sent[: i + 1]) / RATE) for i in range(len(sent))] == pytest.approx(rates, rel=2e-3)


def test_rates_that_have_no_logarithm(run: Run) -> None:
    epochs = tuple(
        dataclasses.replace(epoch, learning_rates={"conv1": rate})
        for epoch, rate in zip(run.trials[0].epochs, (0.1, 0.0, math.inf, 0.01, 1e-20), strict=True)
    )
    data = embedded(page(dataclasses.replace(run, trials=[dataclasses.replace(run.trials[0], epochs=epochs)])))
    assert data["layers"][0]["rates"] == [[-1000, None, None, -1000, -18000]]


def test_a_large_run_is_a_small_page() -> None:
    run = searched_network("torchvision:googlenet", trials=25, epochs=20, delta=0.018)
    assert len(run.free) == 57
    assert len(page(run).encode()) < 1_000_000


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
