"""One function for each table and figure of the paper."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from scipy import stats

from benchmarks.paper.authors import agreement
from benchmarks.paper.lab import Found, Lab
from benchmarks.paper.outcome import Cell, Curve, Outcome, accuracy, difference, mean, spread
from benchmarks.paper.pruned import PRUNERS
from benchmarks.paper.published import IMAGENET, Published, advantages, curves, sweep
from benchmarks.paper.rivals import random_widths, rivals, scaled_widths, transferred
from conet_fx.evaluate import uniform_sizes
from conet_fx.plan import ChannelGroup, ChannelPlan
from conet_fx.probe import rank_slope
from conet_fx.search.history import Evaluation
from conet_fx.search.static import static_sizes

COLUMNS = ("network", "widths", "delta", "parameters", "MACs", "top-1 %", "paper: top-1 %", "paper: M parameters")


def _row(lab: Lab, arch: str, delta: float | None, trained: Evaluation) -> tuple[Cell, ...]:
    known = sweep(lab.name, arch, delta) if trained.label in ("found", "original") else None
    return (arch, trained.label, delta, trained.params, trained.macs, accuracy(trained), *_cells(known))


def _cells(published: Published | None) -> tuple[Cell, Cell]:
    return (published.top1, published.params) if published else (None, None)


def _paper(lab: Lab, arch: str) -> list[Curve]:
    """The curves of the paper's Fig. 7 for this network and these data."""
    return [
        Curve(f"paper: {label}", [1e6 * each.params for each in points], [each.top1 for each in points])
        for label, points in curves(lab.name, arch).items()
    ]


def _curves(trained: Sequence[Evaluation]) -> list[Curve]:
    """Accuracy by parameters, a curve for each way to choose widths."""
    drawn = []
    for label in dict.fromkeys(each.label for each in trained):
        of_label = sorted((each for each in trained if each.label == label), key=lambda each: each.params)
        drawn.append(
            Curve(
                label,
                [each.params for each in of_label],
                [100 * mean(each.accuracies) for each in of_label],
                [100 * spread(each.accuracies) for each in of_label],
            )
        )
    return drawn


def _advantages(lab: Lab, arch: str) -> Iterator[str]:
    """What the paper's own curves tell of searched networks and others of as many parameters."""
    for rival in ("scaled", "random"):
        points = [f"{lead:+.2f} at {params:g} M" for params, lead in advantages(lab.name, arch, rival)]
        if points:
            yield f"paper: found against {rival}, points: {', '.join(points)}"


AXES = ("parameters", "test top-1, percent")


def table3(lab: Lab) -> list[Outcome]:
    """Table 3: the sweep of delta for each network, and rivals of as many parameters."""
    return [_sweep(lab, arch) for arch in lab.preset.archs]


def _sweep(lab: Lab, arch: str) -> Outcome:
    plan, own = lab.plan(arch), _own(lab.plan(arch).free)
    searches = {delta: lab.search(arch, delta=delta) for delta in lab.preset.deltas}
    params = {delta: plan.cost(found.sizes).params for delta, found in searches.items()}
    wide = _wide(plan, max(params.values()))
    original = lab.train(arch, "original", own, keep_weights=wide == own)
    rows = [_row(lab, arch, None, original)]
    sets: dict[str, list[Evaluation]] = {"original": [original]}
    for number, (delta, found) in enumerate(searches.items()):
        networks = {"found": found.sizes, **rivals(plan, params[delta], seed=number, round_to=2)}
        trained = [lab.train(arch, label, sizes) for label, sizes in networks.items()]
        trained += [lab.prune(arch, pruner, wide, params[delta]) for pruner in PRUNERS]
        for each in trained:
            sets.setdefault(each.label, []).append(each)
            rows.append(_row(lab, arch, delta, each))
    notes = [
        f"found against {label} at equal parameters, all deltas: {difference(sets['found'], sets[label])}"
        for label in sets
        if label not in ("original", "found")
    ]
    notes.append(f"pruned from a network of {plan.cost(wide).params:,} parameters, and trained twice as long in all")
    notes += [_decisions(lab, delta, found) for delta, found in searches.items()]
    everything = [each for label in sets for each in sets[label]]
    drawn = _curves(everything) + _paper(lab, arch)
    return Outcome(f"Table 3, {arch}, {lab.name}", COLUMNS, rows, notes, drawn, AXES, log=True)


