"""Which module's ``forward`` each node belongs to: the flat graph as calls within calls."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn
from torch.fx import Graph, Node

from conet_fx.export.expressions import Text, nest
from conet_fx.recipe.names import qualified_name


@dataclasses.dataclass(frozen=True)
class Region:
    """One call of the module at ``path``: nodes and calls of modules within it, in execution order.

    Attributes:
        inputs: values from outside, in the order of their first use.
        outputs: values that are used outside, in the order in which they are made.
    """

    path: str
    items: tuple[Node | Region, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @property
    def nodes(self) -> list[Node]:
        """All nodes within, in execution order."""
        return list(itertools.chain.from_iterable([i] if isinstance(i, Node) else i.nodes for i in self.items))


def regions_of(graph: Graph, containers: Collection[str], leaves: Collection[str]) -> dict[str, Region]:
    """The root's region under ``""``, and a region for each module whose calls can be told from the rest.

    A module that runs in several pieces that differ (a list of layers that a loop runs through) has no region: what it
    holds belongs to the region around it. Reads of attributes belong to none.

    Args:
        containers: paths of the modules that are no leaves.
        leaves: paths of the modules that are one call each.
    """
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    scopes = _scopes(nodes, frozenset(containers), frozenset(leaves))
    open_paths = {path for scope in scopes.values() for path in prefixes(scope)}
    functions = {scopes[node] for node in nodes if node.op != "call_module"}
    while True:
        root = _build("", nodes, scopes, open_paths)
        found: dict[str, list[Region]] = {}
        for region in _walk(root):
            found.setdefault(region.path, []).append(region)
        torn = {path for path, runs in found.items() if path and not _is_one_forward(runs, scopes, path in functions)}
        if not torn:
            return {path: runs[0] for path, runs in found.items()}
        open_paths -= {path for path in torn if not torn.intersection(list(prefixes(path))[:-1])}


def prefixes(path: str) -> Iterable[str]:
    """``a``, ``a.b``, ``a.b.c``: the paths down to ``path``, the root left out."""
    return itertools.accumulate(path.split("."), lambda a, b: f"{a}.{b}") if path else ()


def within(path: str, owner: str) -> bool:
    """True where ``path`` lies below the module at ``owner``."""
    return not owner or path.startswith(f"{owner}.")


def relative(path: str, owner: str) -> str:
    return path[len(owner) + 1 :] if owner else path


def is_flag(node: Node) -> bool:
    """A read of the root's ``training``: every module has its own, and all are switched together."""
    return node.op == "get_attr" and node.target == "training"


def _scopes(nodes: Sequence[Node], containers: frozenset[str], leaves: frozenset[str]) -> dict[Node, str]:
    """The path of the module whose forward each node is part of."""
    told = {node: _fitting(node.meta.get("scope", ""), containers, leaves) for node in nodes}
    scopes = {n: str(n.target).rpartition(".")[0] if n.op == "call_module" else told[n] for n in nodes}
    if not any(told.values()):  # a graph of somebody else: functions go with the layers around them
        anchors = [i for i, node in enumerate(nodes) if node.op == "call_module"]
        for before, after in itertools.pairwise(anchors):
            shared = _shared(scopes[nodes[before]], scopes[nodes[after]])
            scopes.update((node, shared) for node in nodes[before + 1 : after])
    return scopes


_NAME = re.compile(r"[A-Za-z_]\w{,60}|\d{1,9}", re.ASCII)
_TAKEN = frozenset(dir(nn.Module()))


def _fitting(scope: str, containers: frozenset[str], leaves: frozenset[str]) -> str:
    """The longest part of ``scope`` that is a module, or could be one that has nothing but functions."""
    fitting = ""
    for path in prefixes(scope):
        name = path.rpartition(".")[2]
        if path in leaves or not (path in containers or (_NAME.fullmatch(name) and name not in _TAKEN)):
            break
        fitting = path
    return fitting


def _shared(one: str, other: str) -> str:
    """The innermost module that holds both."""
    return max(set(prefixes(one)) & set(prefixes(other)), key=len, default="")


def _build(path: str, nodes: Sequence[Node], scopes: Mapping[Node, str], open_paths: Collection[str]) -> Region:
    items: list[Node | Region] = []
    for inner, group in itertools.groupby(nodes, lambda node: _inner(path, scopes[node], open_paths)):
        if inner is None:
            items += group
        else:
            items.append(_build(inner, list(group), scopes, open_paths))
    own = set(nodes)
    inputs = dict.fromkeys(
        value
        for node in nodes
        for value in node.all_input_nodes
        if value not in own and not is_flag(value) and not (value.op == "get_attr" and within(str(value.target), path))
    )
    outputs = [node for node in nodes if any(user not in own for user in node.users)]
    return Region(path, tuple(items), tuple(inputs), tuple(outputs))


def _inner(path: str, scope: str, open_paths: Collection[str]) -> str | None:
    """The module within ``path`` that a node of ``scope`` belongs to; None for ``path`` itself."""
    return next((p for p in prefixes(scope) if len(p) > len(path) and p in open_paths), None)


def _walk(region: Region) -> Iterable[Region]:
    yield region
    for item in region.items:
        if isinstance(item, Region):
            yield from _walk(item)


def _is_one_forward(runs: Sequence[Region], scopes: Mapping[Node, str], computes: bool) -> bool:
    """Whether one ``forward`` can stand for all runs. A list of layers has none, unless it is a chain of them."""
    if not computes and not is_chain(runs[0]) and all(name.isdigit() for name in _called(runs[0])):
        return False
    return len(runs) == 1 or len({_signature(run, scopes) for run in runs}) == 1


def _called(region: Region) -> list[str]:
    """Names of the parts of the module that are called."""
    paths = [i.path if isinstance(i, Region) else str(i.target) for i in region.items if not is_function(i)]
    return [relative(path, region.path).partition(".")[0] for path in paths]


def is_function(item: Node | Region) -> bool:
    return isinstance(item, Node) and item.op != "call_module"


def is_chain(region: Region) -> bool:
    """True where each part is called once, on what the one before gave, as ``nn.Sequential`` does."""
    if len(region.inputs) != 1 or len(region.outputs) != 1 or any(map(is_function, region.items)):
        return False
    value: object = region.inputs[0]
    for item in region.items:
        if isinstance(item, Region):
            given, made = item.inputs, item.outputs
        else:
            given, made = ((), ()) if item.kwargs else (item.args, (item,))  # type: ignore[assignment]
        if len(made) != 1 or [*given] != [value]:
            return False
        value = made[0]
    return value is region.outputs[0] and len(set(_called(region))) == len(region.items)


def _signature(region: Region, scopes: Mapping[Node, str]) -> str:
    """A text that is the same for runs that one ``forward`` can stand for."""
    nodes = region.nodes
    names = {node: Text(f"%{number}") for number, node in enumerate(nodes)}
    names |= {value: Text(f"${number}") for number, value in enumerate(region.inputs)}

    def name(node: Node) -> Text:
        return names[node] if node in names else Text(f"@{node.target}")

    lines = [
        f"{node.op} {node.target if isinstance(node.target, str) else qualified_name(node.target)} {scopes[node]} "
        f"{nest(node.args, name).text} {nest(dict(node.kwargs), name).text}"
        for node in nodes
    ]
    return "\n".join([*lines, *(names[node].text for node in region.outputs)])
