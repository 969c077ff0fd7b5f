"""What becomes of resized networks once they are kept, shipped and rebuilt.

    python -m benchmarks.export [--zoo torchvision|timm|all] [--models NAME,...] [--jobs N] [--timeout S]
                                [--but NAME,...] [--no-programs] [--json FILE [--resume [--failed]]] [--markdown FILE]

Every network is resized with inherited weights (all free groups to random sizes between half and one and a half times
the present ones, seeded), in a process of its own, with one thread and a time limit. Then, in eval mode:

* ``saved``: ``conet_fx.save`` writes it; ``loaded``: another process that has nothing but the files loads it, with
  bit-identical outputs; ``applied``: ``conet_fx.apply`` on the user's class, bit-identical, the same state_dict keys;
* ``source``: ``format="python"``; another process, in which conet_fx cannot be imported, runs it with the saved weights
  (``strict=True``), bit-identical;
* ``pt2``, ``onnx``: ``format="torch-export"`` and ``"onnx"`` with a batch of any size, checked by running them (not
  with ``--no-programs``: they take most of the time);
* a network that is traced in pieces (a detector) keeps its class: it is saved and applied, and the ways that need a
  graph have to say so (``class`` in the table);
* where a program fails, whether the network as it came does so too, which tells a failure of torch's exporter
  (``torch`` in the table) from one of ours (``FAIL``).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.table import Table
from torch import fx, nn

import conet_fx
from benchmarks import zoo
from benchmarks.coverage import chosen, kept_rows, one_line
from benchmarks.processes import describe, run_in_process, show_results, show_row, work_through, write_rows
from tests.passes import battery

CLASS = "class"
CHECKS = ("saved", "loaded", "applied", "source", "pt2", "onnx")
Row = dict[str, Any]

# Run in a directory that has the files and the inputs, by position or keyword.
ELSEWHERE = """
import sys, torch, safetensors.torch
from torch.utils import _pytree as pytree

torch.set_num_threads(1)
def built(): {built}
network = built().eval()
given = safetensors.torch.load_file("inputs")
positional = [given[key] for key in sorted(given) if key.isdigit()]
keywords = {{key: value for key, value in given.items() if not key.isdigit()}}
torch.manual_seed(0)  # a variational encoder samples
with torch.no_grad():
    outputs = [t for t in pytree.tree_leaves(network(*positional, **keywords)) if isinstance(t, torch.Tensor)]
