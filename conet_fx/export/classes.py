"""The modules of a network as constructor calls and classes; those that differ in numbers only share one class."""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import itertools
import keyword
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

from conet_fx.errors import ExportError
from conet_fx.export.expressions import BUILTINS, Imports, literal, quoted
from conet_fx.export.layout import wrapped
from conet_fx.export.numbers import numbers_in, with_numbers, without_numbers
from conet_fx.export.regions import Region, is_chain, prefixes, regions_of, relative
from conet_fx.export.statements import Forward, kinds_of, of_both_modes, write_forward
from conet_fx.passes.paths import MODES, has_two_paths, path_of
from conet_fx.recipe.build import constructor
from conet_fx.recipe.names import classes
from conet_fx.recipe.spec import ModuleSpec, Recipe, TensorSpec
from conet_fx.recipe.values import decode

FEW = 16  # numbers of a buffer that are written out


@dataclasses.dataclass(frozen=True)
class Hole:
    """A number, or another argument, that may differ between modules of one class.

    Attributes:
        path: the module whose argument it is.
        name: of the argument.
        text: its value.
        default: what may be left out, or None.
        keyword: whether the name stands before the value.
    """

    path: str
    name: str
    text: str
    default: str | None = None
    keyword: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """``open`` parts ``close``, with the holes in any depth. Parts are labelled (``"key": part``) by ``labels``."""

    open: str
    parts: tuple[Call | Hole, ...]
    close: str = ")"
    labels: tuple[str, ...] = ()

    def holes(self) -> Iterator[Hole]:
        for part in self.parts:
            if isinstance(part, Hole):
                yield part
            else:
                yield from part.holes()

    def text(self, values: Iterator[str | None]) -> str:
        """The expression with the next values in its holes; None leaves an argument out."""
        texts = []
        for number, part in enumerate(self.parts):
            label = self.labels[number] if self.labels else ""
            if isinstance(part, Call):
                texts.append(label + part.text(values))
            elif (value := next(values)) is not None:
                texts.append(label + (f"{part.name}={value}" if part.keyword else value))
        return self.open + ", ".join(texts) + self.close


@dataclasses.dataclass(frozen=True)
class Body:
    """What a class consists of: statements of its constructor (a start, then a call), and its ``forward``."""

    base: str
    init: tuple[tuple[str, Call], ...]
    forward: Forward | None

    def holes(self) -> list[Hole]:
        """Those of the constructor, then the numbers in ``forward``."""
        return [*(hole for _, call in self.init for hole in call.holes()), *self.numbers()]

    def numbers(self) -> list[Hole]:
        lines = self.forward.lines if self.forward else ()
        return [Hole("", number.name, number.text) for line in lines for number in numbers_in(line)]

    def skeleton(self) -> str:
        """The same text for bodies that differ in what is in the holes only."""
        blanks = itertools.repeat("_")
        init = [start + call.text(blanks) for start, call in self.init]
        forward = self.forward and (self.forward.parameters, without_numbers(self.forward.lines))
        return repr((self.base, init, forward))


@dataclasses.dataclass(frozen=True)
class Way:
    """A graph that the network runs, in both modes or in one, and what belongs to which module in it."""

    graph: Graph
    regions: Mapping[str, Region]
    kinds: Mapping[Node, str]


