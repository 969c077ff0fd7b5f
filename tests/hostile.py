"""Saved networks, spoilt in ways that know the format, with checksums that fit: an attacker can compute them too.

:func:`bad_files` draws the two files; :func:`attempt` loads them and says what became of it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import conet_fx
from conet_fx import recipe
from conet_fx.errors import RecipeError
from conet_fx.recipe.files import digest

# --- networks to start from


class Convolutions(nn.Module):
    """Modules in containers, a bare parameter, functions, methods, numbers, a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.inner = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.relu(self.inner(self.conv(x))) * self.scale
        return {"out": x.view(x.shape[0], -1)[:, ::2] * 2.0, "more": [x.chunk(2, 1)[0], None, (x.mean((2, 3)),)]}


class Sequences(nn.Module):
    """Layers that make more tensors than they show: recurrent ones, attention, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, 2, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.embedding(x))
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.head(x.to(torch.float32)).clamp(-1.0, float("inf"))


class TwoWays(nn.Module):
    """Another path in each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head, self.auxiliary = (nn.Conv2d(3, width, 1) for width in (3, 4, 5))

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(self.trunk(x), 0.5, self.training)
        if self.training:
            x = x + 0.1 * torch.rand_like(x)
        return (self.head(x), [self.auxiliary(x).mean((2, 3))]) if self.training else self.head(x).softmax(1)


