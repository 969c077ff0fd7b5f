"""A region as the body of a ``forward``: one statement an operator, with names that a person can follow."""

from __future__ import annotations

import dataclasses
import difflib
import keyword
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from conet_fx.errors import ExportError
from conet_fx.export.expressions import (
    BINARY,
    BUILTINS,
    IN_PLACE,
    UNARY,
    Imports,
    Text,
    arguments,
    call,
    index,
    literal,
    nest,
)
from conet_fx.export.regions import Region, is_flag, within
from conet_fx.passes.nodes import leaves

Access = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Forward:
    """The parameters of a method ``forward`` and the lines of its body."""

    parameters: tuple[str, ...]
    lines: tuple[str, ...]


def of_both_modes(in_train: Forward, in_eval: Forward) -> Forward:
    """One method with the lines of both modes, each line that both have once."""

    def lines(forward: Forward) -> tuple[str, ...]:
        names = ", ".join(forward.parameters)
        unpacked = f"{names} = inputs" if len(forward.parameters) > 1 else f"({names},) = inputs"
        return (unpacked, *forward.lines) if differ and names else forward.lines

    differ = in_train.parameters != in_eval.parameters
    trained, other = lines(in_train), lines(in_eval)
    joined: list[str] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, trained, other, autojunk=False).get_opcodes():
        if kind == "equal":
            joined += trained[i:j]
        elif i < j:
            joined += ["if self.training:", *(f"    {line}" for line in trained[i:j])]
            if trained[j - 1].startswith("return "):
                joined += other[k:m]
            elif k < m:
                joined += ["else:", *(f"    {line}" for line in other[k:m])]
        else:
            joined += ["if not self.training:", *(f"    {line}" for line in other[k:m])]
    return Forward(("*inputs",) if differ else in_eval.parameters, tuple(joined))


def kinds_of(graph: Graph) -> dict[Node, str]:
    """``"shape"``, ``"number"``, ``"item"`` (one of several results) or ``"check"`` (of an argument that an assertion
    compares with what it was when the graph was made) for the nodes that are certain to be one.

    Such values never change, so that their expressions may stand where they are used.
    """
    kinds: dict[Node, str] = {}
    for node in graph.nodes:
        if kind := _kind(node, kinds):
            kinds[node] = kind
    return kinds


def _kind(node: Node, kinds: Mapping[Node, str]) -> str | None:
    if node.kwargs:
        return None
    match node.op, node.target, node.args:
        case "call_method", "size", (Node(), _):
            return "number"
        case "call_method", "size", (Node(),):
            return "shape"
        case "call_method", "dim" | "ndimension" | "numel", (Node(),):
            return "number"
        case "call_function", function, (Node(), "shape") if function is getattr:
            return "shape"
        case "call_function", function, (Node(), "ndim") if function is getattr:
            return "number"
        case "call_function", function, (Node() as base, int()) if function is operator.getitem:
            if kinds.get(base) in ("shape", "number"):
                return "number" if kinds[base] == "shape" else None
            return "item" if _gives_several(base) and not _is_written(node) else None
        case "call_function", function, (Node() as base, slice()) if function is operator.getitem:
            return "shape" if kinds.get(base) == "shape" else None
        case "call_function", operator.eq | operator.ne, (Node(op="placeholder"), _) if _is_asserted(node):
            return "check"
        case "call_function", function, args if function in BINARY or function in UNARY:
            return "number" if all(_is_number(argument, kinds) for argument in args) else None
    return None


def _is_number(argument: Any, kinds: Mapping[Node, str]) -> bool:
    return kinds.get(argument) == "number" if isinstance(argument, Node) else isinstance(argument, int | float)


def _is_asserted(node: Node) -> bool:
    return [user.target for user in node.users] == [torch._assert]


def _gives_several(node: Node) -> bool:
    """Whether nothing but single items of the value are looked at."""
    return all(
        user.target is operator.getitem and user.args[0] is node and type(user.args[1]) is int for user in node.users
    )


def _is_written(node: Node) -> bool:
    """Whether something may change the form of the value in place."""
    return any(user.op == "call_method" and str(user.target).endswith("_") for user in node.users)


def write_forward(
    region: Region, kinds: Mapping[Node, str], access: Access, imports: Imports, graph: Graph | None = None
) -> Forward:
    """The method that computes ``region``. ``access`` says how it reaches a module or tensor by its path.

    ``graph``: given for the root, which takes the graph's inputs and returns its outputs.

    Raises:
        ExportError: an input has a name that the body needs for something else.
    """
    return _Writer(region, kinds, access, imports, graph).write()


