"""The analysis as passes of torch.fx (``PassBase``, ``PassResult``), for a GraphModule that somebody else traced.

    PassManager([PropagatePass(example_inputs), ResizePass({"layer1.0.conv1": 24})])(symbolic_trace(model))

They hold no state: all that one pass tells another stands in the graph. ``node.meta["val"]`` are the shapes,
``node.meta["conet_fx"]`` is a :class:`~conet_fx.passes.info.ChannelInfo`, ``graph_module.meta["conet_fx"]`` holds the
groups and the options of the analysis.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from conet_fx.errors import ConstraintError
from conet_fx.passes import ops
from conet_fx.passes.call import Facts, Options
from conet_fx.passes.constraints import kinds
from conet_fx.passes.groups import ChannelGroup, channel_groups, scales
from conet_fx.passes.info import KEY, ChannelInfo, annotate, record
from conet_fx.passes.inputs import Inputs
from conet_fx.passes.nodes import attribute, source, tensors
from conet_fx.passes.propagation import propagate
from conet_fx.passes.rewrite import Init, copied, rewrite
from conet_fx.passes.shapes import Shapes, to_meta, undisturbed
from conet_fx.passes.trace import Trace
from conet_fx.passes.two_paths import graph_module_of

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
Sizes = Mapping[str, int] | Callable[[tuple[ChannelGroup, ...]], Mapping[str, int]]


class ShapePass(PassBase):
    """Leaves the shape of every value in ``node.meta["val"]``, from a run that computes nothing.

    ``example_inputs``: a tensor, a tuple of positional or a dict of keyword inputs. Raises what the graph raises.
    """

    def __init__(self, example_inputs: Inputs) -> None:
        self._inputs = example_inputs

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Placeholders that the inputs fill. Raises ``TypeError``."""
        _check_graph_module(graph_module)
        _positional(graph_module, self._inputs)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        given = graph_module.graph.process_inputs(*_positional(graph_module, self._inputs))
        placeholders = graph_module.graph.find_nodes(op="placeholder")
        values = dict(zip(placeholders, _by_placeholder(placeholders, given), strict=True))
        shapes = Shapes(_device(graph_module))
        with undisturbed():
            for node in graph_module.graph.nodes:
                if node.op == "placeholder":
                    node.meta["val"] = map_aggregate(values[node], to_meta)
                elif node.op != "output":
                    try:
                        node.meta["val"] = shapes.of(node, graph_module, lambda n: n.meta["val"])
                    except Exception as error:
                        error.add_note(f"while running {source(node)} without data")
                        raise
        return PassResult(graph_module, False)

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Every node has a shape."""
        _check_shapes(graph_module)


class LabelPass(PassBase):
    """Labels the graph (paper, section 4.1): ``kind`` and ``edge`` of each node's ``meta["conet_fx"]``, and no more.

    :class:`PropagatePass` does the same and finds the channels too.
    """

    def __init__(self, example_inputs: Inputs | None = None) -> None:
        self._shape = None if example_inputs is None else ShapePass(example_inputs)

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A lint-clean graph with shapes, or inputs to find them. Raises :class:`ConstraintError`."""
        _check_ready(graph_module, self._shape)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if self._shape is not None:
            self._shape(graph_module)
        for node in graph_module.graph.nodes:
            node.meta[KEY] = ChannelInfo(*kinds(node, ops.lookup(node, graph_module), graph_module))
        graph_module.meta.pop(KEY, None)
        return PassResult(graph_module, False)


class PropagatePass(PassBase):
    """Finds the channel groups of a graph (paper, Algorithm 1) and writes them into its meta data.

    Sets ``meta["conet_fx"]`` of each node, and of the module: ``groups``, a tuple of
    :class:`~conet_fx.passes.groups.ChannelGroup`, and ``options``. The graph itself stays as it is.

    ``example_inputs`` may be left out where the inputs have their ``meta["val"]``, from :class:`ShapePass` or
    FakeTensorProp of torch.fx. ``tie_concat``, ``strict``, ``resize_linear``: as in ``conet_fx.analyze``.
    """

    def __init__(
        self,
        example_inputs: Inputs | None = None,
        *,
        tie_concat: bool = False,
        strict: bool = False,
        resize_linear: bool = False,
    ) -> None:
        self._shape = None if example_inputs is None else ShapePass(example_inputs)
        self._options = Options(tie_concat, strict, resize_linear)

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A lint-clean graph with shapes, or inputs to find them. Raises :class:`ConstraintError`."""
        _check_ready(graph_module, self._shape)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if self._shape is not None:
            self._shape(graph_module)
        _, facts = _analysis(graph_module, self._options)
        annotate(graph_module, facts, facts.depths.size)
        record(graph_module, facts, self._options)
        return PassResult(graph_module, False)

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Every node says which channels it has."""
        _check_infos(graph_module)


