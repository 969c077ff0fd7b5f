"""Which networks conet-fx can follow, how far, and whether what it then promises holds.

    python -m benchmarks.coverage [--zoo torchvision|timm|libraries|all] [--models NAME,...] [--alone N | --every]
                                  [--peers torch-pruning modelopt] [--jobs N] [--timeout S]
                                  [--out FILE [--resume [--failed]]] [--markdown FILE]

Every network runs in a process of its own, with one thread and a time limit, so a crash or a hang is one row. A
row says what the plan found: free groups, frozen ones by reason, operators that are not followed, and convolutions that
are free, frozen with a named reason, not called by the network, or **lost**: called, but neither free nor frozen with a
reason, which is a fault. Then what :mod:`tests.passes.battery` says of it:

* ``alone``: some free groups (``--alone N``, default 3; ``--every``: all) one at a time, and ``all``: all together, at
  random sizes between half and twice the present ones: forward and backward in both modes, a gradient for every
  parameter that had one, parameters and multiply-adds as predicted;
* ``same``: at present sizes with inherited weights the outputs are bit-identical;
* ``masks``: shrunken with inherited weights it equals the original with the other channels masked (norm statistics and
  layer scales random; groups whose channels an operator mixes are left out, and their number told).

All of it once more with ``resize_linear=True`` where linear layers keep groups frozen. ``--peers``: other tools on
the same networks (see :mod:`benchmarks.peers`).
"""

from __future__ import annotations

import argparse
import collections
import copy
import gc
import importlib.util
import json
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

import conet_fx
from benchmarks import zoo
from benchmarks.peers import TOOLS
from benchmarks.processes import describe, run_in_process, show_results, show_row, work_through, write_rows
from conet_fx.plan import ChannelPlan
from tests.passes import battery

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LARGE = 150_000_000  # parameters from which masks are compared in float32, to stay in memory
STATES = ("free", "frozen", "uncalled", "lost")
CHECKS = ("alone", "all", "same", "masks")
Row = dict[str, Any]


# --- one network, in its own process ------------------------------------------------------------------------


def examine(entry: str, alone: int | None, report: Callable[[Row], None]) -> None:
    """Analyse and check one network; ``report`` gets the row whenever more of it is known."""
    conet_fx.analyze(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 1))  # fill torch's caches, which is not timed
    model = zoo.build(entry)
    row: Row = {"parameters": sum(p.numel() for p in model.module.parameters())}
    called = called_convs(model)
    for linear in (False, True):
        part = row.setdefault("linear", {}) if linear else row
        plan = analysed(model, called, linear, part)
        report(row)
        if plan is None:
            return
        for _ in checked(model, plan, alone, linear, part):
            report(row)
        if not any("resize_linear" in reason for reason in part["frozen"]):
            return


def called_convs(model: zoo.Model) -> set[str]:
    """Paths of the convolutions that a forward pass in the mode of the network calls."""
    found: set[str] = set()

    def note(path: str) -> Callable[..., None]:
        return lambda *_: found.add(path)

    handles = [m.register_forward_pre_hook(note(path)) for path, m in convs(model.module).items()]
    try:
        battery.outputs(model.module, model.inputs, model.module.training)
    finally:
        for handle in handles:
            handle.remove()
    return found


def convs(module: nn.Module) -> dict[str, nn.Module]:
    """All convolutions by path, each once."""
    return {path: part for path, part in module.named_modules() if isinstance(part, CONVS)}


def analysed(model: zoo.Model, called: Collection[str], linear: bool, row: Row) -> ChannelPlan | None:
    """The plan, and what is to be told of it; None, and the error, where there is none."""
    start = time.process_time()
    try:
        plan = conet_fx.analyze(model.module, model.inputs, resize_linear=linear)
    except Exception as error:
        row["error"] = one_line(error)
        return None
    row["seconds"] = time.process_time() - start
    row["nodes"] = len(plan.trace.graph_module.graph.nodes)
    pieces = getattr(plan.trace, "pieces", None)
    row["pieces"] = list(pieces.paths) if pieces else []
    row["free"] = len(plan.free)
    row["frozen"] = dict(collections.Counter(kind_of(g.frozen) for g in plan.groups if g.frozen is not None))
    row["unknown"] = dict(collections.Counter(map(kind_of, plan.facts.unknown)))
    states = {path: state(plan, path, path in called) for path in convs(model.module)}
    row["convs"] = {name: sum(state == name for state, _ in states.values()) for name in STATES}
    row["convs frozen"] = dict(collections.Counter(kind_of(why) for name, why in states.values() if name == "frozen"))
    row["convs lost"] = [path for path, (name, _) in states.items() if name == "lost"]
    return plan


