"""What a recipe consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Far above any network, and low enough that no file takes more than seconds and a few hundred MiB to be refused.
MAX_BYTES = 2**24  # of recipe.json, and of the header of model.safetensors
MAX_ENTRIES = 2**14  # modules, tensors, nodes, groups
MAX_VALUES = 2**19  # numbers, texts, lists ... of recipe.json
MAX_LAYERS = 256  # of one recurrent module, whose construction takes time in the square of it
MAX_ITERATIONS = 1000  # of a spectral norm in each call
MAX_DEPTH = 64  # of nested values and module paths: far below Python's recursion limit
MAX_NAME = 1000  # characters of a name or path
MAX_NUMBERS = 2**40  # in one input, which is never made: only its shape is
MAX_KEYS = 1000  # of a dict in the graph: numbers as keys can be chosen to collide, which takes time in the square


@dataclasses.dataclass(frozen=True)
class GroupSpec:
    """A channel group: its size, and of what its sizes are multiples."""

    size: int
    quantum: int = 1


@dataclasses.dataclass(frozen=True)
class ModuleSpec:
    """One module: a leaf (with ``cls``), another path of a leaf (``same_as``), or else a plain container."""

    training: bool
    cls: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    same_as: str | None = None


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One parameter or buffer, or another name of one (``same_as``). Its shape is in the weights file."""

    parameter: bool
    requires_grad: bool = False
    persistent: bool = True
    same_as: str | None = None


@dataclasses.dataclass(frozen=True)
class NodeSpec:
    """One fx node; arguments and annotation are JSON data, as :func:`encode` makes it. ``scope``: path of the module
    whose ``forward`` made the call, a hint for people and for an export as source; "" for calls of modules, whose path
    tells. ``only_in``: "train" or "eval" where one mode alone runs the node.
    """

    op: str
    name: str
    target: str
    args: list[Any]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    annotation: Any = None
    wrapped: bool = False  # by torch.fx.wrap, which another trace has to know
    scope: str = ""
    only_in: str = ""


@dataclasses.dataclass(frozen=True)
class CallSpec:
    """How the network was called when it was traced: the arguments as JSON data, tensors in them as ``{"node": name}``;
    ``tensors``: shape and dtype of each by name.
    """

    args: list[Any] = dataclasses.field(default_factory=list)
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that it takes to build one network again.

    Attributes:
        torch: version of torch that wrote it; it explains a failure, nothing depends on it.
        model: what the network was made from: ``"class"`` and ``"keys"`` (see :func:`identify`), as far as they are
            known, and under ``"graph"`` the sha256 of ``nodes``.
        groups: the channel groups by name.
        modules: by path, parents first.
        tensors: by name.
        nodes: in execution order; none for a network that is no graph (a detector, which is traced in pieces): such a
            recipe has sizes and weights for the user's own class, and nothing runs without that.
        weights: the tensors that have no ``same_as``, by name, on the CPU.
        call: what the network was traced on, where that is known and made of plain data.
    """

    torch: str
    model: Mapping[str, str]
    groups: Mapping[str, GroupSpec]
    modules: Mapping[str, ModuleSpec]
    tensors: Mapping[str, TensorSpec]
    nodes: tuple[NodeSpec, ...]
    weights: Mapping[str, Tensor] = dataclasses.field(repr=False)
    call: CallSpec | None = None

    @property
    def has_graph(self) -> bool:
        """Whether a network can be built without the user's class."""
        return bool(self.nodes)

    @property
    def sizes(self) -> dict[str, int]:
        """Channels of each group, by group name: what ``plan.resize`` takes."""
        return {name: group.size for name, group in self.groups.items()}