class Deciding(nn.Module):
    """Traced in pieces, since data decides between them: its recipe has no graph, and is applied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0] * self.scale
        return x if bool(x.sum() > 0) else -x


@dataclasses.dataclass(frozen=True)
class Files:
    """The content of ``recipe.json`` and of ``model.safetensors``."""

    recipe: bytes
    weights: bytes


@functools.cache
def originals() -> tuple[Files, ...]:
    """What is saved of each network."""
    found = []
    image, words = torch.zeros(2, 3, 5, 5), torch.zeros(2, 3, dtype=torch.long)
    examples = ((Convolutions(), image), (Sequences(), words), (TwoWays(), image), (Deciding(), image))
    for model, example in examples:
        plan = conet_fx.analyze(model.eval(), example)
        with tempfile.TemporaryDirectory() as folder:
            conet_fx.save(plan.resize(plan.sizes), plan, folder)
            found.append(Files(*(Path(folder, name).read_bytes() for name in ("recipe.json", "model.safetensors"))))
    return tuple(found)


# --- what is drawn

HUGE = 2**40
TEXTS = st.sampled_from(
    ["", "x", "conv", "conv.weight", "inner.0", "lstm", "training", "torch.relu", "builtins.getattr", "builtins.eval",
     "__class__", "__deepcopy__", "inner.__dict__", "os.system", "this.s", "antigravity",
     "torch.nn.Conv2d", "torch.nn.LSTM", "torch.nn.Embedding", "torch.load", "torch.hub.load", "torch.ops.aten.relu",
     "tests.models.broken_import.x", "import", "self", '"); __import__("os").system("x") #', "__import__('this')", "*",
     "**kwargs", "x\n    import this",
     "{__import__}", "meta", "cuda", "node", "tuple", "..", "../../etc/passwd", "/etc/passwd", "a" * 5000, "\ud800",
     "x.data", "ｓｅｌｆ", "forward", "code", "train", "eval", "F32", "I64", "BOOL", "F4"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([HUGE, -HUGE, 2**31, 2**62, 2**63 - 1, -(2**63), 2**64 - 1, 10**9, 0]),
    st.sampled_from([0.5, -1.0, 1e300, 1e-300]),
    st.text(max_size=8),
    TEXTS,
)
# In place of a value of this type, so that what only reads types lets it pass.
ALIKE: dict[type, st.SearchStrategy[Any]] = {
    str: TEXTS | st.text(max_size=8),
    int: st.integers(-3, 9) | st.sampled_from([HUGE, -HUGE, 2**62, 10**9]),
    bool: st.booleans(),
}
TAGS = st.sampled_from(["node", "tuple", "dict", "slice", "float", "device", "torch", "ellipsis", "same_as", "cls"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGS | TEXTS, inner, max_size=2),
    max_leaves=6,
)
# Put into the text itself, in place of the MARK: what json.dumps does not write.
RAW = st.sampled_from(
    ["1" * 10_000, "-" + "9" * 5000, "1" + "0" * 30, "1e999", "-1e999", "NaN", "-Infinity", "[" * 100_000, "[" * 900,
     "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, '{"cls":1,"cls":2}', "[" + "0," * 300_000 + "0]",
     '{"dict":[' + ",".join(f"[{n * (2**61 - 1)},0]" for n in range(8)) + "]}",
     '{"dict":[' + ",".join(f"[{n},0]" for n in range(2000)) + "]}", '"\\ud800"', "tru", '"\x01"', "'x'"]
)  # fmt: skip
MARK = "a mark that raw text takes the place of"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    """The entry at a path."""
    for key in path:
        document = document[key]
    return document


def edit(draw: st.DrawFn, document: Any) -> None:
    """Change one entry: another value, a copy of another entry, none, another key, many of it."""
    paths = list(places(document))
    if not paths:
        return
    part = draw(st.sampled_from(["nodes", "nodes", "nodes", "modules", "modules", "tensors", "groups", "any"]))
    paths = [path for path in paths if path[0] == part] or paths
    path = draw(st.sampled_from(paths))
    here, last = at(document, path[:-1]), path[-1]
    ways = ["same type"] * 8 + ["set"] * 3 + ["delete", "copy", "copy", "swap", "swap", "rename", "many", "raw"]
    match draw(st.sampled_from(ways)):
        case "delete":
            del here[last]
        case "copy":
            here[last] = copy.deepcopy(at(document, draw(st.sampled_from(paths))))
        case "swap" if isinstance(here, list) and len(here) > 1:
            here[last], here[0] = here[0], here[last]
        case "same type" if type(here[last]) in ALIKE:
            here[last] = draw(ALIKE[type(here[last])])
        case "rename" if isinstance(here, dict):
            here[draw(TEXTS | TAGS)] = here.pop(last)
        case "many" if isinstance(here, list):
            here[last:last] = [here[last]] * draw(st.sampled_from([1, 3, 70]))
        case "raw":
            here[last] = MARK
        case _:
            here[last] = draw(JSON)


def flipped(draw: st.DrawFn, data: bytes) -> bytes:
    """Bits turned over, a part left out, or bytes put in."""
    position = draw(st.integers(0, max(len(data) - 1, 0)))
    match draw(st.sampled_from(["flip", "flip", "cut", "drop", "put"])):
        case "cut":
            return data[:position]
        case "drop":
            return data[:position] + data[position + draw(st.integers(1, 40)) :]
        case "put":
            return data[:position] + draw(st.binary(min_size=1, max_size=12)) + data[position:]
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        changed[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def sealed(document: Any, weights: bytes) -> Any:
    """The document with checksums that fit, as far as it still has a place for them."""
    if isinstance(document, dict):
        with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
            document["model"]["graph"] = digest(document["nodes"])
        with contextlib.suppress(KeyError, TypeError):
            document["weights"] |= {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        document = {key: value for key, value in document.items() if key != "sha256"}
        with contextlib.suppress(ValueError, RecursionError):
            document["sha256"] = digest(document)
    return document


def text_of(draw: st.DrawFn, document: Any) -> bytes:
    """JSON, with the raw text that stands for the mark."""
    text = json.dumps(document)
    return text.replace(json.dumps(MARK), draw(RAW)).encode() if MARK in text else text.encode()


@st.composite
def bad_files(draw: st.DrawFn) -> Files:
    """A saved network with up to three faults."""
    start = draw(st.sampled_from(originals()))
    document, weights = json.loads(start.recipe), start.weights
    match draw(
        st.sampled_from(["recipe", "recipe", "recipe", "header", "header", "data", "flip recipe", "flip weights"])
    ):
        case "flip recipe":
            return Files(flipped(draw, start.recipe), weights)
        case "flip weights":
            return Files(start.recipe, flipped(draw, weights))
        case "data":
            weights = flipped(draw, weights)
        case "header":
            length = int.from_bytes(weights[:8], "little")
            header = json.loads(weights[8 : 8 + length])
            for _ in range(draw(st.integers(1, 2))):
                edit(draw, header)
            text = text_of(draw, header)
            said = draw(st.sampled_from([len(text)] * 8 + [0, len(text) - 1, 2**20, 2**62, 2**64 - 1]))
            weights = said.to_bytes(8, "little") + text + weights[8 + length :]
        case _:
            for _ in range(draw(st.integers(1, 3))):
                edit(draw, document)
    return Files(text_of(draw, sealed(document, weights)), weights)


# --- what becomes of it

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.",
    "pty.",
)
seen: list[str] | None = None  # what Python told its auditors since somebody wants to know


@functools.cache
def watch() -> None:
    """Note what Python tells its auditors: processes, sockets, imports.

    An audit hook stays until the process ends, and the same process runs other tests with data loaders of their own:
    only what happens during an attempt counts.
    """

    def auditor(event: str, arguments: tuple[Any, ...]) -> None:
        unwanted = event == "import" and arguments[0] in ("this", "antigravity", "os.system")
        if seen is not None and (unwanted or event.startswith(FORBIDDEN)):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(auditor)


@contextlib.contextmanager
def nothing_else_happens() -> Iterator[None]:
    """Raise AssertionError if the block starts a process, opens a socket or imports what it must not."""
    global seen
    watch()
    noted = seen = []
    before = set(sys.modules)
    try:
        yield
    finally:
        seen = None
    assert not noted, noted
    assert {name for name in set(sys.modules) - before if not name.startswith(("torch", "sympy"))} == set()


def attempt(files: Files, folder: Path) -> str:
    """Load the files from ``folder``, or apply them where they have no graph: the message of the refusal, or "" where
    there is none.

    Anything but a network or a :class:`RecipeError` is raised, and so is any sign that the files did something.
    """
    (folder / "recipe.json").write_bytes(files.recipe)
    (folder / "model.safetensors").write_bytes(files.weights)
    message = ""
    with nothing_else_happens(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if (found := recipe.read(folder)).has_graph:
                assert isinstance(conet_fx.load(folder), GraphModule)
            else:
                assert isinstance(conet_fx.apply(Deciding(), found), Deciding)
        except RecipeError as error:
            message = str(error)
            assert message
            assert len(message) < 20_000
            assert not re.search("MemoryError|can't allocate", message), message
    return message