def state(plan: ChannelPlan, path: str, called: bool) -> tuple[str, str]:
    """One of :data:`STATES` for the output channels of a convolution, and the reason where it is frozen."""
    facts, depths = plan.facts, plan.facts.depths
    if any(path in group.writers for group in plan.free):
        return "free", ""
    layer = facts.layers.get(path)
    dim = layer.dims["out"] if layer else facts.writers.get(path)
    if dim is None:  # a function of a weight: the weight is followed as a bare parameter
        bare = facts.layers.get(f"{path}.weight")
        dim = bare.dims["0"] if bare else None
    if dim is not None:
        roots = depths.roots(dim)
        written = {root for group in plan.free for w in group.writers for root in depths.roots(facts.writers[w])}
        if any(root in written and depths.frozen(root) is None for root in roots):
            return "free", ""  # depthwise: the channels of the group before it
        reasons = [why for root in roots if (why := depths.frozen(root)) is not None]
        if reasons:
            return "frozen", reasons[0]
        if not roots:
            return "frozen", "depthwise, reads channels of a fixed number"
        return "lost", ""
    around = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)]  # it and the modules that it is in
    for part in around:
        named = [text for text in facts.unknown if text.startswith(f"{part} ") or f"(in {part})" in text]
        if named:
            return "frozen", named[0]
    return ("lost" if called else "uncalled"), ""


def checked(model: zoo.Model, plan: ChannelPlan, alone: int | None, linear: bool, row: Row) -> Iterator[None]:
    """Run all checks, and yield whenever one is done. A check is "ok", or says what is wrong."""
    free, inputs = plan.free, model.inputs
    if not free:
        return
    row["same"] = verdict(lambda: battery.check_identity(model.module, plan, inputs))
    yield
    try:
        expected = battery.trained_parameters(plan, battery.origin(plan, model.module, plan.resize({})), inputs)
    except Exception as error:
        row["all"] = f"the original does not run: {one_line(error)}"
        return
    sizes = battery.random_sizes(free, 0.5, 2, seed=0)
    row["all"] = verdict(lambda: battery.check_resized(plan, sizes, inputs, expected))
    yield
    chosen = free if alone is None else random.Random(0).sample(free, min(alone, len(free)))
    failed: dict[str, str] = {}
    for count, group in enumerate(chosen, 1):
        one = battery.random_sizes([group], 0.5, 2, seed=count)
        result = verdict(lambda one=one: battery.check_resized(plan, one, inputs, expected))
        if result != "ok":
            failed[group.name] = result
        row["alone"] = f"{len(failed)} of {count} fail: {failed}" if failed else "ok"
        row["alone checked"] = count
        yield
    row["mixed"] = sum(bool(group.mixed_by) for group in free)
    row["masks"] = verdict(lambda: check_masks(model, linear)) if row["mixed"] < len(free) else "all groups are mixed"
    yield


def check_masks(model: zoo.Model, linear: bool) -> None:
    """Inherited weights of a smaller network are those of the original with the other channels masked.

    In float64 where the network is not too large for that and does not make tensors of float32 itself.
    """
    module, inputs = copy.deepcopy(model.module), model.inputs
    battery.randomise(module)
    if sum(p.numel() for p in module.parameters()) < LARGE:
        doubled = copy.deepcopy(module).double(), battery.mapped(inputs, in_double)
        if verdict(lambda: battery.outputs(*doubled, module.training)) == "ok":
            module, inputs = doubled
    plan = conet_fx.analyze(module, inputs, resize_linear=linear)
    battery.check_shrinking_masks(module, plan, inputs, seed=0)


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def verdict(check: Callable[[], Any]) -> str:
    """ "ok", or the error in one line."""
    try:
        check()
    except Exception as error:
        return one_line(error)
    finally:
        gc.collect()  # graphs are cycles, and hold networks that fill the memory
    return "ok"


def one_line(error: BaseException) -> str:
    """Type and text of an error, and for an assertion without text the line that made it."""
    text = " ".join(str(error).split())
    if isinstance(error, AssertionError) and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        text = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno} {text}"
    return shortened(f"{type(error).__name__}: {text}")[:600]


def shortened(text: str) -> str:
    """Paths of files without what stands before the package."""
    return re.sub(r"[^ (]*/(site-packages|dist-packages)/", "", text)


def kind_of(reason: str) -> str:
    """A reason without the module that it was found in: the blocks of a network have one in common."""
    return re.sub(r" \(in [^)]*\)", "", shortened(reason))


# --- all networks -------------------------------------------------------------------------------------------