class _Writer:
    """Writes one method. Statements are the items of the region that have a line of their own."""

    def __init__(
        self,
        region: Region,
        kinds: Mapping[Node, str],
        access: Access,
        imports: Imports,
        graph: Graph | None,
    ) -> None:
        self.region, self.kinds, self.access, self.imports = region, kinds, access, imports
        placeholders = graph.find_nodes(op="placeholder") if graph else []
        self.inputs: Sequence[Node] = placeholders if graph else region.inputs
        self.returned: Any = graph.find_nodes(op="output")[0].args[0] if graph else _tuple_of(region.outputs)
        self.is_root = graph is not None
        self.expressions: dict[Node, Text] = {}  # of what is read where it is used, once it was come across
        self.names: dict[Node, str] = {}
        self.lines: list[str] = []
        self.own = {item for item in region.items if isinstance(item, Node)}
        self.joined = self._joined()
        self.depths: dict[Node, int] = {}  # of expressions of numbers; 0 for what has a name
        for item in region.items:
            if isinstance(item, Node):
                depth = 1 + max((self.depths.get(node, 0) for node in item.all_input_nodes), default=0)
                self.depths[item] = depth if self._is_computed_once(item) and depth <= _DEEPEST else 0
        items = [item for item in region.items if not (isinstance(item, Node) and self._is_read_in_place(item))]
        self.last = self._last_uses(items)
        self.items = items

    def write(self) -> Forward:
        parameters = self._parameters()
        self._name_values()
        waiting: list[Node] = []  # what is read off a tensor, and may be read where it is used if that comes next
        for item in self.items:
            if isinstance(item, Node) and self._may_wait(item):
                waiting.append(item)
                continue
            self._settle(waiting, self._operands(item))
            waiting = []
            self.lines += self._statement(item)
        self._settle(waiting, self._reached(self.returned))
        self._return()
        return Forward(parameters, tuple(self.lines))

    # --- what stands where ----------------------------------------------------------------------------------

    def _joined(self) -> set[Node]:
        """Calls of which one item is all that is used, by the very next operator."""
        pairs = zip(self.region.items, self.region.items[1:], strict=False)
        return {
            call
            for call, item in pairs
            if isinstance(call, Node) and isinstance(item, Node) and self.kinds.get(item) == "item"
            if item.args[0] is call and len(call.users) == 1 and len(item.users) > 0
        }

    def _is_read_in_place(self, node: Node) -> bool:
        """Whether the node's expression stands wherever its value is used."""
        if node in self.joined:
            return True
        kind = self.kinds.get(node)
        if kind is not None and not node.users:  # an assertion that held when the graph was made
            return True
        if kind == "item":
            return node.args[0] not in self.joined
        if kind in ("number", "shape") and node.target is operator.getitem:
            return True
        return self.depths[node] > 0

    def _is_computed_once(self, node: Node) -> bool:
        """Whether the value is a number or a check that is computed from others, and used once."""
        computed = self.kinds.get(node) in ("number", "check") and (node.target in BINARY or node.target in UNARY)
        return computed and len(node.users) == 1

    def _is_once(self, node: Node) -> bool:
        """Whether the value is used once, also where an expression that it is part of is."""
        users = list(node.users)
        if len(users) != 1:
            return False
        return not (users[0] in self.own and self._is_read_in_place(users[0])) or self._is_once(users[0])

    def _may_wait(self, node: Node) -> bool:
        return (
            self.kinds.get(node) in ("number", "shape")
            and (node.op == "call_method" or node.target is getattr)
            and self._is_once(node)
        )

    def _reached(self, nest_of_nodes: Any) -> list[Node]:
        """Nodes that an argument reads, also through the expressions in it, in the order in which they are read."""
        found: dict[Node, None] = {}
        rest = [leaf for leaf in leaves(nest_of_nodes) if isinstance(leaf, Node)]
        while rest:
            node = rest.pop(0)
            found[node] = None
            if node in self.own and (self._is_read_in_place(node) or self._may_wait(node)):
                rest = [*node.all_input_nodes, *rest]
        return list(found)

    def _operands(self, item: Node | Region) -> list[Node]:
        if isinstance(item, Region):
            return self._reached(list(item.inputs))
        return self._reached(item.all_input_nodes)

    def _last_uses(self, items: Sequence[Node | Region]) -> dict[Node, int]:
        """The number of the last statement that reads each value."""
        last: dict[Node, int] = {}
        for number, item in enumerate(items):
            last.update((node, number) for node in self._operands(item))
        last.update((node, len(items)) for node in self._reached(self.returned))
        return last

    # --- names ----------------------------------------------------------------------------------------------

    def _parameters(self) -> tuple[str, ...]:
        """Declarations of the inputs, whose names are settled here."""
        if not self.is_root:
            some = dict(enumerate("xyz")) if len(self.inputs) <= 3 else {}
            self.names = {node: some.get(i, f"x{i}") for i, node in enumerate(self.inputs)}
            return tuple(self.names.values())
        declared = []
        for node in self.inputs:
            target = str(node.target)
            self.names[node] = target.lstrip("*")
            declared.append(target + (f"={literal(node.args[0]).text}" if node.args else ""))
        return tuple(declared)

    def _name_values(self) -> None:
        """Let a value take over the name of the one that it is made of, where that is not needed any more."""
        chains: dict[Node, list[Node]] = {node: [node] for node in self.inputs}
        chain_of = dict(chains)
        for number, item in enumerate(self.items):
            made = item.outputs if isinstance(item, Region) else (item,)
            first = next((n for n in self._operands(item) if n in chain_of), None)
            takes_over = (
                len(made) == 1
                and first is not None
                and self.last[first] == number
                and not {made[0], first} & self.kinds.keys()
                and made[0] in self.last
                and not _gives_several(made[0])
                and not _gives_several(first)
            )
            for node in made:
                chain = chain_of[first] if takes_over and first is not None else chains.setdefault(node, [])
                chain.append(node)
                chain_of[node] = chain
        taken = {*self.names.values(), *_RESERVED, *BUILTINS}
        for start, chain in chains.items():
            if start in self.names:
                self.names.update((node, self.names[start]) for node in chain)
                continue
            name = _unused(_plain_name(start, self.region) if len(chain) == 1 else "y", taken)
            taken.add(name)
            self.names.update((node, name) for node in chain)

    # --- lines ----------------------------------------------------------------------------------------------

    def _text(self, node: Node) -> Text:
        """How an expression names a value."""
        if node in self.names and not (node in self.own and (self._is_read_in_place(node) or node in self.expressions)):
            return Text(self.names[node])
        if is_flag(node):
            return Text("self.training")
        if node.op == "get_attr" and within(str(node.target), self.region.path):
            return Text(self.access(str(node.target)))
        return self._expression(node)

    def _expression(self, node: Node) -> Text:
        if node.op == "call_module":
            return Text(f"{self.access(str(node.target))}({arguments(node.args, node.kwargs, self._text)})")
        return call(node, self._text, self.imports)

    def _settle(self, waiting: Iterable[Node], wanted: Collection[Node]) -> None:
        """Read what waits: in the next statement where that wants it, else now."""
        for node in waiting:
            if node in wanted:
                self.expressions[node] = Text("")
            else:
                self.lines.append(f"{self.names[node]} = {self._expression(node).text}")

    def _statement(self, item: Node | Region) -> list[str]:
        if isinstance(item, Region):
            given = ", ".join(self._text(node).text for node in item.inputs)
            made = ", ".join(self.names[node] for node in item.outputs)
            return [(f"{made} = " if made else "") + f"{self.access(item.path)}({given})"]
        if item.target is operator.setitem:
            owner, key, value = item.args
            owner_text = nest(owner, self._text).text
            return [f"{owner_text}[{index(key, self._text)}] = {nest(value, self._text).text}"]
        name = self.names[item]
        if item.target in IN_PLACE and isinstance(item.args[0], Node) and self._text(item.args[0]).text == name:
            return [f"{name} {IN_PLACE[item.target]} {nest(item.args[1], self._text).text}"]
        text = self._expression(item).text
        return [f"{name} = {text}" if item in self.last else text]

    def _return(self) -> None:
        if self.returned == () and not self.is_root:
            self.lines = self.lines or ["pass"]
            return
        text = nest(self.returned, self._text).text
        if isinstance(self.returned, tuple) and len(self.returned) > 1:
            text = text[1:-1]
        start = f"{text} = "
        if self.lines and self.lines[-1].startswith(start) and text.isidentifier():
            self.lines[-1] = f"return {self.lines[-1].removeprefix(start)}"
        else:
            self.lines.append(f"return {text}")
        used = {word for line in self.lines for word in re.findall(r"(?<![\w.\"'])([A-Za-z_]\w*)(?=[.(])", line)}
        for name in {self.names[node] for node in self.inputs} & used & {*_FUNCTIONS, *self._packages()}:
            if self.is_root:
                raise ExportError(f"an input of the network is called {name!r}, which its source needs as a function")

    def _packages(self) -> Iterator[str]:
        return (package.partition(".")[0] for package in self.imports.modules)