def _wide(plan: ChannelPlan, found: int) -> dict[str, int]:
    """The network to prune: the model's own widths, or those times a factor where that has too few parameters."""
    own = _own(plan.free)
    return own if plan.cost(own).params >= 2 * found else scaled_widths(plan, 2 * found, round_to=2)


def _decisions(lab: Lab, delta: float, found: Found) -> str:
    same, total, first = agreement(found.history, lab.authors(found.config))
    return f"delta {delta:g}: the authors' rule decides {same} of {total} times as the search did" + (
        f"; first {first}" if first else ""
    )


def figure7(lab: Lab) -> list[Outcome]:
    """Fig. 7: the sweep of delta against compound scaling of the width."""
    outcomes = []
    for arch in lab.preset.archs:
        plan = lab.plan(arch)
        found = [lab.train(arch, "found", lab.search(arch, delta=delta).sizes) for delta in lab.preset.deltas]
        scaled = [lab.train(arch, "scaled", scaled_widths(plan, each.params, round_to=2)) for each in found]
        rows = [
            _row(lab, arch, delta, each)
            for pair in zip(lab.preset.deltas, found, scaled, strict=True)
            for delta, each in ((pair[0], pair[1]), (pair[0], pair[2]))
        ]
        notes = [f"found against scaled: {difference(found, scaled)}", *_advantages(lab, arch)]
        title = f"Fig. 7, {arch}, {lab.name}"
        drawn = _curves([*found, *scaled]) + _paper(lab, arch)
        outcomes.append(Outcome(title, COLUMNS, rows, notes, drawn, AXES, log=True))
    return outcomes


def table2(lab: Lab) -> list[Outcome]:
    """Table 2: epochs of a trial, and the first scale factor phi; beside each, one constant width."""
    outcomes = []
    for arch in lab.preset.archs:
        plan = lab.plan(arch)
        rows: list[tuple[Cell, ...]] = []
        pairs: list[tuple[Evaluation, Evaluation]] = []
        for name, values in (
            ("epochs_per_trial", lab.preset.ablation_epochs),
            ("phi", lab.preset.ablation_phis),
        ):
            for value in values:
                found = lab.search(arch, **{name: value})
                trained = lab.train(arch, name, found.sizes)
                constant = lab.train(arch, f"constant, {name}", uniform_sizes(plan, trained.params, 2))
                pairs.append((trained, constant))
                last = found.history[-1]
                slope = mean([group.slope for group in last.groups.values()])
                silent = len(last.without_rank)
                row = (arch, name, value, trained.params, slope, silent, accuracy(trained), accuracy(constant))
                rows.append(row)
        columns = (
            *("network", "setting", "value", "parameters", "mean slope, last trial", "groups of rank 0, last trial"),
            *("top-1 %", "constant: top-1 %"),
        )
        notes = [f"found against constant: {difference([p[0] for p in pairs], [p[1] for p in pairs])}"]
        title = f"Table 2, {arch}, {lab.name}"
        everything = [each for pair in pairs for each in pair]
        outcomes.append(Outcome(title, columns, rows, notes, _curves(everything), AXES))
    return outcomes


def table4(lab: Lab, large: Lab) -> list[Outcome]:
    """Table 4: what was found on the small images, trained on the large ones; and constant width."""
    outcomes = []
    for searched, trained in lab.preset.transfers:
        plan = large.plan(trained)
        original = large.train(trained, "original", _own(plan.free))
        rows = [(*_row(large, trained, None, original)[:-2], *_cells(IMAGENET.get(("", trained, None))))]
        pairs: list[tuple[Evaluation, Evaluation]] = []
        for delta in lab.preset.transfer_deltas:
            sizes = transferred(lab.search(searched, delta=delta).sizes, lab.plan(searched), plan)
            found = large.train(trained, "found", sizes)
            pairs.append((found, large.train(trained, "constant", uniform_sizes(plan, found.params, 2))))
            paper = IMAGENET.get((lab.name, trained, delta))
            rows += [(*_row(large, trained, delta, each)[:-2], *_cells(paper)) for each in pairs[-1][:1]]
            rows.append(_row(large, trained, delta, pairs[-1][1]))
        notes = [f"found against constant: {difference([p[0] for p in pairs], [p[1] for p in pairs])}"]
        title = f"Table 4, {searched} on {lab.name}, {trained} on {large.name}"
        everything = [original, *(each for pair in pairs for each in pair)]
        outcomes.append(Outcome(title, COLUMNS, rows, notes, _curves(everything), AXES, log=True))
    return outcomes