class Writer:
    """Writes the classes of one network; :attr:`blocks` has their lines in the order of the file."""

    def __init__(self, recipe: Recipe, graph: Graph, name: str, imports: Imports) -> None:
        self.recipe, self.imports = recipe, imports
        self.leaves = {path: spec for path, spec in recipe.modules.items() if spec.cls or spec.same_as}
        self.aliases = {path: spec.same_as for path, spec in recipe.modules.items() if spec.same_as}
        containers = [path for path in recipe.modules if path not in self.leaves]
        graphs = [path_of(graph, mode) for mode in MODES] if has_two_paths(graph) else [graph]
        self.ways = [Way(path, regions_of(path, containers, self.leaves), kinds_of(path)) for path in graphs]
        regions = dict.fromkeys(path for way in self.ways for path in way.regions)
        self.containers = dict.fromkeys((*containers, *regions))
        self.children: dict[str, list[str]] = {path: [] for path in self.containers}
        for path in (*recipe.modules, *regions):
            parent = path.rpartition(".")[0]
            if path and path not in self.children[parent]:
                self.children[parent].append(path)
        used = _first_uses(graph)
        for children in self.children.values():  # as they are called, since that is how people write them down
            names = [child.rpartition(".")[2] for child in children]
            if all(name.isdigit() for name in names):
                children.sort(key=lambda child: int(child.rpartition(".")[2]))
            else:
                children.sort(key=lambda child: used.get(child, len(used)))
        self.tensors: dict[str, dict[str, TensorSpec]] = collections.defaultdict(dict)
        for tensor, spec in recipe.tensors.items():
            owner, _, key = tensor.rpartition(".")
            self.tensors[owner][key] = spec
        self.blocks: list[list[str]] = []
        self.taken = {*BUILTINS, *keyword.kwlist, "F", "nn", "torch", "OrderedDict", "torchvision", "math", "operator"}
        self.taken.add(name)
        self.instances: dict[str, Call] = {}
        self._write_classes()
        self._write_root(name)

    # --- kinds of modules -----------------------------------------------------------------------------------

    @functools.cache  # noqa: B019  # the writer lives as long as one file is written
    def kind(self, path: str) -> str:
        """How the container at ``path`` is written: ``sequential``, ``named`` (a Sequential with names), ``list``,
        ``dict``, ``parameters``, ``class``, ``class list`` (with a list as its base) or ``plain``.
        """
        children, regions = self.children[path], [way.regions[path] for way in self.ways if path in way.regions]
        names = [child.rpartition(".")[2] for child in children]
        numbered = bool(names) and names == [str(i) for i in range(len(names))]
        simple = bool(children) and not self.tensors[path] and not any(child in self.aliases for child in children)
        if path == "":
            return "class list" if simple and numbered else "class"
        if regions:
            named = numbered or all(map(_is_plain, names))
            if simple and named and all(is_chain(each) and _called(each) == children for each in regions):
                return "sequential" if numbered else "named"
            return "class list" if simple and numbered else "class"
        if simple and numbered:
            return "list"
        if simple and not any(hasattr(nn.ModuleDict, name) for name in names):
            return "dict"
        own = self.tensors[path]
        listed = not children and own and [*own] == [str(i) for i in range(len(own))]
        if listed and all(spec.parameter and spec.same_as is None for spec in own.values()):
            return "parameters"
        return "plain"

    def access(self, path: str, owner: str) -> str:
        """How a method of the class at ``owner`` reaches the module or tensor at ``path``."""
        text, here = "self", owner
        for name in relative(path, owner).split("."):
            kind = self.kind(here) if here in self.containers else "leaf"
            below = f"{here}.{name}" if here else name
            if kind in ("sequential", "list", "class list", "parameters"):
                text += f"[{name}]"
            elif kind == "dict":
                text += f"[{quoted(name)}]"
            elif _is_plain(name):
                text += f".{name}"
            elif below in self.recipe.tensors:
                what = "parameter" if self.recipe.tensors[below].parameter else "buffer"
                text += f".get_{what}({quoted(name)})"
            else:
                text += f".get_submodule({quoted(name)})"
            here = below
        return text

    # --- constructors ---------------------------------------------------------------------------------------

    def construct(self, path: str) -> Call:
        """The module at ``path`` as a constructor call."""
        if path in self.leaves:
            return self._leaf(path, self.leaves[path])
        kind = self.kind(path)
        if kind.startswith("class"):
            return self.instances[path]
        parts = tuple(self.construct(child) for child in self.children[path])
        names = [child.rpartition(".")[2] for child in self.children[path]]
        match kind:
            case "sequential":
                return Call("nn.Sequential(", parts)
            case "named":
                self.imports.modules.add("collections")
                pairs = tuple(Call(f"({quoted(n)}, ", (part,)) for n, part in zip(names, parts, strict=True))
                return Call("nn.Sequential(OrderedDict([", pairs, "]))")
            case "list":
                return Call("nn.ModuleList([", parts, "])")
            case "dict":
                return Call("nn.ModuleDict({", parts, "})", tuple(f"{quoted(name)}: " for name in names))
            case "parameters":
                own = tuple(self._tensor(path, key, spec) for key, spec in self.tensors[path].items())
                return Call("nn.ParameterList([", own, "])")
        return Call("nn.Module(", ())

    def _leaf(self, path: str, spec: ModuleSpec) -> Call:
        cls = classes()[spec.cls or ""]
        arguments = {name: decode(value, {}) for name, value in spec.arguments.items()}
        function = self.imports.name(cls)
        if not arguments.pop("packed", True) and self._has_one_width(arguments):
            function = UNPACKED
        holes = []
        for name, default in constructor(cls).items():
            if name not in arguments:
                continue
            required = default is _EMPTY
            text = literal(_simple(cls, arguments[name])).text
            if (cls, name) == (parametrizations._SpectralNorm, "weight_shape"):  # it takes a weight
                text = f"torch.zeros{text}"
            holes.append(Hole(path, name, text, None if required else literal(default).text, not required))
        dtype = self._dtype(path)
        return Call(f"{function}(", tuple(holes), ")" if dtype is None else f").to({dtype})")

    @staticmethod
    def _has_one_width(arguments: Mapping[str, Any]) -> bool:
        return all(arguments.get(name) in (None, arguments["embed_dim"]) for name in ("kdim", "vdim"))

    def _dtype(self, path: str) -> torch.dtype | None:
        """The floating type of a leaf where it is not the usual one, nor that of the whole network."""
        found = self._float_types(path)
        if len(found) > 1:
            raise ExportError(
                f"module {path!r} has tensors of several types ({', '.join(map(str, sorted(found, key=str)))}), which "
                "no constructor makes: convert it to one type before the export"
            )
        return next(iter(found - {torch.float32}), None) if self.one_type is None else None

    def _float_types(self, path: str) -> set[torch.dtype]:
        weights = self.recipe.weights
        names = [f"{path}.{key}" if path else key for key in self._tensor_keys(path)]
        tensors = [weights[self.recipe.tensors[name].same_as or name] for name in names]
        return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}

    def _tensor_keys(self, path: str) -> list[str]:
        return [relative(name, path) for name in self._below.get(path, ())]

    @functools.cached_property
    def _below(self) -> Mapping[str, Sequence[str]]:
        """The tensors that lie in a module, at any depth."""
        found: dict[str, list[str]] = {"": list(self.recipe.tensors)}
        for name in self.recipe.tensors:
            for path in prefixes(name.rpartition(".")[0]):
                found.setdefault(path, []).append(name)
        return found

    @functools.cached_property
    def one_type(self) -> torch.dtype | None:
        """The floating type of all tensors, where it is one and not float32."""
        match [*self._float_types("")]:
            case [dtype] if dtype != torch.float32:
                return dtype
        return None

    def _tensor(self, path: str, key: str, spec: TensorSpec) -> Call:
        """A parameter or buffer that is used directly. Its values come from the weights, those of a few constants are
        written out.
        """
        value = self.recipe.weights[f"{path}.{key}" if path else key]
        dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
        if not spec.parameter and value.numel() <= FEW and not value.is_complex():
            numbers = Hole(path, key, literal(value.tolist()).text)
            shape = f".reshape({tuple(value.shape)})" if value.numel() == 0 else ""
            return Call("torch.tensor(", (numbers,), f"{dtype or ', dtype=torch.float32'}){shape}")
        sizes = tuple(Hole(path, f"{key}_size_{i}", str(n)) for i, n in enumerate(value.shape))
        made = Call("torch.zeros(", sizes or (Hole(path, f"{key}_size", "()"),), f"{dtype})")
        if not spec.parameter:
            return made
        trains = "" if value.is_floating_point() or value.is_complex() else ", requires_grad=False"
        return Call("nn.Parameter(", (made,), f"{trains})")

    # --- classes --------------------------------------------------------------------------------------------

    def _write_classes(self) -> None:
        """Write the classes from the innermost outwards; modules of one class are those with one skeleton."""
        heights: dict[str, int] = {}
        for path in sorted(self.containers, key=lambda path: path.count("."), reverse=True):
            inner = [heights[child] + 1 for child in self.children[path] if child in heights]
            heights[path] = max(inner, default=0)
        for height in range(max(heights.values()) + 1):
            level = [p for p in self.containers if heights[p] == height and p and self.kind(p).startswith("class")]
            alike: dict[str, list[tuple[str, Body]]] = {}
            for path in level:
                body = self._body(path)
                alike.setdefault(body.skeleton(), []).append((path, body))
            for members in alike.values():
                self._write_class(members)

    def _body(self, path: str) -> Body:
        return Body(*self._constructor(path, self.kind(path)), self._forward(path))

    def _forward(self, path: str) -> Forward:
        """The method of the class at ``path``, with both paths where the modes differ in it."""
        forwards = [
            write_forward(
                way.regions[path],
                way.kinds,
                lambda inner: self.access(inner, path),
                self.imports,
                None if path else way.graph,
            )
            for way in self.ways
            if path in way.regions
        ]
        return forwards[0] if len(set(forwards)) == 1 else of_both_modes(*forwards)

    def _constructor(self, path: str, kind: str) -> tuple[str, tuple[tuple[str, Call], ...]]:
        """The base class and the statements of the constructor."""
        lines: list[tuple[str, Call]] = []
        if kind == "class list":
            parts = tuple(self.construct(child) for child in self.children[path])
            lines.append(("super().__init__(", Call("[", parts, "])")))
            base = "nn.ModuleList"
        else:
            base = "nn.Module"
            if self.children[path] or self.tensors[path]:
                lines.append(("super().__init__(", Call("", ())))
        self._fill(path, path, lines, kind != "class list")
        return base, tuple(lines)

    def _fill(self, path: str, owner: str, lines: list[tuple[str, Call]], children: bool = True) -> None:
        """Statements that give the module at ``path`` its tensors and children, and fill plain modules among them."""
        here = self.access(path, owner) if path != owner else "self"
        for key, spec in self.tensors[path].items() if self.kind(path) != "parameters" else ():
            if spec.same_as is not None:
                continue
            made = self._tensor(path, key, spec)
            if not spec.parameter:
                rest = "" if spec.persistent else ", persistent=False"
                lines.append((f"{here}.register_buffer({quoted(key)}, ", Call("", (made,), f"{rest})")))
            elif _is_plain(key):
                lines.append((f"{here}.{key} = ", made))
            else:
                lines.append((f"{here}.register_parameter({quoted(key)}, ", Call("", (made,))))
        for child in self.children[path]:
            name = child.rpartition(".")[2]
            if children and child not in self.aliases:
                made = self.construct(child)
                if _is_plain(name):
                    lines.append((f"{here}.{name} = ", made))
                else:
                    lines.append((f"{here}.add_module({quoted(name)}, ", Call("", (made,))))
            if child in self.containers and not self.kind(child).startswith("class"):
                self._fill(child, owner, lines, self.kind(child) == "plain")

    def _write_class(self, members: Sequence[tuple[str, Body]]) -> None:
        """One class for modules with one skeleton, whose arguments are what differs between them."""
        paths, bodies = zip(*members, strict=True)
        rows = [body.holes() for body in bodies]
        columns = list(zip(*rows, strict=True))
        parts = {*(child.rpartition(".")[2] for child in self.children[paths[0]]), *self.tensors[paths[0]]}
        parameters = _parameters(columns, paths, parts)
        name = self._class_name(paths)
        values = [
            parameters.get(tuple(hole.text for hole in column))
            or (None if column[0].text == column[0].default else column[0].text)
            for column in columns
        ]
        self.blocks.append(self._class_lines(name, list(parameters.values()), bodies[0], values))
        firsts: dict[str, int] = {}
        for number, column in enumerate(columns):
            if parameter := parameters.get(tuple(hole.text for hole in column)):
                firsts.setdefault(parameter, number)
        for path, row in zip(paths, rows, strict=True):
            several = len(firsts) > 2
            holes = (Hole(path, p, row[number].text, None, several) for p, number in firsts.items())
            self.instances[path] = Call(f"{name}(", tuple(holes))

    def _class_lines(self, name: str, parameters: list[str], body: Body, values: Sequence[str | None]) -> list[str]:
        given = iter(values)
        init = [start + call.text(given) for start, call in body.init]
        numbers = [str(value) for value in given]
        kept = [parameter for parameter in parameters if parameter in numbers]
        if kept and not init:
            init.append("super().__init__()")
        init += (f"self.{parameter} = {parameter}" for parameter in kept)
        lines = [f"class {name}({body.base}):"]
        if init:
            lines += wrapped(f"def __init__({', '.join(['self', *parameters])}):", 1)
            for line in init:
                lines += wrapped(line, 2)
        if body.forward is not None:
            lines += [""] * bool(init)
            lines += wrapped(f"def forward({', '.join(['self', *body.forward.parameters])}):", 1)
            written = iter(f"self.{number}" if number in kept else number for number in numbers)
            for line in body.forward.lines:
                text = with_numbers(line.lstrip(" "), written)
                lines += wrapped(text, 2 + (len(line) - len(line.lstrip(" "))) // 4)
        return lines

    def _class_name(self, paths: Sequence[str]) -> str:
        """A name from the paths of the modules, without the numbers in which they differ."""
        stems = collections.Counter(_stem(path, len(paths) > 1) for path in paths)
        ((stem, _),) = stems.most_common(1)
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}{number}" if not stem[-1].isdigit() else f"{stem}_{number}"
        self.taken.add(name)
        return name

    # --- the network ----------------------------------------------------------------------------------------

    def _write_root(self, name: str) -> None:
        base, init = self._constructor("", self.kind(""))
        last = ((line, Call("", (), "")) for line in self._last_statements())
        body = Body(base, (*init, *last), self._forward(""))
        values = [None if hole.text == hole.default else hole.text for hole in body.holes()]
        self.blocks.append(self._class_lines(name, [], body, values))

    def _last_statements(self) -> Iterator[str]:
        """What concerns the whole network: its type, what is shared, what does not train."""
        if self.one_type is not None:
            yield f"self.to({self.one_type})"
        for path, first in self.aliases.items():
            parent, _, name = path.rpartition(".")
            owner, module = self.access(parent, "") if parent else "self", self.access(str(first), "")
            yield f"{owner}.{name} = {module}" if _is_plain(name) else f"{owner}.add_module({quoted(name)}, {module})"
        for tensor, spec in self.recipe.tensors.items():
            path, _, key = tensor.rpartition(".")
            if spec.same_as is None or not self.aliases.keys().isdisjoint(prefixes(path)):
                continue
            owner, other = self.access(path, "") if path else "self", self.access(spec.same_as, "")
            if self.recipe.tensors[spec.same_as].parameter:
                yield (
                    f"{owner}.{key} = {other}"
                    if _is_plain(key)
                    else (f"{owner}.register_parameter({quoted(key)}, {other})")
                )
            else:
                rest = "" if spec.persistent else ", persistent=False"
                yield f"{owner}.register_buffer({quoted(key)}, {other}{rest})"
        own = {name: spec for name, spec in self.recipe.tensors.items() if spec.parameter and spec.same_as is None}
        still = [
            name
            for name, spec in own.items()
            if not spec.requires_grad and self.recipe.weights[name].is_floating_point()
        ]
        if still and len(still) == len(own):
            yield "self.requires_grad_(False)"
        else:
            yield from (f"{self.access(name, '')}.requires_grad_(False)" for name in still)