_DEEPEST = 4  # expression of numbers that has no names within
_FUNCTIONS = frozenset(("F", "float", "len", "math", "nn", "operator", "slice", "torch", "tuple"))
_RESERVED = frozenset((*keyword.kwlist, "F", "Tensor", "nn", "torch", "self", "math", "operator", "torchvision"))


def _tuple_of(nodes: Sequence[Node]) -> Any:
    return nodes[0] if len(nodes) == 1 else tuple(nodes)


def _plain_name(node: Node, region: Region) -> str:
    """What a person would call the value: the layer or the function that makes it."""
    made_by = next((i.path for i in region.items if isinstance(i, Region) and node in i.outputs), None)
    if made_by is None and node.op == "call_module":
        made_by = str(node.target)
    if made_by is not None:
        *rest, name = made_by.split(".")
        name = f"{rest[-1]}_{name}" if name.isdigit() and rest else name
    elif node.target is getattr:
        name = str(node.args[1])
    elif node.target is operator.getitem:
        name = "part"
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "value")
    name = re.sub(r"\W+", "_", name).strip("_")
    return name if name.isidentifier() else f"value_{name}"


def _unused(name: str, taken: Collection[str]) -> str:
    if name == "y" and name in taken and "z" not in taken:
        return "z"
    number, unused = 0, name
    while unused in taken:
        number += 1
        unused = f"{name}{number}" if not name[-1].isdigit() else f"{name}_{number}"
    return unused
