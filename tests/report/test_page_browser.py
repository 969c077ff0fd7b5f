"""The page in a real browser: its script runs, its charts are right, and pointing at them tells the value."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conet_fx.report import Run, page
from tests.report.browser import Page, chromium
from tests.report.synthetic import deep_groups, synthetic_run

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("CONET_FX_REQUIRE_BROWSER") == "1":
            pytest.fail("CONET_FX_REQUIRE_BROWSER=1, and no chromium on PATH")
        pytest.skip("no chromium on PATH")
    with chromium(CHROMIUM) as tab:
        yield tab


def show(browser: Page, run: Run, folder: Path, **window: Any) -> None:
    """Open the page of ``run``; it must ask for nothing and complain of nothing."""
    file = folder / "report.html"
    file.write_text(page(run), encoding="utf-8")
    browser.open(file, **window)
    assert browser.errors == []
    assert browser.evaluate("document.body.dataset.ready") == "yes"
    assert browser.requests == [file.as_uri()], "self-contained"
    words = browser.evaluate("document.body.innerText")
    markup = browser.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.outerHTML).join('')")
    for wrong in ("NaN", "undefined", "null", "Infinity", "[object"):
        assert wrong not in words
        assert wrong not in markup


def marks(browser: Page, selector: str) -> int:
    return int(browser.evaluate(f"document.querySelectorAll({selector!r}).length"))


def centre(browser: Page, selector: str, index: int = 0) -> tuple[float, float]:
    """Where on the screen the element is, after scrolling to it."""
    x, y = browser.evaluate(
        f"""(() => {{
            const element = document.querySelectorAll({selector!r})[{index}];
            element.scrollIntoView({{ block: "center" }});
            const box = element.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})()"""
    )
    return x, y


def tooltip(browser: Page) -> str:
    return str(
        browser.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText")
    )


@pytest.fixture(scope="module")
def run() -> Run:
    return synthetic_run()


def test_every_chart_has_its_marks(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    groups, trials, epochs = 12, 8, 5
    assert marks(browser, "#sizes .line") == groups
    assert marks(browser, "#size-map .heat") == groups * (trials + 1)
    assert marks(browser, "#action-map .act") == groups * trials
    assert marks(browser, "#rank-chart .line") == trials
    assert marks(browser, "#rank-chart .slope") == trials, "a dashed slope in each trial"
    assert marks(browser, "#rank-chart .hollow") == trials, "a ring at each plateau"
    assert marks(browser, "#rank-chart .dot:not(.hollow)") == trials * (epochs - 1 + 2), "epochs, S and kappa"
    assert marks(browser, "#accuracy .dot") == 15
    assert marks(browser, "#trends .chart") == 4
    assert marks(browser, "#trends .dot") == 4 * trials + 2
    assert marks(browser, "#group-table tbody tr") == groups + 2
    assert marks(browser, "#group-table tr.frozen") == 2
    assert marks(browser, "#networks tbody tr") == 3
    actions = [group.action for trial in run.trials for group in trial.groups.values()]
    for cause, action in ((".rising-cause", "expand"), (".slope-cause", "shrink"), (".stop-cause", "stop")):
        assert marks(browser, f"#action-map .act{cause}") == actions.count(action)


def test_pointing_tells_the_value(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    names = list(run.trials[0].groups)
    row, column = 6, 4
    decision = run.trials[column].groups[names[row]]
    browser.hover(*centre(browser, "#action-map .act", row * len(run.trials) + column))
    shown = tooltip(browser)
    for words in (names[row], f"{decision.size} → {decision.next_size}", decision.action, decision.reason):
        assert words in shown
    browser.hover(*centre(browser, "#size-map .heat", row * (len(run.trials) + 1) + column))
    assert f"{decision.size} →" in tooltip(browser)
    browser.hover(*centre(browser, "#accuracy .dot", 0))
    assert f"{100 * run.evaluations[0].accuracies[0]:.2f} %" in tooltip(browser)
    browser.hover(*centre(browser, "#trends .dot", 2))
    assert "trial\t3" in tooltip(browser)
    browser.hover(2, 2)
    assert tooltip(browser) == ""


def test_one_choice_for_all_charts(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    names = list(run.trials[0].groups)
    browser.click(*centre(browser, "#size-map .heat", 5 * 9 + 2))
    assert browser.evaluate("document.getElementById('group').selectedOptions[0].text") == names[5]
    assert browser.evaluate("document.querySelector('#sizes .line.selected').dataset.group") == "5"
    assert names[5] in browser.evaluate("document.querySelector('#group-table tr.selected').innerText")
    browser.hover(*centre(browser, "#rank-chart .hollow"))
    ranks = run.trials[0].groups[names[5]].ranks
    assert f"{max(ranks):.4g}"[:5] in tooltip(browser)
    browser.click(*centre(browser, "#group-table button", 8))
    assert browser.evaluate("document.getElementById('group').value") == "8"


def test_keys_walk_along_the_marks(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    names = list(run.trials[0].groups)
    browser.evaluate("document.querySelector('#action-map svg').focus()")
    assert names[0] in tooltip(browser)
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"):
        browser.press(key)
    assert names[2] in tooltip(browser)
    assert "trial\t2" in tooltip(browser)
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('group').value") == "2"
    browser.press("Escape")
    assert tooltip(browser) == ""


def test_filter(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    browser.evaluate("document.getElementById('filter').focus()")
    browser.call("Input.insertText", text="SHORTCUT")
    assert marks(browser, "#group-table tbody tr:not([hidden])") == 3
    assert browser.evaluate("document.getElementById('filter-note').textContent") == "3 of 14"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_fits_every_window(browser: Page, run: Run, tmp_path: Path, width: int, scheme: str) -> None:
    show(browser, run, tmp_path, width=width, prefers_color_scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness > 600) == (scheme == "light")


def test_many_groups(browser: Page, tmp_path: Path) -> None:
    groups, sizes = deep_groups(150)
    show(browser, synthetic_run(groups, sizes, trials=25, epochs=20, delta=0.018), tmp_path, width=800)
    assert marks(browser, "#sizes .line") == 150
    assert marks(browser, "#action-map .act") == 150 * 25
    assert browser.evaluate("document.querySelector('#size-map').scrollHeight") < 1600
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_yet(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, dataclasses.replace(run, trials=[], evaluations=[]), tmp_path)
    words = browser.evaluate("document.body.innerText")
    assert "No trial has been run yet." in words
    assert "No network has been trained to the end yet." in words
    assert marks(browser, "#group-table tbody tr") == 14


@pytest.mark.parametrize("trials", [1, 2])
def test_few_trials_and_no_evaluation(browser: Page, run: Run, tmp_path: Path, trials: int) -> None:
    show(browser, dataclasses.replace(run, trials=run.trials[:trials], evaluations=[]), tmp_path)
    assert marks(browser, "#action-map .act") == 12 * trials


def test_one_epoch_has_no_slope(browser: Page, tmp_path: Path) -> None:
    show(browser, synthetic_run(trials=2, epochs=1), tmp_path)
    assert marks(browser, "#rank-chart .hollow") == 2
    assert marks(browser, "#rank-chart .slope") == 0


def test_all_frozen(browser: Page, run: Run, tmp_path: Path) -> None:
    frozen = dict.fromkeys(run.groups, "operator not in the table")
    show(browser, dataclasses.replace(run, frozen=frozen, trials=[]), tmp_path)
    assert "No channel group is free to change" in browser.evaluate("document.body.innerText")


def test_numbers_that_are_none(browser: Page, run: Run, tmp_path: Path) -> None:
    epoch = dataclasses.replace(run.trials[0].epochs[-1], loss=float("nan"), accuracy=None)
    broken = dataclasses.replace(run.trials[0], epochs=(epoch,))
    show(browser, dataclasses.replace(run, trials=[broken, *run.trials[1:]]), tmp_path)
    assert marks(browser, "#trends .dot") == 4 * 8 + 2 - 2


def test_no_name_becomes_markup(browser: Page, tmp_path: Path) -> None:
    evil = "</script></title><img src=x onerror=window.hacked=1><b id=hacked>&amp;"
    run = synthetic_run({evil: (evil, "b"), "ok": ("ok",)}, (64, 64), trials=2, model=evil, data=evil)
    run = dataclasses.replace(
        run,
        config={**run.config, evil: evil},
        frozen={**run.frozen, "x": evil},
        evaluations=[dataclasses.replace(run.evaluations[0], label=evil)],
    )
    show(browser, run, tmp_path)
    browser.hover(*centre(browser, "#action-map .act"))
    assert evil in tooltip(browser)
    assert evil in browser.evaluate("document.title")
    assert browser.evaluate("window.hacked") is None
    assert marks(browser, "#hacked, img") == 0
