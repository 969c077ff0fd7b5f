"""The page that compares runs, as text."""

from __future__ import annotations

import dataclasses

import pytest

from conet_fx.report import comparison
from tests.report.synthetic import synthetic_run
from tests.report.test_page import embedded


def test_holds_every_run() -> None:
    run = synthetic_run()
    begun = dataclasses.replace(synthetic_run(delta=0.05, data="svhn"), evaluations=[], trials=run.trials[:2])
    data = embedded(comparison({"a": run, "b": begun}, {"b": "b/report.html"}))
    assert data["series"] == ["resnet18_cifar on digits", "resnet18_cifar on svhn"]
    first, second = data["runs"]
    assert [first["delta"], second["delta"]] == [0.07, 0.05]
    assert [first["state"], second["state"]] == ["8 trials", "2 trials of at most 8"]
    assert [first["link"], second["link"]] == [None, "b/report.html"]
    found = first["networks"][0]
    assert found["params"] == run.evaluations[0].params
    assert found["accuracy"] == pytest.approx(98.812)
    assert found["spread"] == pytest.approx(0.158, abs=1e-3)
    assert second["networks"] == []
    assert [trial["params"] for trial in second["trials"]] == [trial.params for trial in run.trials[:2]]
    assert data["settings"] == [["delta", "0.07", "0.05"]], "only what differs"


def test_the_change_of_parameters() -> None:
    run = synthetic_run()
    start, found = run.evaluation("start"), run.evaluation("found")
    assert start is not None
    assert found is not None
    data = embedded(comparison({"a": run}))
    assert data["runs"][0]["change"] == f"\N{MINUS SIGN}{round(100 * (1 - found.params / start.params))} %"


def test_names_stay_text() -> None:
    evil = "</script><script>alert(1)</script>"
    text = comparison({evil: synthetic_run(model=evil, trials=1)}, {evil: evil})
    assert evil not in text
    assert text.count("</script>") == 2
    assert embedded(text)["runs"][0]["name"] == evil


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="pass one or more"):
        comparison({})