UNPACKED = "unpacked_attention"
UNPACKED_SOURCE = '''def unpacked_attention(embed_dim, num_heads, **options):
    """An attention that has three weights, though its inputs are of one width."""
    attention = nn.MultiheadAttention(embed_dim, num_heads, **{**options, "kdim": embed_dim + 1})
    attention.kdim = embed_dim
    attention.k_proj_weight = nn.Parameter(torch.empty(embed_dim, embed_dim))
    return attention'''
_EMPTY: Any = inspect.Parameter.empty


def _first_uses(graph: Graph) -> dict[str, int]:
    """The number of the first node that calls a module, or something in it, by path."""
    first: dict[str, int] = {}
    for number, node in enumerate(graph.nodes):
        path = str(node.target) if node.op in ("call_module", "get_attr") else node.meta.get("scope", "")
        for prefix in prefixes(path):
            first.setdefault(prefix, number)
    return first


def _called(region: Region) -> list[str]:
    """The paths of the parts of a chain."""
    return [item.path if isinstance(item, Region) else str(item.target) for item in region.items]


def _is_plain(name: str) -> bool:
    """Whether ``self.name`` means that attribute."""
    mangled = name.startswith("__") and not name.endswith("__")
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not mangled


def _simple(cls: type[nn.Module], value: Any) -> Any:
    """One number for the same one in each dim of a convolution."""
    if isinstance(value, tuple) and value and all(type(n) is int for n in value):
        if issubclass(cls, (_ConvNd, DeformConv2d)) and len(set(value)) == 1:
            return value[0]
        if issubclass(cls, (nn.LayerNorm, nn.RMSNorm)) and len(value) == 1:
            return value[0]
    return value