safetensors.torch.save_file({{str(i): t.clone().contiguous() for i, t in enumerate(outputs)}}, "outputs")
"""
LOADED = ELSEWHERE.format(built='import conet_fx; return conet_fx.load(".")')
SOURCE = ELSEWHERE.format(
    built="""
    sys.modules["conet_fx"] = None  # cannot be imported
    import network
    made = network.NAME()
    made.load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=True)
    return made"""
)


# --- one network, in its own process ------------------------------------------------------------------------


def examine(entry: str, report: Callable[[Row], None], programs: bool = True) -> None:
    """Resize one network and try every way; ``report`` gets the row whenever more of it is known."""
    model = zoo.build(entry)
    row: Row = {"parameters": sum(p.numel() for p in model.module.parameters())}
    try:
        plan = conet_fx.analyze(model.module, model.inputs)
        sizes = battery.random_sizes(plan.free, 0.5, 1.5, seed=0)
        resized = plan.resize(sizes, init="inherit").eval()
        row["groups"] = len(sizes)
        expected = [tensor.clone() for tensor in run(resized, model.inputs)]
    except Exception as error:
        row["error"] = one_line(error)
        report(row)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, outcome in ways(model, plan, resized, expected, Path(folder), programs):
            row[name] = outcome
            report(row)


def run(module: nn.Module, inputs: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return list(battery.tensors(battery.call(module.eval(), inputs)))


def ways(
    model: zoo.Model,
    plan: conet_fx.ChannelPlan,
    resized: fx.GraphModule,
    expected: Sequence[torch.Tensor],
    folder: Path,
    programs: bool,
) -> Iterator[tuple[str, str]]:
    """Each check by name, and ``ok`` or what is wrong."""

    def attempt(check: Callable[[], None]) -> str:
        try:
            check()
        except Exception as error:
            return one_line(error)
        return "ok"

    def save() -> None:
        conet_fx.save(resized, plan, folder)
        if isinstance(resized, fx.GraphModule):
            safetensors.torch.save_file(as_tensors(resized, model.inputs), folder / "inputs")

    def load() -> None:
        if plan.trace.pieces:
            conet_fx.load(folder)
        elsewhere(LOADED, folder, expected)

    def apply() -> None:
        applied = conet_fx.apply(model.module, folder)
        kept = resized.state_dict().keys() - applied.state_dict().keys()
        assert not kept, f"the applied network lacks {min(kept)}"
        assert type(applied) is type(model.module), f"the applied network is a {type(applied).__name__}"
        same(run(applied, model.inputs), expected)

    def source() -> None:
        conet_fx.export(folder, folder / "network.py")
        text = (folder / "network.py").read_text()
        name = re.findall(r"^class (\w+)", text, re.MULTILINE)[-1]
        elsewhere(SOURCE.replace("NAME", name), folder, expected)

    saved = attempt(save)
    yield "saved", saved
    if saved == "ok":
        yield "loaded", told_class(attempt(load))
        yield "applied", attempt(apply)
        yield "source", told_class(attempt(source))
    else:
        yield from ((name, "not saved") for name in ("loaded", "applied", "source"))
    for name, suffix in (("pt2", ".pt2"), ("onnx", ".onnx")) if programs else ():
        given = taken(resized, model.inputs) if isinstance(resized, fx.GraphModule) else model.inputs
        outcome = attempt(lambda file=folder / f"network{suffix}", given=given: export_to(resized, file, given))
        yield name, outcome
        if outcome != "ok":
            original = attempt(lambda file=folder / f"original{suffix}": export_to(model.module, file, model.inputs))
            yield f"{name} of torch", original


def told_class(outcome: str) -> str:
    """``class`` where what is wrong is that the network keeps its class."""
    return CLASS if "the recipe has no graph" in outcome else outcome


def export_to(module: nn.Module, path: Path, inputs: Any) -> None:
    conet_fx.export(module, path, example_inputs=inputs)


def taken(module: fx.GraphModule, inputs: Any) -> Any:
    """The inputs that the graph has to be given: what is no tensor has a default."""
    if not isinstance(inputs, dict):
        return inputs
    names = {str(node.target) for node in module.graph.find_nodes(op="placeholder")}
    plain = (bool, int, float, str, type(None))
    return {key: value for key, value in inputs.items() if key in names and not isinstance(value, plain)}


def as_tensors(module: fx.GraphModule, inputs: Any) -> dict[str, torch.Tensor]:
    """The inputs by position or keyword. Raises ``TypeError`` for a nest of them."""
    inputs = taken(module, inputs)
    named = inputs if isinstance(inputs, dict) else dict(enumerate(inputs if isinstance(inputs, tuple) else (inputs,)))
    found = {str(key): value for key, value in named.items()}
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise TypeError("the inputs are no tensors")
    return {key: value.contiguous() for key, value in found.items()}


def elsewhere(program: str, folder: Path, expected: Sequence[torch.Tensor]) -> None:
    """Run a program in ``folder`` in another process, and hold the outputs that it writes against the expected ones."""
    (folder / "outputs").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    outputs = safetensors.torch.load_file(folder / "outputs")
    same([outputs[str(i)] for i in range(len(outputs))], expected)


def same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    assert len(found) == len(expected), f"{len(found)} outputs, not {len(expected)}"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape, f"an output of shape {tuple(ours.shape)}, not {tuple(theirs.shape)}"
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), f"outputs differ by {(ours - theirs).abs().max():g}"


# --- all networks -------------------------------------------------------------------------------------------


def passed(row: Row) -> bool:
    """True where every way is open, but for those that torch's own exporters close to the original too."""
    return "error" not in row and all(row.get(name, "ok") in ("ok", CLASS) or of_torch(row, name) for name in CHECKS)


def of_torch(row: Row, name: str) -> bool:
    """Whether the network fails in this way as it came."""
    return row.get(name) not in (None, "ok", CLASS) and row.get(f"{name} of torch", "ok") != "ok"


def cell(row: Row, name: str) -> str:
    if row.get(name) in (None, "ok", CLASS):
        return row.get(name, "-")
    return "torch" if of_torch(row, name) else "FAIL"


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Export",
        caption="torch: its exporter fails on the network as it came, too; class: it keeps its class",
    )
    for name in ("network", "parameters", "groups", *CHECKS):
        table.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        figures = [f"{row['parameters']:,}" if "parameters" in row else "-", str(row.get("groups", "-"))]
        cells = (cell(row, name) for name in CHECKS)
        table.add_row(row["network"], *figures, *cells, style=None if passed(row) else "red")
    return table