def passed(row: Row) -> bool:
    """True where nothing is wrong: followed, nothing lost, every check that ran in time is right."""
    parts = [row, row["linear"]] if "linear" in row else [row]
    fine = {"ok", "all groups are mixed"}
    return "error" not in row and all(
        part.get("convs", {}).get("lost") == 0 and all(part[c] in fine for c in CHECKS if c in part) for part in parts
    )


def table_of(rows: Sequence[Row]) -> Table:
    """One line a network."""
    table = Table(
        title="Coverage",
        caption="s: CPU seconds of the analysis; linear: groups, convs and checks with resize_linear=True",
    )
    for name in ("network", "s", "nodes", "groups", "free convs", "frozen", "lost", "alone", "all", "same", "masks"):
        table.add_column(name, justify="left" if name == "network" else "right")
    table.add_column("linear")
    tools = [tool.name for tool in TOOLS.values() if any(tool.name in row.get("peers", {}) for row in rows)]
    for name in tools:
        table.add_column(name)
    for row in rows:
        linear = row.get("linear")
        cells = [row["network"], *cells_of(row), linear_cell(linear) if linear else "-"]
        peers = row.get("peers", {})
        cells += [peer_cell(peers[name]) if name in peers else "-" for name in tools]
        table.add_row(*cells, style=None if passed(row) else "red")
    return table


def markdown_of(rows: Sequence[Row], command: str) -> str:
    """The table, sums and faults as a page of the docs."""
    table = table_of(rows)
    names = [str(column.header) for column in table.columns]
    zoos = dict.fromkeys(row["network"].partition("/")[0] for row in rows)
    lines = [f"# Coverage: {', '.join(zoos)}", "", f"`{command}`, {describe()}", ""]
    sums, _, details = "\n".join(summary_of(rows)).partition("\n\n")
    lines += [f"* {line}" for line in sums.split("\n")]
    lines += ["", str(table.caption) + ". Groups: free of all. Checks: see the head of `benchmarks/coverage.py`.", ""]
    lines += ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in cells]
    lines += [
        "",
        "## Faults, and convolutions that are frozen",
        "",
        *(f"* {line}" for line in details.split("\n") if line),
    ]
    return "\n".join(lines) + "\n"


def cells_of(row: Row) -> list[str]:
    if "convs" not in row:
        return ["-"] * 6 + ["not traced" if "error" in row else "-"] + ["-"] * 3
    checks = {name: mark(row.get(name)) for name in CHECKS}
    if "alone checked" in row:
        checks["alone"] += f" {row['alone checked']}"
    if row.get("mixed"):
        checks["masks"] += f" -{row['mixed']}"
    groups = f"{row['free']}/{row['free'] + sum(row['frozen'].values())}"
    called = sum(row["convs"].values()) - row["convs"]["uncalled"]
    convs = f"{row['convs']['free']}/{called}"
    lost = [str(row["convs"][name]) for name in ("frozen", "lost")]
    return [f"{row['seconds']:.1f}", str(row["nodes"]), groups, convs, *lost, *checks.values()]


def mark(result: str | None) -> str:
    return {None: "-", "ok": "ok", "all groups are mixed": "mixed"}.get(result, "FAIL")


def linear_cell(row: Row) -> str:
    if "convs" not in row:
        return "not traced"
    groups, convs = cells_of(row)[2:4]
    wrong = [check for check in CHECKS if mark(row.get(check)) == "FAIL"]
    return f"{groups} {convs} {'FAIL ' + ' '.join(wrong) if wrong else 'ok'}"


def peer_cell(peer: Row) -> str:
    """Seconds for its groups, convolutions that it made smaller, and whether the network then runs."""
    figures = [f"{peer['seconds']:.1f} s"] if "seconds" in peer else []
    figures += [f"{peer['halved']} convs"] if "halved" in peer else []
    return " ".join([*figures, peer["verdict"].partition(" (")[0]])