def _parameters(
    columns: Sequence[tuple[Hole, ...]], paths: Sequence[str], parts: Collection[str]
) -> dict[tuple[str, ...], str]:
    """The parameters of a class: names of what differs between its instances, by its values in them. The class keeps
    those that its ``forward`` uses under their names, so that none is that of one of its parts.
    """
    varying: dict[tuple[str, ...], Hole] = {}
    for column in columns:
        values = tuple(hole.text for hole in column)
        if len(set(values)) > 1:
            varying.setdefault(values, column[0])
    arguments = collections.Counter(hole.name for hole in varying.values())
    names: dict[tuple[str, ...], str] = {}
    for values, hole in varying.items():
        part = relative(hole.path, paths[0]) if hole.path not in ("", paths[0]) else ""
        name = hole.name if arguments[hole.name] == 1 or not part else f"{part}_{hole.name}"
        name = re.sub(r"\W+", "_", name)
        name = first = f"_{name}" if name[0].isdigit() else name
        number = 1
        while name in names.values() or name in parts or name in _TAKEN or keyword.iskeyword(name):
            number += 1
            name = f"{first}_{number}"
        names[values] = name
    return names


_TAKEN = {"self", *dir(nn.ModuleList())}


def _stem(path: str, several: bool) -> str:
    """``layer1.0`` -> Layer1Block, LayerBlock where it is one of several; ``blocks.0`` -> Block; ``a.stem`` -> Stem."""
    names = path.split(".")
    words = [name for name in names if not name.isdigit()] or ["block"]
    stem = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", words[-1]) if part)
    if several:
        stem = stem.rstrip("0123456789")
    if names[-1].isdigit():
        stem = stem[:-1] if stem.endswith("s") and len(stem) > 3 else stem.removesuffix("Block") + "Block"
    return stem if stem.isidentifier() else f"Block{stem}"
