"""Modules that run the path of the mode that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import fx, nn
from torch.fx.graph import PythonCode
from torch.fx.graph_module import _forward_from_src

from conet_fx.passes.join import join_paths
from conet_fx.passes.late import Late
from conet_fx.passes.names import spell_out
from conet_fx.passes.nodes import attribute
from conet_fx.passes.paths import MODES, Mode, has_two_paths, path_of
from conet_fx.passes.reload import Reload


def one_path(module: fx.GraphModule, mode: Mode) -> fx.GraphModule:
    """The network as it is in one mode, with the same submodules and tensors."""
    path = fx.GraphModule(module, path_of(module.graph, mode), type(module).__name__)
    path.training = module.training
    return path


class TwoPaths(fx.GraphModule):
    """A module whose ``forward`` runs the path of the mode that it is in. ``graph`` holds both."""

    def recompile(self) -> PythonCode:
        """Write the code of both paths anew, after the graph was changed."""
        code = super().recompile()
        cls = cast(Any, type(self))
        texts = []
        for mode in MODES:
            path = path_of(self.graph, mode).python_code("self")
            setattr(cls, f"_forward_in_{mode}", _forward_from_src(path.src, path.globals, {}))
            texts.append(path.src.replace("def forward(", f"def _forward_in_{mode}(", 1))
        line = next(line for line in path.src.splitlines() if line.startswith("def forward("))
        names = [str(node.target) for node in self.graph.find_nodes(op="placeholder")]
        source = (
            f"{line}\n    return (self._forward_in_train if self.training else self._forward_in_eval)({_call(names)})\n"
        )
        cls.forward = _forward_from_src(source, path.globals, {})
        self._code = "\n".join((*texts, source))
        return code

    def _deepcopy_init(self) -> Any:
        return TwoPaths.__init__

    def __reduce__(self) -> tuple[Any, ...]:
        kept = self.state_dict().keys()
        apart = [name for name, _ in self.named_buffers(remove_duplicate=False) if name not in kept]
        paths = [one_path(self, mode) for mode in MODES]
        names = [[node.name for node in path.graph.nodes] for path in paths]
        return _joined, (*paths, names, self.training, dict(self.meta), type(self).__name__, apart)


def _call(names: list[str]) -> str:
    """The arguments of a function handed on to one of the same signature."""
    given, by_name = [], False
    for name in names:
        given.append(f"{name}={name}" if by_name and not name.startswith("*") else name)
        by_name = by_name or name.startswith("*")
    return ", ".join(given)


class _LateTwoPaths(Late, TwoPaths):
    """Both."""


def graph_module_of(parts: Mapping[str, Any], graph: fx.Graph, *like: nn.Module, late: bool = False) -> fx.GraphModule:
    """A GraphModule of ``graph`` with ``parts`` at their paths; modes and buffer persistence as in ``like``. ``late``:
    its code is written when it is first asked for.
    """
    graph._tracer_cls = Reload
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None  # a postponed annotation, whose name means nothing here (torch 2.9 cannot pickle it)
    plain, two = (Late, _LateTwoPaths) if late else (fx.GraphModule, TwoPaths)
    cls = two if has_two_paths(graph) else plain
    graph_module = cls(dict(parts), spell_out(graph), class_name=type(like[0]).__name__)
    modules = {path: module for each in reversed(like) for path, module in each.named_modules()}
    for path, module in graph_module.named_modules():
        twin = modules.get(path)
        if twin is None:
            continue
        vars(module)["training"] = twin.training  # what assigning an attribute of a module asks first takes time
        if module._buffers:
            persistent = twin._buffers.keys() - twin._non_persistent_buffers_set
            # plain tensors become buffers here, but are in no state_dict
            module._non_persistent_buffers_set |= module._buffers.keys() - persistent
    return graph_module


def _joined(
    in_train: fx.GraphModule,
    in_eval: fx.GraphModule,
    names: Sequence[Sequence[str]],
    training: bool,
    meta: dict[str, Any],
    name: str,
    apart: Sequence[str],
) -> fx.GraphModule:
    """What :class:`TwoPaths` is unpickled as. ``names``: those that the nodes of each path had in the graph of both;
    ``apart``: the buffers that are in no state_dict.
    """
    graph = path_of(in_train.graph, "train")
    named: dict[fx.Node, str] = {}
    for each, known in zip((graph, in_eval.graph), names, strict=True):
        named.update(zip(each.nodes, known, strict=True))
    join_paths(graph, in_eval.graph, True, lambda node: True, named.__getitem__)
    parts = {
        str(node.target): attribute(module, str(node.target))
        for module in (in_train, in_eval)
        for node in module.graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    joined = graph_module_of({**parts, "training": training}, graph, in_train, in_eval)
    type(joined).__name__ = name
    joined.training, joined.meta = training, meta
    for buffer in apart:  # torch 2.11 forgets them
        path, _, key = buffer.rpartition(".")
        joined.get_submodule(path)._non_persistent_buffers_set.add(key)
    return joined