def figure1c(lab: Lab) -> list[Outcome]:
    """Fig. 1c: rank and accuracy of a sample of networks of random widths, and of random size."""
    outcomes = []
    for arch in lab.preset.archs:
        plan, draw = lab.plan(arch), random.Random(0)
        ranks, tops, sizes_of = [], [], []
        start = plan.cost({group.name: group.nearest(lab.preset.initial_channels, 2) for group in plan.free}).params
        for number in range(lab.preset.sample):
            sizes = random_widths(plan, round(start * 4.0 ** draw.uniform(-1, 1)), seed=number, round_to=2)
            trial = lab.baseline(arch, lab.preset.final_epochs, sizes)
            trained = lab.train(arch, "random", sizes)
            ranks.append(mean([group.ranks[-1] for group in trial.groups.values()]))
            tops.append(100 * mean(trained.accuracies))
            sizes_of.append(trained.params)
        rows = list(zip([arch] * len(ranks), sizes_of, ranks, tops, strict=True))
        notes = [
            f"Spearman's correlation with the accuracy: of the mean rank {_correlation(ranks, tops)}, "
            f"of the parameters {_correlation(sizes_of, tops)}"
        ]
        columns = ("network", "parameters", "mean rank", "top-1 %")
        title = f"Fig. 1c, {arch}, {lab.name}"
        curves = [Curve("networks of random widths", ranks, tops, line=False)]
        outcomes.append(Outcome(title, columns, rows, notes, curves, ("mean rank", AXES[1])))
    return outcomes


def _correlation(first: Sequence[float], second: Sequence[float]) -> str:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return "not defined (all are equal)"
    found = stats.spearmanr(first, second)
    return f"{found.statistic:+.2f} (p {found.pvalue:.2g})"


def figure3(lab: Lab) -> list[Outcome]:
    """Fig. 3: how the mean rank grows with the epochs at several widths, and which share of slopes passes delta."""
    outcomes = []
    for arch in lab.preset.archs:
        plan = lab.plan(arch)
        rows: list[tuple[Cell, ...]] = []
        curves = []
        for width in lab.preset.widths:
            sizes = {group.name: group.nearest(width, 2) for group in plan.free}
            trial = lab.baseline(arch, max(2, lab.preset.final_epochs), sizes)
            groups = [group.ranks for group in trial.groups.values()]
            ranks = [mean(of_epoch) for of_epoch in zip(*groups, strict=True)]
            curves.append(Curve(f"{width} channels", list(range(1, len(ranks) + 1)), ranks))
            for epochs in sorted({min(lab.preset.epochs_per_trial, len(ranks)), len(ranks)}):
                slopes = [float(rank_slope(group[:epochs])) for group in groups]
                passing = [mean([slope >= delta for slope in slopes]) for delta in lab.preset.deltas]
                rows.append((arch, width, epochs, ranks[epochs - 1], mean(slopes), max(slopes), *passing))
        columns = (
            *("network", "width", "epochs", "mean rank", "mean slope", "largest slope"),
            *(f">= {delta:g}" for delta in lab.preset.deltas),
        )
        title = f"Fig. 3, {arch}, {lab.name}"
        outcomes.append(Outcome(title, columns, rows, (), curves, ("epoch", "mean rank of all groups")))
    return outcomes


def kernels(lab: Lab) -> list[Outcome]:
    """Not in the paper: ranks, slopes and the highest rank that the probe can find, by size of the kernel."""
    outcomes = []
    for arch in lab.preset.archs:
        plan, size_of = lab.plan(arch), lab.kernels(arch)
        rows: list[tuple[Cell, ...]] = []
        slopes: dict[str, list[float]] = {}
        for width in lab.preset.widths:
            sizes = {group.name: group.nearest(width, 2) for group in plan.free}
            epochs = lab.baseline(arch, max(2, lab.preset.final_epochs), sizes).epochs
            paths_of: dict[str, list[str]] = {}
            for path in epochs[-1].layers:
                paths_of.setdefault(size_of[path], []).append(path)
            for kernel, paths in sorted(paths_of.items()):
                first, last = ([epoch.layers[path] for path in paths] for epoch in (epochs[0], epochs[-1]))
                ranks = [mean([(layer.rank_in + layer.rank_out) / 2 for layer in layers]) for layers in (first, last)]
                cap = mean([(layer.cap_in + layer.cap_out) / 2 for layer in last])
                slope = (ranks[1] - ranks[0]) / (len(epochs) - 1)
                slopes.setdefault(kernel, []).append(slope)
                rows.append((arch, width, kernel, len(paths), ranks[0], ranks[1], slope, cap, slope / cap))
        columns = ("network", "width", "kernel", "layers", "first rank", "last rank", "slope", "cap", "slope / cap")
        curves = [Curve(kernel, list(lab.preset.widths), values) for kernel, values in slopes.items()]
        title = f"Ranks by kernel, {arch}, {lab.name}"
        outcomes.append(Outcome(title, columns, rows, (), curves, ("channels", "mean slope, ranks an epoch")))
    return outcomes