class ResizePass(PassBase):
    """Gives a new GraphModule with the given channels for each named group; the one that comes in stays as it is.

    ``sizes``: {group name: channels}, or a function that gives them for the groups. ``init``, ``init_fn``: as in
    ``plan.resize``. ``example_inputs``: where :class:`PropagatePass` has not run before; it is run then. The result has
    shapes and channels of the new sizes in its meta data, and can be resized again.

    Raises :class:`~conet_fx.errors.ResizeError` for sizes that the groups do not allow.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        init: Init = "reset",
        init_fn: Callable[[nn.Module], Any] | None = None,
        example_inputs: Inputs | None = None,
    ) -> None:
        self._propagate = None if example_inputs is None else PropagatePass(example_inputs)
        self._sizes = sizes
        self._init = init
        self._init_fn = init_fn

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A graph that :class:`PropagatePass` has analysed. Raises :class:`ConstraintError`."""
        _check_graph_module(graph_module)
        if self._propagate is None:
            _check_infos(graph_module)
            _check_shapes(graph_module)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if self._propagate is not None:
            self._propagate(graph_module)
        known = graph_module.meta[KEY]
        traced, facts = _analysis(graph_module, known["options"])
        groups = channel_groups(facts)
        if tuple(groups.values()) != known["groups"]:
            raise ConstraintError("the graph was changed after its analysis: run PropagatePass once more")
        sizes = self._sizes(known["groups"]) if callable(self._sizes) else self._sizes
        factors = scales(groups, sizes)
        resized = cast(fx.GraphModule, rewrite(traced, facts, factors, self._init, self._init_fn))
        resized.meta.update({name: value for name, value in graph_module.meta.items() if name not in resized.meta})
        PropagatePass(**dataclasses.asdict(known["options"]))(resized)
        return PassResult(resized, bool(factors))


def groups_of(graph_module: fx.GraphModule) -> tuple[ChannelGroup, ...]:
    """The channel groups of a graph that was analysed. Raises :class:`ConstraintError` for another one."""
    _check_infos(graph_module)
    groups: tuple[ChannelGroup, ...] = graph_module.meta[KEY]["groups"]
    return groups


def _analysis(graph_module: fx.GraphModule, options: Options) -> tuple[Trace, Facts]:
    """The facts about a copy of the graph, whose meta data are put in our own form; names of nodes are the same.

    Nodes without a value (that another pass made, numbers under the FakeTensorProp of old) are run to get one.
    """
    graph = copied(graph_module.graph)
    shapes = Shapes(_device(graph_module))
    for node in graph.nodes:
        if "val" not in node.meta and node.op != "output":
            with undisturbed():
                node.meta["val"] = shapes.of(node, graph_module, lambda n: n.meta["val"])
        elif any(not tensor.is_meta for tensor in tensors(node.meta.get("val"))):
            node.meta["val"] = map_aggregate(node.meta["val"], to_meta)
        node.meta.setdefault("source", _last_line(node.stack_trace or ""))
    parts = {n.target: attribute(graph_module, n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")}
    inputs = tuple(str(node.target) for node in graph.nodes if node.op == "placeholder")
    traced = Trace(graph_module_of(parts, graph, graph_module), inputs, one_mode=False)
    return traced, propagate(traced, options)


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _last_line(stack: str) -> str:
    """ "file:line" of the innermost frame of the user's in a ``stack_trace`` of torch.fx."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', stack)
    own = [f"{file}:{line}" for file, line in frames if not file.startswith(_TORCH)]
    return own[-1] if own else ""


def _positional(graph_module: fx.GraphModule, inputs: Inputs) -> tuple[Any, ...]:
    """The inputs in the order of the placeholders. Raises ``TypeError`` where they do not fit."""
    nodes = graph_module.graph.find_nodes(op="placeholder")
    names = [str(node.target) for node in nodes]
    if isinstance(inputs, Mapping):
        extra = inputs.keys() - set(names)
        if extra:
            raise TypeError(f"the graph has no inputs {sorted(extra)}; it has {', '.join(names)}")
        defaults = {str(node.target): node.args[0] for node in nodes if node.args}
        missing = [name for name in names if name not in inputs and name not in defaults]
        if missing:
            raise TypeError(f"example_inputs lack {', '.join(missing)}")
        return tuple(inputs[name] if name in inputs else defaults[name] for name in names)
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    required = sum(not node.args for node in nodes)
    if not required <= len(given) <= len(nodes) and not any(name.startswith("*") for name in names):
        raise TypeError(f"the graph takes {', '.join(names)}, but example_inputs are {len(given)}")
    return given


def _by_placeholder(placeholders: Sequence[fx.Node], given: Sequence[Any]) -> list[Any]:
    """The value of each placeholder: what is given, all that is left for ``*args``, else its default."""
    values: list[Any] = []
    for index, node in enumerate(placeholders):
        if str(node.target).startswith("**"):
            values.append({})
        elif str(node.target).startswith("*"):
            values.append(tuple(given[index:]))
        else:
            values.append(given[index] if index < len(given) else node.args[0])
    return values


def _check_graph_module(graph_module: object) -> None:
    if not isinstance(graph_module, fx.GraphModule):
        raise TypeError(f"a pass takes a torch.fx.GraphModule, not {type(graph_module).__name__}: symbolic_trace it")


def _check_ready(graph_module: fx.GraphModule, shape: ShapePass | None) -> None:
    _check_graph_module(graph_module)
    graph_module.graph.lint()
    if shape is None:
        _check_shapes(graph_module)


def _check_shapes(graph_module: fx.GraphModule) -> None:
    for node in graph_module.graph.nodes:
        if "val" not in node.meta and node.op == "placeholder":
            raise ConstraintError(
                f"input {node.name} has no meta['val']: give the pass example_inputs, or run ShapePass before it"
            )


def _check_infos(graph_module: fx.GraphModule) -> None:
    _check_graph_module(graph_module)
    if "groups" not in graph_module.meta.get(KEY, {}):
        raise ConstraintError("the graph was not analysed: run PropagatePass(example_inputs) before this")
    for node in graph_module.graph.nodes:
        if KEY not in node.meta:
            raise ConstraintError(f"node {node.name} came after the analysis: run PropagatePass once more")