def summary_of(rows: Sequence[Row]) -> Iterator[str]:
    """Counts, then every reason."""
    for name in dict.fromkeys(row["network"].split("/")[0] for row in rows):
        some = [row for row in rows if row["network"].startswith(f"{name}/")]
        tried = [check for check in CHECKS if any(check in row for row in some)]
        counts = [f"{check} {sum(row.get(check) == 'ok' for row in some)}" for check in tried]
        theirs = sum(of_torch(row, check) for row in some for check in ("pt2", "onnx"))
        by_class = sum(row.get("loaded") == CLASS for row in some)
        yield (
            f"{name}: of {len(some)} networks {', '.join(counts)}; {by_class} keep their class; {theirs} failures of "
            f"torch's exporters on the network as it came, {sum(not passed(row) for row in some)} networks with others"
        )
    yield ""
    for row in rows:
        for key in ("error", *CHECKS):
            if row.get(key, "ok") not in ("ok", CLASS, "not saved") and (
                key != "onnx" or row.get("onnx") != row.get("pt2")
            ):
                whose = " (as the original)" if of_torch(row, key) else ""
                yield f"{row['network']}: {key}{whose}: {row[key]}"


def markdown_of(rows: Sequence[Row], command: str) -> str:
    """The table, counts and reasons, to stand in a page of the docs."""
    table = table_of(rows)
    names = [str(column.header) for column in table.columns]
    counts, _, reasons = "\n".join(summary_of(rows)).partition("\n\n")
    lines = [f"`{command}`, {describe()}", "", *(f"* {line}" for line in counts.split("\n")), ""]
    lines += ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in cells]
    lines += ["", *(f"* {line}" for line in reasons.split("\n") if line)]
    return "\n".join(lines).rstrip() + "\n"


BEGIN, END = "<!-- export: begin -->\n", "<!-- export: end -->\n"


def write_markdown(path: Path, text: str) -> None:
    """Put the text between the marks of a page, or make it the page where there are none."""
    page = path.read_text() if path.exists() else BEGIN + END
    before, _, rest = page.partition(BEGIN)
    path.write_text(before + BEGIN + text + END + rest.partition(END)[2])


def measure(entry: str, programs: bool, timeout: float) -> Row:
    result, ended = run_in_process(
        ["benchmarks.export", "--one", entry, *(["--no-programs"] * (not programs))], timeout
    )
    row = {"network": entry, **result}
    if ended != "finished":
        row["error"] = ended
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Saved, loaded, applied and exported networks.")
    parser.add_argument("--zoo", choices=(*zoo.ZOOS, "all"), default="torchvision")
    parser.add_argument("--models", metavar="NAME,...", help="only these (parts of names do: 'resnet18,/vgg')")
    parser.add_argument("--but", metavar="NAME,...", default="", help="leave these out (parts of names do)")
    parser.add_argument(
        "--programs", action=argparse.BooleanOptionalAction, default=True, help="torch.export and ONNX too"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default 1)")
    parser.add_argument("--timeout", type=float, default=300, help="CPU seconds for one network (default 300)")
    parser.add_argument(
        "--json", dest="out", type=Path, metavar="FILE", help="write the rows there, after each network"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table into a page of the docs")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file of --json has")
    parser.add_argument("--failed", action="store_true", help="with --resume: but measure those with faults again")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        examine(options.one, show_row, options.programs)
        return
    for package in ("onnx", "onnxscript", "onnxruntime") if options.programs else ():
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is not installed: pip install '.[onnx]'")
    rows = kept_rows(options, passed)
    left_out = [part for part in options.but.split(",") if part]
    names = [  # a network whose two modes differ is what it is in eval mode
        name
        for name in chosen(options.zoo, options.models)
        if not name.endswith(":train") and not any(part in name for part in left_out)
    ]

    def work(name: str) -> bool:
        rows[name] = measure(name, options.programs, options.timeout)
        if options.out:
            write_rows(options.out, list(rows.values()))
        return passed(rows[name])

    work_through([name for name in names if name not in rows], work, options.jobs)
    shown = [rows[name] for name in names]
    show_results(table_of(shown), summary_of(shown), width=160)
    if options.markdown:
        told = {"zoo": options.zoo, "models": options.models, "but": options.but}  # what is measured, not where it goes
        command = " ".join(
            [
                "python -m benchmarks.export",
                *(f"--{name} {value}" for name, value in told.items() if value),
                *(["--no-programs"] * (not options.programs)),
            ]
        )
        write_markdown(options.markdown, markdown_of(shown, command))


if __name__ == "__main__":
    main()
