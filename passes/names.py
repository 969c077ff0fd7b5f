"""Code for graphs whose modules have names that Python does not take: ``nn.ModuleDict({"in": ..., "class": ...})``.

torch.fx writes ``self.layers.in(x)``, which is no Python: it asks :meth:`str.isidentifier`, which knows no keywords.
"""

from __future__ import annotations

import contextlib
import keyword
from collections.abc import Iterator
from typing import Any

import torch.fx.graph
from torch import fx
from torch.fx.graph import CodeGen, PythonCode


def spell_out(graph: fx.Graph) -> fx.Graph:
    """``graph``, whose code reads such names with ``getattr``."""
    paths = (node.target for node in graph.nodes if node.op in ("call_module", "get_attr"))
    if any(not _is_spelled(name) for path in paths for name in str(path).split(".")):
        graph.set_codegen(SpelledOut())
    return graph


class SpelledOut(CodeGen):
    """Writes every name that Python does not take as a string."""

    def _gen_python_code(self, *args: Any, **options: Any) -> PythonCode:
        with _targets_spelled_out():
            return super()._gen_python_code(*args, **options)


@contextlib.contextmanager
def _targets_spelled_out() -> Iterator[None]:
    module: Any = torch.fx.graph
    original, module._format_target = module._format_target, _target
    try:
        yield
    finally:
        module._format_target = original


def _target(base: str, path: str) -> str:
    for name in path.split("."):
        base = f"{base}.{name}" if name.isidentifier() and not keyword.iskeyword(name) else f"getattr({base}, {name!r})"
    return base


def _is_spelled(name: str) -> bool:
    """True where torch.fx writes the name as Python takes it."""
    return not keyword.iskeyword(name) if name.isidentifier() else '"' not in name and "\\" not in name
