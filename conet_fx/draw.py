"""``plan.to_dot()`` and ``plan.draw()``: the labelled graph in the colours of the channels that it carries."""

from __future__ import annotations

import colorsys
import html
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conet_fx.errors import ConetError
from conet_fx.passes.info import ChannelInfo

if TYPE_CHECKING:
    from conet_fx.plan import ChannelPlan

SUFFIXES = ("dot", "svg", "png", "pdf")

_SHAPES = {"summation": "circle", "concatenation": "trapezium", "input": "box", "output": "box", "single": "ellipse"}
_FROZEN = ("#dddddd", "#888888")
_FIXED = ("#ffffff", "#888888")
# Graphviz looks for the best layout for as long as it takes, which are minutes for a DenseNet
_LAYOUT = "  nslimit=1; nslimit1=1; mclimit=0.2;"


def to_dot(plan: ChannelPlan) -> str:
    """The labelled graph in Graphviz' language.

    Conv edges are bold, others dashed; summations are circles, concatenations trapezia. A channel group has one colour,
    which depends on its place among the free groups only; frozen groups are grey. An edge that carries several groups
    has as many lines. The legend lists the groups with their sizes.
    """
    colours = _colours(plan)
    nodes = {node.name: node.meta["conet_fx"] for node in plan.trace.graph_module.graph.nodes}
    lines = ["digraph channels {", "  rankdir=TB;", _LAYOUT, "  node [style=filled];", _legend(plan, colours)]
    for name, data in plan.graph.nodes(data=True):
        groups = list(_groups(nodes[name]))
        fill = colours[groups[0]][0] if len(groups) == 1 else _FIXED[0]
        text = _quoted(data["operator"] + _sizes(nodes[name]))
        lines.append(f'  {_quoted(name)} [label={text} shape={_SHAPES[data["kind"]]} fillcolor="{fill}"];')
    for tail, head, data in plan.graph.edges(data=True):
        style = "bold" if data["kind"] == "conv" else "dashed"
        colour = ":".join(colours[group][1] for group in _groups(nodes[tail])) or _FIXED[1]
        lines.append(f'  {_quoted(tail)} -> {_quoted(head)} [style={style} color="{colour}"];')
    return "\n".join([*lines, "}"]) + "\n"


def draw(plan: ChannelPlan, path: str | Path) -> None:
    """Write the labelled graph to ``path``, in the format that its suffix names: .dot, .svg, .png or .pdf.

    All but .dot need Graphviz. Raises ``ValueError`` for another suffix, :class:`ConetError` without Graphviz.
    """
    path = Path(path)
    text = to_dot(plan)
    if check_suffix(path) == "dot":
        path.write_text(text)
        return
    program = shutil.which("dot")
    if program is None:
        raise ConetError(
            f"Graphviz, which draws {path.name}, is not installed (there is no program dot): install it, or write "
            f"{path.with_suffix('.dot').name}, which needs nothing"
        )
    result = subprocess.run([program, f"-T{check_suffix(path)}"], input=text.encode(), capture_output=True)
    if result.returncode:
        raise ConetError(f"Graphviz cannot draw {path.name}: {result.stderr.decode(errors='replace').strip()}")
    path.write_bytes(result.stdout)


def check_suffix(path: Path) -> str:
    """The format that a suffix names. Raises ``ValueError``."""
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: the suffix names the format, write one of .{', .'.join(SUFFIXES)}")
    return suffix


def _colours(plan: ChannelPlan) -> Mapping[str, tuple[str, str]]:
    """Fill and line colour of each group. Hues are golden angles apart, so that neighbours differ."""
    colours = {group.name: _FROZEN for group in plan.groups}
    for index, group in enumerate(plan.free):
        hue = index * 0.618034 % 1
        colours[group.name] = (_hex(hue, 0.35, 1), _hex(hue, 0.85, 0.7))
    return colours


def _hex(hue: float, saturation: float, value: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, saturation, value))


def _groups(info: ChannelInfo) -> Iterator[str]:
    """The groups that a value carries, each once; of a tuple those of its items."""
    names = [*info.groups, *(name for item in info.items for name in _groups(item))]
    yield from dict.fromkeys(names)


def _sizes(info: ChannelInfo) -> str:
    """The channels along the axis, as a line of a label."""
    counts = [str(count) for _, count in info.parts]
    return "\\n" + " + ".join(counts) if counts else ""


def _legend(plan: ChannelPlan, colours: Mapping[str, tuple[str, str]]) -> str:
    rows = [
        f'<tr><td bgcolor="{colours[group.name][0]}" align="left">{html.escape(group.name)}: {group.size}'
        f"{'' if group.frozen is None else ' (frozen)'}</td></tr>"
        for group in plan.groups
    ]
    table = '<table border="0" cellborder="0" cellspacing="1"><tr><td>channel groups</td></tr>' + "".join(rows)
    return f'  "channel groups" [shape=plaintext style="" label=<{table}</table>>];'


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
