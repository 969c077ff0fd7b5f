"""The page in a real browser: its script runs, its charts are right, and pointing at them tells the value."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conet_fx.report import Run, comparison, page
from conet_fx.report.network import Network, Node
from tests.report.browser import Page, chromium
from tests.report.synthetic import deep_groups, searched_network, synthetic_run
from tests.report.test_page import embedded

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("CONET_FX_REQUIRE_BROWSER") == "1":
            pytest.fail("CONET_FX_REQUIRE_BROWSER=1, and no chromium on PATH")
        pytest.skip("no chromium on PATH")
    with chromium(CHROMIUM) as tab:
        yield tab


def show(browser: Page, run: Run | str, folder: Path, **window: Any) -> None:
    """Open the page of ``run``, or a page; it must ask for nothing and complain of nothing."""
    file = folder / "report.html"
    file.write_text(run if isinstance(run, str) else page(run), encoding="utf-8")
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


@pytest.fixture(scope="module")
def network() -> Run:
    return searched_network("resnet18_cifar")


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
    assert marks(browser, "#rank-grid .line") == marks(browser, "#rank-grid .hollow") == groups
    assert marks(browser, "#epochs .chart") == 2
    assert marks(browser, "#epochs .line") == 2 * trials, "loss and accuracy, broken between trials"
    layers = sum(len(writers) for name, writers in run.groups.items() if name not in run.frozen)
    assert marks(browser, "#rate-chart .line") == layers
    assert marks(browser, "#trends .chart") == 2
    assert marks(browser, "#trends .dot") == 2 * trials + 2
    assert marks(browser, "#graph") == 0, "this run has no graph"
    assert marks(browser, "#group-table tbody tr") == groups + 2
    assert marks(browser, "#group-table tr.frozen") == 2
    assert marks(browser, "#networks tbody tr") == 3
    actions = [group.action for trial in run.trials for group in trial.groups.values()]
    for cause, action in ((".rising-cause", "expand"), (".slope-cause", "shrink"), (".stop-cause", "stop")):
        assert marks(browser, f"#action-map .act{cause}") == actions.count(action)


def test_pointing_tells_the_value(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, dataclasses.replace(run, advice=("trials are too short",)), tmp_path)
    assert browser.evaluate("document.getElementById('advice').offsetHeight > 0") is True
    show(browser, run, tmp_path)
    assert browser.evaluate("document.getElementById('advice').offsetHeight") == 0
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
    browser.click(*centre(browser, "#group-table td button", 8))
    assert browser.evaluate("document.getElementById('group').value") == "8"


def test_the_network_is_drawn(browser: Page, network: Run, tmp_path: Path) -> None:
    show(browser, network, tmp_path)
    assert marks(browser, "#graph-chart .box") == len(embedded(page(network))["graph"]["boxes"]) > 30
    assert marks(browser, "#graph-chart .box.fixed") == 3, "the input, the last layer and the output"
    assert marks(browser, "#graph-chart .box.summation") == 8
    decision = network.trials[-1].groups["layer2.0.conv1"]
    order = browser.evaluate(
        "JSON.parse(document.getElementById('data').textContent).graph.boxes"
        ".findIndex(box => box.operators[0] === 'layer2.0.conv1')"
    )
    browser.hover(*centre(browser, "#graph-chart .box", order))
    shown = tooltip(browser)
    for words in (
        "layer2.0.conv1",
        f"128 → {decision.next_size}",
        decision.reason,
        "read by\tlayer2.0.conv2",
        "layer2.0.bn1",
    ):
        assert words in shown
    browser.click(*centre(browser, "#graph-chart .box", order))
    assert browser.evaluate("document.getElementById('group').selectedOptions[0].text") == "layer2.0.conv1"
    assert marks(browser, "#graph-chart .box.selected") == 1


def test_the_drawing_moves_and_follows_the_trial(browser: Page, network: Run, tmp_path: Path) -> None:
    show(browser, network, tmp_path, prefers_reduced_motion="reduce")
    width = "document.querySelector('#graph-chart .box').getBoundingClientRect().width"
    height = "document.querySelectorAll('#graph-chart .box')[1].getAttribute('height')"
    before, tall = browser.evaluate(width), browser.evaluate(height)
    browser.evaluate("document.getElementById('zoom-in').click()")
    assert browser.evaluate(width) == pytest.approx(1.5 * before, rel=0.01)
    browser.evaluate("document.getElementById('zoom-fit').click()")
    assert browser.evaluate(width) == pytest.approx(before, rel=0.01)
    left = "document.querySelector('#graph-chart .box').getBoundingClientRect().left"
    x, y = centre(browser, "#graph-chart svg")
    start = browser.evaluate(left)
    browser.drag((x, y), (x + 60, y + 10))
    assert browser.evaluate(left) == pytest.approx(start + 60, abs=1)
    browser.evaluate(
        "(() => { const s = document.getElementById('moment'); s.value = 0; s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.evaluate("document.getElementById('moment-name').textContent") == "trial 1"
    assert browser.evaluate("document.getElementById('rank-trial').textContent") == "trial 1"
    assert browser.evaluate(height) != tall, "32 channels in trial 1"
    browser.evaluate("document.querySelector('#graph-chart svg').focus()")
    seen = [tooltip(browser)]
    for _ in range(30):
        browser.press("ArrowRight")
        seen.append(tooltip(browser))
    assert len(set(seen)) > 5
    assert seen[-1].startswith("output"), "the keys reach the last box, wherever they began"
    browser.press("0")
    assert browser.evaluate(width) == pytest.approx(before, rel=0.01)


def test_pointing_at_rates_epochs_and_the_rank_grid(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    browser.hover(*centre(browser, "#rate-chart svg"))
    assert "learning rate\t0.0" in tooltip(browser)
    browser.hover(*centre(browser, "#epochs svg", 0))
    assert "epoch\t" in tooltip(browser)
    assert any(f"{epoch.loss:.4g}"[:5] in tooltip(browser) for trial in run.trials for epoch in trial.epochs)
    browser.hover(*centre(browser, "#rank-grid .hollow", 3))
    name = list(run.trials[0].groups)[3]
    assert name in tooltip(browser)
    assert "the plateau" in tooltip(browser)
    assert run.trials[-1].groups[name].reason in tooltip(browser)


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
    assert marks(browser, "#group-table tbody tr") == 3
    assert browser.evaluate("document.getElementById('filter-note').textContent") == "3 of 14"
    assert marks(browser, "#size-map .heat") == 3 * 9
    assert marks(browser, "#rank-grid .line") == 3
    assert marks(browser, "#sizes .line.faded") == 12 - 3
    assert browser.evaluate("document.getElementById('group').selectedOptions[0].text") == "layer2.0.conv2"
    browser.call("Input.insertText", text="no such layer")
    assert browser.evaluate("document.getElementById('filter-note').textContent") == "0 of 14"
    assert marks(browser, "#group-table tbody tr") == 0
    assert marks(browser, "#size-map .heat") == 12 * 9, "charts are never empty"
    assert browser.errors == []


def test_filter_by_the_last_decision(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    browser.evaluate("document.getElementById('filter').focus()")
    browser.call("Input.insertText", text="shrink")
    shrunk = [name for name, group in run.trials[-1].groups.items() if group.action == "shrink"]
    assert 0 < len(shrunk) < 12
    assert marks(browser, "#group-table tbody tr") == len(shrunk)


def test_order(browser: Page, run: Run, tmp_path: Path) -> None:
    show(browser, run, tmp_path)
    first = "document.querySelector('#group-table tbody tr td').innerText"
    found = {name: size for name, size in run.found_sizes.items() if name not in run.frozen}
    browser.click(*centre(browser, "#group-table th button", 1))
    assert browser.evaluate(first) == max(found, key=found.__getitem__)
    assert browser.evaluate("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert browser.evaluate("document.getElementById('order').value") == "widest"
    browser.hover(*centre(browser, "#size-map .heat", 0))
    assert max(found, key=found.__getitem__) in tooltip(browser), "the maps follow"
    browser.click(*centre(browser, "#group-table th button", 0))
    assert browser.evaluate(first) == min(run.groups)
    browser.evaluate("document.getElementById('next').click()")
    shown = browser.evaluate("[...document.getElementById('group').options].map(option => option.text)")
    assert shown == sorted(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_fits_every_window(browser: Page, network: Run, tmp_path: Path, width: int, scheme: str) -> None:
    show(browser, network, tmp_path, width=width, prefers_color_scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness > 600) == (scheme == "light")


def test_print(browser: Page, network: Run, tmp_path: Path) -> None:
    show(browser, network, tmp_path)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.getElementById('bar')).display") == "none"
    cut = "[...document.querySelectorAll('.scroll.tall')].filter(e => getComputedStyle(e).maxHeight !== 'none').length"
    assert browser.evaluate(cut) == 0, "paper does not scroll"


def test_comparison(browser: Page, tmp_path: Path) -> None:
    runs = {
        f"delta-{delta}": synthetic_run(
            delta=delta, trials=6, accuracies={"found": (best, best + 0.002), "start": (0.97, 0.973)}
        )
        for delta, best in ((0.05, 0.98), (0.07, 0.975), (0.09, 0.96))
    }
    runs["svhn"] = synthetic_run(data="svhn", trials=5)
    runs["begun"] = dataclasses.replace(synthetic_run(trials=3), evaluations=[])
    show(browser, comparison(runs), tmp_path)
    assert marks(browser, "#tradeoff-chart .run") == 5
    assert marks(browser, "#tradeoff-chart .dot:not(.hollow)") == 4, "found networks"
    assert marks(browser, "#tradeoff-chart .dot.hollow") == 3 + 2
    assert marks(browser, "#tradeoff-chart > svg > .line") == 1, "three runs of one model on one data set are joined"
    assert marks(browser, "#run-table tbody tr") == 5
    assert marks(browser, "#growth-chart .line") == 5
    assert marks(browser, "#growth-chart .dot") == 3 * 6 + 5 + 3
    browser.hover(*centre(browser, "#tradeoff-chart .dot:not(.hollow)", 1))
    shown = tooltip(browser)
    for words in ("delta-0.07", "97.60 ± 0.14 %", "δ\t0.07", "resnet18_cifar on digits"):
        assert words in shown
    browser.click(*centre(browser, "#run-table td button", 3))
    assert browser.evaluate("document.getElementById('chosen').textContent") == "svhn"
    assert browser.evaluate("document.querySelectorAll('#growth-chart .run.selected').length") == 1
    settings = browser.evaluate("document.getElementById('settings-table').innerText")
    assert "delta" in settings
    assert "momentum" not in settings


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparison_of_unfinished_runs(browser: Page, run: Run, tmp_path: Path, width: int, scheme: str) -> None:
    evil = "</script><b id=hacked>"
    none = dataclasses.replace(run, trials=[], evaluations=[])
    show(browser, comparison({evil: none}), tmp_path, width=width, prefers_color_scheme=scheme)
    assert "No trial has ended yet." in browser.evaluate("document.body.innerText")
    begun = dataclasses.replace(run, evaluations=[], trials=run.trials[:1])
    show(browser, comparison({evil: none, "b": begun}), tmp_path, width=width, prefers_color_scheme=scheme)
    assert marks(browser, "#hacked") == 0
    assert "training accuracy of the last trial" in browser.evaluate("document.body.innerText")
    assert marks(browser, "#tradeoff-chart .dot") == 1
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"


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
    assert "No trial has ended yet." in words
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
    assert marks(browser, "#epochs .line") == 2 * 8 - 2


def test_a_group_of_which_nothing_is_measured(browser: Page, run: Run, tmp_path: Path) -> None:
    name = next(iter(run.trials[0].groups))
    trials = [
        dataclasses.replace(
            trial,
            groups={
                **trial.groups,
                name: dataclasses.replace(trial.groups[name], ranks=(), slope=0.0, condition=0.0, action="stop"),
            },
        )
        for trial in run.trials
    ]
    show(browser, dataclasses.replace(run, trials=trials), tmp_path)


def test_no_name_becomes_markup(browser: Page, tmp_path: Path) -> None:
    evil = "</script></title><img src=x onerror=window.hacked=1><b id=hacked>&amp;"
    run = synthetic_run({evil: (evil, "b"), "ok": ("ok",)}, (64, 64), trials=2, model=evil, data=evil)
    run = dataclasses.replace(
        run,
        config={**run.config, evil: evil},
        frozen={**run.frozen, "x": evil},
        evaluations=[dataclasses.replace(run.evaluations[0], label=evil)],
    )
    node = Node("x", "single", evil, f"{evil}.py:1", ((evil, 64),))
    run = dataclasses.replace(run, network=Network((node,), ()), readers={evil: (evil,)})
    show(browser, run, tmp_path)
    browser.hover(*centre(browser, "#graph-chart .box"))
    assert evil in tooltip(browser)
    browser.hover(*centre(browser, "#action-map .act"))
    assert evil in tooltip(browser)
    assert evil in browser.evaluate("document.title")
    assert browser.evaluate("window.hacked") is None
    assert marks(browser, "#hacked, img") == 0
