"""The experiments of the paper, small."""

from __future__ import annotations

import dataclasses
import importlib
import json
import signal
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import fx

import conet_fx
from benchmarks.paper import __main__ as command
from benchmarks.paper import rivals
from benchmarks.paper.authors import Reference, Rule, agreement
from benchmarks.paper.experiments import EXPERIMENTS, table4
from benchmarks.paper.lab import Lab, limited
from benchmarks.paper.outcome import accuracy, difference
from benchmarks.paper.presets import PRESETS
from benchmarks.paper.pruned import PRUNERS, parameters, prune
from benchmarks.paper.published import Published, advantages, curves, sweep
from conet_fx import data
from conet_fx.models import build
from conet_fx.probe import rank_slope
from conet_fx.search import SearchConfig
from conet_fx.search.decisions import GroupState, decide
from conet_fx.search.history import Evaluation, GroupTrial, Trial
from tests.data.test_load import write_tree


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All experiments of the smallest preset, with digits in place of ImageNet."""
    path = tmp_path_factory.mktemp("paper")
    assert command.main(["all", "--preset", "smoke", "--out", str(path), "--imagenet", "digits"]) == 0
    return path


@pytest.mark.parametrize("name", [*EXPERIMENTS, "table4"])
def test_every_experiment_gives_a_table_and_a_plot(name: str, out: Path) -> None:
    record = json.loads((out / f"{name}.json").read_text())
    assert record["rows"]
    assert all(len(row) == len(record["columns"]) for row in record["rows"])
    assert all(len(curve["x"]) == len(curve["y"]) > 0 for curve in record["curves"])
    assert (out / f"{name}.svg").read_text().startswith("<?xml")


def test_the_sweep_has_every_delta_and_every_rival(out: Path) -> None:
    record = json.loads((out / "table3.json").read_text())
    labels = [(row[1], row[2]) for row in record["rows"]]
    deltas = PRESETS["smoke"].deltas
    wanted = [("original", None)]
    rivals_of = ("constant", "scaled", "random", *PRUNERS)
    wanted += [(label, delta) for delta in deltas for label in ("found", *rivals_of)]
    assert labels == wanted
    by_label = {label: [row[3] for row in record["rows"] if row[1] == label] for label, _ in labels}
    for label in rivals_of:
        assert by_label[label] == pytest.approx(by_label["found"], rel=0.1)


def test_the_sweep_asks_the_authors_rule(out: Path) -> None:
    notes = json.loads((out / "table3.json").read_text())["notes"]
    for delta in PRESETS["smoke"].deltas:
        assert f"delta {delta:g}: the authors' rule decides 4 of 4 times as the search did" in notes


def test_nothing_is_done_twice(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in out.glob("*.json")}
    monkeypatch.setattr("conet_fx.evaluate._train", None)
    monkeypatch.setattr(importlib.import_module("conet_fx.optimize"), "TrialTraining", None)
    assert command.main(["all", "--preset", "smoke", "--out", str(out), "--imagenet", "digits"]) == 0
    assert "train " not in capsys.readouterr().out
    assert {file: file.read_bytes() for file in out.glob("*.json")} == before


def test_it_ends_in_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fig7", "--preset", "smoke", "--out", str(tmp_path), "--minutes", "60"]
    train = Lab.train
    before = signal.getsignal(signal.SIGTERM)

    def slow(self: Lab, *arguments: object) -> Evaluation:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "train", slow)
        assert command.main(words) == command.UNFINISHED
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert Lab.train is train
    assert command.main(words) == 0


def test_tables_are_written_between_their_marks(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- fig6: begin -->\nold\n<!-- fig6: end -->\nAfter.\n")
    words = ["fig6", "--preset", "smoke", f"--out={out}", "--markdown", str(page)]
    assert command.main(words) == 0
    once = page.read_text()
    assert command.main(words) == 0
    assert page.read_text() == once
    assert once.startswith("Before.\n\n<!-- fig6: begin -->\n`python -m benchmarks.paper fig6 --preset smoke`, ")
    assert "| tests.tiny:TinyNet | 0.001 | 1 |" in once
    assert once.endswith("<!-- fig6: end -->\nAfter.\n")
    assert "old" not in once
    command.main(["table3", *words[1:]])
    assert page.read_text().startswith(once)
    assert "paper: top-1" not in page.read_text()  # nothing to tell of these data
    assert "* found against constant at equal parameters" in page.read_text()


def test_table_4_needs_large_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["table4", "--preset", "smoke"])
    assert "--imagenet" in capsys.readouterr().err


def test_table_4_trains_on_a_folder_of_large_images(tmp_path: Path) -> None:
    images = write_tree(tmp_path / "images", "val")
    preset = dataclasses.replace(
        PRESETS["smoke"],
        transfers=(("resnet18_cifar", "resnet18_cifar"),),
        transfer_deltas=(0.001,),
        seeds=(0,),
        trials=1,
        initial_channels=8,
        min_channels=4,
    )
    fabric, out = Fabric(accelerator="cpu", devices=1), tmp_path / "out"
    small = Lab(preset, data.load("digits", image_size=8), fabric, out)
    large = Lab(preset, data.load(f"folder:{images}", image_size=32), fabric, out, name="imagenet")
    [outcome] = table4(small, large)
    assert [(row[1], row[2]) for row in outcome.rows] == [("original", None), ("found", 0.001), ("constant", 0.001)]
    assert outcome.rows[1][3] == pytest.approx(outcome.rows[2][3], rel=0.1)
    assert (large.data.shape, large.data.classes) == ((3, 32, 32), 2)


def test_part_of_the_data_is_the_same_part_each_time() -> None:
    whole = data.load("digits", image_size=8)
    part = limited(whole, 50, 20)
    again = limited(whole, 50, None)
    assert (len(part.train), len(part.test), len(again.test)) == (50, 20, len(whole.test))  # type: ignore[arg-type]
    for number in range(50):
        assert torch.equal(part.train[number][0], again.train[number][0])
        assert part.still is not None
        assert torch.equal(part.train[number][0], part.still[number][0])
    assert len({int(label) for _, label in (part.train[n] for n in range(50))}) == 10


PLAN = conet_fx.analyze(build("resnet18_cifar", 10, 1), torch.zeros(2, 1, 8, 8))


@settings(max_examples=15, deadline=None)
@given(params=st.integers(50_000, 12_000_000), seed=st.integers(0, 1000))
def test_rivals_have_as_many_parameters(params: int, seed: int) -> None:
    networks = rivals.rivals(PLAN, params, seed, round_to=2)
    assert networks == rivals.rivals(PLAN, params, seed, round_to=2)
    for sizes in networks.values():
        assert sizes.keys() == {group.name for group in PLAN.free}
        assert all(size % 2 == 0 for size in sizes.values())
        assert PLAN.cost(sizes).params == pytest.approx(params, rel=0.12)


def test_own_parameters_give_the_own_widths() -> None:
    own = {group.name: group.size for group in PLAN.free}
    assert rivals.scaled_widths(PLAN, PLAN.cost(own).params) == own


def test_random_widths_are_random() -> None:
    first, second = (rivals.random_widths(PLAN, 500_000, seed) for seed in (0, 1))
    assert first != second
    assert max(first.values()) / min(first.values()) > 2


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((0.5, 0.6, 0.7), (0.5, 0.6, 0.7), "no clear"),
        ((0.9, 0.92), (0.5, 0.52), "wins"),
        ((0.1, 0.12), (0.5, 0.52), "loses"),
    ],
)
def test_verdicts(first: tuple[float, ...], second: tuple[float, ...], verdict: str) -> None:
    def trained(accuracies: tuple[float, ...]) -> Evaluation:
        return Evaluation("x", {}, 1, 1, accuracies, tuple(range(len(accuracies))), 1)

    assert verdict in difference([trained(first)], [trained(second)])


CONFIG = SearchConfig(delta=0.01, min_channels=8, max_channels=64)


@st.composite
def searches(draw: st.DrawFn) -> list[Trial]:
    """Trials of three groups, decided by the search's own rule; the ranks are invented."""
    states = [GroupState(draw(st.integers(8, 64).map(lambda n: 2 * (n // 2)))) for _ in range(3)]
    trials = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        groups = {}
        for index, state in enumerate(states):
            ranks = tuple(draw(st.lists(st.integers(0, 20).map(lambda n: n / 100), min_size=3, max_size=3)))
            condition = draw(st.sampled_from([0.0, 5.0, 10.0]))
            after = decide(state, rank_slope(ranks), condition, CONFIG)
            action = after.last_action
            assert action is not None
            groups[str(index)] = GroupTrial(state.size, ranks, 0, condition, action, after.phi, after.size, "why")
            states[index] = after
        trials.append(Trial(number, {}, 0, 0, (), groups, 0))
    return trials


@settings(max_examples=200, deadline=None)
@given(history=searches())
def test_the_authors_rule_decides_as_the_search_does(history: list[Trial]) -> None:
    """Their slope is smaller by 1 in 10,000: it passes another threshold only where it all but meets that."""
    near = [
        abs(float(rank_slope(group.ranks)) - CONFIG.delta) < 1e-5
        for trial in history
        for group in trial.groups.values()
    ]
    same, total, first = agreement(history, Rule(CONFIG))
    assert total == 3 * len(history)
    assert any(near) or (same, first) == (total, "")


def test_the_first_decision_that_differs_is_told() -> None:
    group = GroupTrial(32, (0.0, 0.5), 0.5, 0, "expand", 0.2, 99, "slope 0.5 >= delta 0.01")
    history = [Trial(1, {}, 0, 0, (), {"conv1": group}, 0)]
    assert agreement(history, Rule(CONFIG)) == (0, 1, "trial 1, conv1: 99 and 38 channels, slope 0.5 >= delta 0.01")


def test_the_authors_own_function_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"no darts_scaling_algorithms\.py"):
        Reference(tmp_path, CONFIG)
    (tmp_path / "darts_scaling_algorithms.py").write_text(
        """
def channel_size_adjust_algorithm(cells, separable, delta, phi, gamma, mu, least, most, folder, trial,
                                  operations, factors, more, others):
    assert (separable, delta, phi, gamma, mu, least, most) == ([], 0.01, 0.2, 0.01, 10, 8, 64)
    ranks = get_cell_list_ranks_by_dependency(None, None, None, None)
    assert [list(each) for each in ranks[0]] == [[0.0, 0.5], [0.5, 0.5]]
    assert get_cell_list_mapping_condition(None, None, None, None) == [[3.0, 12.0]]
    assert get_sep_conv_list_ranks_by_dependency(None, None, None, None) == []
    cells[0] += 2 if not operations else operations[0]
    return cells, separable, None, [7], [0.2]
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = Reference(tmp_path, CONFIG)
    ranks, conditions = [(0.0, 0.5), (0.5, 0.5)], [3.0, 12.0]
    assert rule.step([32, 16], ranks, conditions) == [34, 18]
    assert rule.step([34, 18], ranks, conditions) == [41, 25]
    monkeypatch.delitem(sys.modules, "darts_scaling_algorithms")


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruned_networks_have_as_many_parameters_and_keep_the_classes(pruner: str) -> None:
    torch.manual_seed(0)
    network, images = build("resnet18_cifar", 10, 1), torch.randn(2, 1, 8, 8)
    pruned = prune(network, images, pruner, 2_000_000)
    assert parameters(pruned) == pytest.approx(2_000_000, rel=0.02)
    assert pruned(images).shape == (2, 10)
    assert parameters(network) > 11_000_000
    with pytest.raises(ValueError, match=r"cannot be pruned to 12,000,000"):
        prune(network, images, pruner, 12_000_000)
    assert parameters(prune(network, images, pruner, 50_000)) == pytest.approx(50_000, rel=0.2)
    with pytest.raises(ValueError, match=r"were cut to .*, not to 50"):  # two channels of each layer stay
        prune(network, images, pruner, 50)


def test_other_seeds_stay_known(tmp_path: Path) -> None:
    told: list[str] = []
    images = data.load("digits", image_size=8)
    for seeds, trained in (((0, 1), 2), ((2,), 1), ((2, 0), 0), ((0, 1, 2), 0)):
        preset = dataclasses.replace(PRESETS["smoke"], seeds=seeds)
        lab = Lab(preset, images, Fabric(accelerator="cpu", devices=1), tmp_path, tell=told.append)
        told.clear()
        found = lab.train(preset.archs[0], "x", {group.name: 4 for group in lab.plan(preset.archs[0]).free})
        assert found.seeds == seeds
        assert len(found.accuracies) == len(seeds)
        assert len(told) == trained


def test_a_pruned_network_goes_on_with_its_weights(out: Path, tmp_path: Path) -> None:
    """The wide network gets its own weights, the cut one those that are left."""
    preset = dataclasses.replace(PRESETS["smoke"], final_lr=1e-12, seeds=(3,))
    lab = Lab(preset, data.load("digits", image_size=8), Fabric(accelerator="cpu", devices=1), tmp_path)
    arch = preset.archs[0]
    wide = {group.name: 24 for group in lab.plan(arch).free}
    seen = []
    load = fx.GraphModule.load_state_dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fx.GraphModule, "load_state_dict", lambda self, state: (seen.append(parameters(self)), load(self, state))[1]
        )
        trained = lab.prune(arch, PRUNERS[0], wide, 3_000)
    assert seen[0] == lab.plan(arch).cost(wide).params
    assert seen[-1] == trained.params == pytest.approx(3_000, rel=0.1)
    assert (trained.label, trained.seeds, len(trained.accuracies)) == (PRUNERS[0], (3,), 1)


def test_the_recipes_of_the_paper_are_taken(tmp_path: Path) -> None:
    """DARTS gets an auxiliary head for its final training, which is not counted."""
    preset = dataclasses.replace(
        PRESETS["smoke"], recipes="cifar", train_images=16, test_images=8, batch_size=8, trials=1, epochs_per_trial=1
    )
    preset = dataclasses.replace(preset, seeds=(0,), channels_last=False)
    told: list[str] = []
    fabric = Fabric(accelerator="cpu", devices=1)
    lab = Lab(preset, data.load("digits", image_size=32), fabric, tmp_path, tell=told.append)
    found = lab.search("darts7")
    assert (found.config.lr, found.config.weight_decay, found.config.trials) == (0.1, 5e-4, 1)
    assert lab.search("resnet18_cifar").config.min_channels == 32
    sizes = {group.name: 8 for group in lab.plan("darts7").free}
    trained = lab.train("darts7", "found", sizes, keep_weights=True)
    assert trained.sizes == sizes
    assert trained.params == lab.plan("darts7").cost(sizes).params
    for part in ("weight decay 0.0003", "cutout 16", "drop path 0.2", "gradients of norm <= 5"):
        assert part in trained.recipe
    [weights] = tmp_path.glob("training/*/seed-0.safetensors")
    assert any("auxiliary_head" in name for name in safetensors.torch.load_file(weights))
    pruned = lab.prune("darts7", PRUNERS[1], sizes, trained.params // 2)
    assert pruned.params == pytest.approx(trained.params // 2, rel=0.2)


def test_what_was_found_goes_to_a_network_with_another_stem() -> None:
    model = build("darts14", 10, 3)
    plan = conet_fx.analyze(model, torch.zeros(2, 3, 32, 32))
    large = conet_fx.analyze(build("darts14_imagenet", 10, 3), torch.zeros(2, 3, 64, 64))
    found = {group.name: group.nearest(2 * group.size, 1) for group in plan.free}
    sizes = rivals.transferred(found, plan, large)
    assert sizes.keys() == {group.name for group in large.free}
    assert all(sizes[name] == found[name] for name in sizes.keys() & found.keys())
    assert sizes["stem.3"] == 2 * 48


def test_published_figures_stand_beside_ours() -> None:
    assert sweep("cifar100", "darts7", 0.0075) == Published(80.12, 2.89)
    assert sweep("cifar10", "darts7", 0.3) is None
    drawn = curves("cifar100", "darts7")
    assert list(drawn) == ["found", "random", "scaled"]
    assert [each.params for each in drawn["found"]] == [0.58, 1.25, 2.89, 5.06, 6.25]
    assert curves("digits", "darts7") == {}


def test_one_seed_has_no_spread() -> None:
    def trained(*accuracies: float) -> Evaluation:
        return Evaluation("x", {}, 1, 1, accuracies, tuple(range(len(accuracies))), 1)

    assert accuracy(trained(0.5)) == "50.00"
    assert accuracy(trained(0.5, 0.52)) == "51.00 ± 1.41"


def test_the_papers_own_lead_at_equal_parameters() -> None:
    random = dict(advantages("cifar100", "darts7", "random"))
    assert random.keys() == {1.25, 2.89}, "the sizes that the random networks span"
    assert random[2.89] == pytest.approx(80.12 - (79.96 + 0.1286 * 0.40), abs=1e-3)
    assert advantages("cifar100", "darts14", "random") == advantages("digits", "darts7", "scaled") == []