def summary_of(rows: Sequence[Row]) -> Iterator[str]:
    """Sums by zoo, then every fault and every reason that is not the network's output."""
    for name in dict.fromkeys(row["network"].split("/")[0] for row in rows):
        some = [row for row in rows if row["network"].startswith(f"{name}/")]
        traced = [row for row in some if "convs" in row]
        called = {state: sum(row["convs"][state] for row in traced) for state in STATES}
        total = sum(called.values()) - called["uncalled"]
        right = {
            check: (sum(row.get(check) == "ok" for row in traced), sum(check in row for row in traced))
            for check in CHECKS
        }
        yield (
            f"{name}: {len(traced)} of {len(some)} networks followed, {sum(map(passed, some))} without a fault; "
            f"{called['free']:,} of {total:,} convolutions free, {called['frozen']:,} frozen, {called['lost']} lost; "
            + ", ".join(f"{check} {good}/{ran}" for check, (good, ran) in right.items())
        )
        for tool in TOOLS.values():
            pruned = [row["peers"][tool.name] for row in some if tool.name in row.get("peers", {})]
            right_ones = [peer for peer in pruned if peer["verdict"] == "ok"]
            if pruned:
                yield (
                    f"{name}: {tool.name} {len(right_ones)} of {len(pruned)} networks, "
                    f"{sum(peer['halved'] for peer in right_ones):,} convolutions made smaller in these"
                )
    yield ""
    for row in rows:
        for title, part in (("", row), (" (resize_linear)", row.get("linear", {}))):
            faults = {key: part[key] for key in ("error", *CHECKS) if key in part and mark(part[key]) == "FAIL"}
            if part.get("convs lost"):
                faults["lost"] = ", ".join(part["convs lost"])
            for key, text in faults.items():
                yield f"{row['network']}{title}: {key}: {text}"
        other = {why: n for why, n in row.get("convs frozen", {}).items() if "network's output" not in why}
        yield from (f"{row['network']}: {n} convolution(s) frozen: {why}" for why, n in other.items())


def measure(entry: str, options: argparse.Namespace, old: Row) -> Row:
    """The row of one network; what the old row has already is not measured again."""
    row: Row = {"network": entry}
    alone = "every" if options.every else str(options.alone)
    if "ended" in old:
        row |= old
    else:
        command = ["benchmarks.coverage", "--one", entry, "--alone", alone]
        result, ended = run_in_process(command, options.timeout)
        row |= result | {"ended": ended}
        if ended != "finished":
            row["error"] = ended
    for key in options.peers:
        peers = row.setdefault("peers", {})
        if TOOLS[key].name not in peers and not entry.endswith(":train"):  # they work in eval mode
            peer, ended = run_in_process(["benchmarks.peers", key, entry], options.peer_timeout)
            peers[TOOLS[key].name] = peer if ended == "finished" else {**peer, "verdict": ended}
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What conet-fx can follow.", formatter_class=argparse.HelpFormatter)
    parser.add_argument("--zoo", choices=(*zoo.ZOOS, "all"), default="all")
    parser.add_argument("--models", metavar="NAME,...", help="only these (parts of names do: 'resnet18,/vgg')")
    parser.add_argument("--alone", type=str, default="3", metavar="N", help="groups that are resized alone (default 3)")
    parser.add_argument("--every", action="store_true", help="resize every group alone")
    parser.add_argument("--peers", nargs="+", choices=TOOLS, default=(), help="other tools on the same networks")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default 1)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one network (default 300)")
    parser.add_argument("--peer-timeout", type=float, default=120, help="seconds for each of them (default 120)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there, as JSON, after each network")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table there too, as a page of the docs"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--failed", action="store_true", help="with --resume: but measure those with faults again")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        examine(options.one, None if options.alone == "every" else int(options.alone), show_row)
        return
    rows = kept_rows(options, passed)
    names = chosen(options.zoo, options.models)
    needed = {TOOLS[key].package for key in options.peers} | {zoo.package_of(name) for name in names}
    for package in sorted(needed):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is not installed: pip install '.[benchmarks,libraries]'")

    def work(name: str) -> bool:
        rows[name] = measure(name, options, rows.get(name, {}))
        if options.out:
            write_rows(options.out, [rows[name] for name in zoo.entries("all") if name in rows])
        return passed(rows[name])

    work_through(names, work, options.jobs)
    shown = [rows[name] for name in names]
    show_results(table_of(shown), summary_of(shown), width=200)
    if options.markdown:
        options.markdown.write_text(
            markdown_of(shown, f"python -m benchmarks.coverage {' '.join(arguments or sys.argv[1:])}")
        )


def chosen(which: str, parts: str | None) -> list[str]:
    """The entries of a zoo whose names hold one of the comma-separated parts."""
    names = zoo.entries(which)
    if parts is None:
        return names
    found = [name for name in names if any(part in name for part in parts.split(","))]
    if not found:
        sys.exit(f"no network of {which} has {parts!r} in its name")
    return found


def kept_rows(options: argparse.Namespace, passed: Callable[[Row], bool]) -> dict[str, Row]:
    """The finished rows of an earlier run by network; with ``--failed`` those that passed."""
    if not options.resume:
        return {}
    if options.out is None:
        sys.exit("--resume goes on with a file of an earlier run: name it")
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    return {row["network"]: row for row in rows if passed(row) or not options.failed}


if __name__ == "__main__":
    main()