@dataclasses.dataclass(frozen=True)
class _Baseline:
    groups: Sequence[ChannelGroup]


def figure4(lab: Lab) -> list[Outcome]:
    """Fig. 4: static scaling (Eq. 4) of trained baselines, and constant width."""
    outcomes = []
    for arch in lab.preset.static:
        plan = lab.plan(arch)
        own = {group.name: group.nearest(round(lab.preset.static_width * group.size), 2) for group in plan.free}
        groups = [dataclasses.replace(group, size=own.get(group.name, group.size)) for group in plan.groups]
        trial = lab.baseline(arch, lab.preset.final_epochs, own)
        baseline = lab.train(arch, "baseline", own)
        pairs: list[tuple[float, Evaluation, Evaluation]] = []
        for scale in lab.preset.scales:
            sizes = static_sizes(_Baseline(groups), trial.epochs[-1].layers, scale)
            static = lab.train(arch, "static", {name: sizes[name] for name in own})
            pairs.append((scale, static, lab.train(arch, "constant", uniform_sizes(plan, static.params, 2))))
        rows: list[tuple[Cell, ...]] = [(arch, "baseline", None, baseline.params, baseline.macs, accuracy(baseline))]
        for scale, *both in pairs:
            rows += [(arch, each.label, scale, each.params, each.macs, accuracy(each)) for each in both]
        everything = [baseline, *(each for _, *both in pairs for each in both)]
        notes = [f"static against constant: {difference([p[1] for p in pairs], [p[2] for p in pairs])}"]
        columns = ("network", "widths", "s", "parameters", "MACs", "top-1 %")
        title = f"Fig. 4, {arch}, {lab.name}"
        outcomes.append(Outcome(title, columns, rows, notes, _curves(everything), AXES, log=True))
    return outcomes


def figure6(lab: Lab) -> list[Outcome]:
    """Channel sizes of each trial, for each delta: where a search goes, and whether it settles."""
    outcomes = []
    for arch in lab.preset.archs:
        rows: list[tuple[Cell, ...]] = []
        drawn = []
        for delta in lab.preset.deltas:
            history = lab.search(arch, delta=delta).history
            for trial in history:
                actions = [group.action for group in trial.groups.values()]
                counts = [actions.count(action) for action in ("expand", "shrink", "stop")]
                silent = len(trial.without_rank)
                widths = mean(list(trial.sizes.values()))
                slope = mean([group.slope for group in trial.groups.values()])
                rows.append((arch, delta, trial.number, trial.params, widths, slope, silent, *counts))
            sizes = [mean(list(trial.sizes.values())) for trial in history]
            drawn.append(Curve(f"delta {delta:g}", [trial.number for trial in history], sizes))
        columns = (
            *("network", "delta", "trial", "parameters", "mean size", "mean slope", "groups of rank 0"),
            *("expand", "shrink", "stop"),
        )
        title = f"Fig. 6, {arch}, {lab.name}"
        outcomes.append(Outcome(title, columns, rows, (), drawn, ("trial", "mean channel size")))
    return outcomes


def _own(free: Sequence[ChannelGroup]) -> dict[str, int]:
    return {group.name: group.size for group in free}


EXPERIMENTS: Mapping[str, Callable[[Lab], list[Outcome]]] = {
    "table2": table2,
    "table3": table3,
    "fig1c": figure1c,
    "fig3": figure3,
    "kernels": kernels,
    "fig4": figure4,
    "fig6": figure6,
    "fig7": figure7,
}
