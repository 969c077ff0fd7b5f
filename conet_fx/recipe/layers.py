"""Sizes of layers that a graph holds as functions of their weights: parametrized ones, and subclasses of layers of
torch.nn with a ``forward`` of their own, which may well read ``self.out_channels``.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from conet_fx.errors import RecipeError
from conet_fx.passes.nodes import attribute, weight_of
from conet_fx.recipe.names import qualified_name

_CONVOLUTIONS = frozenset(
    (
        *(F.conv1d, F.conv2d, F.conv3d),
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    )
)
_GROUPS = 6  # where all of them take their groups


def follow_weights(model: nn.Module, graph_module: GraphModule, leaves: Collection[str]) -> None:
    """Set ``in_channels`` and the like of layers of ``model`` whose weights ``graph_module`` reads, but which are not
    among its ``leaves``, to what the weights have.

    Raises:
        RecipeError: the graph does not tell the groups of a convolution.
    """
    readers: dict[int, set[Node]] = {}  # by the tensor, which tied layers share
    for node in graph_module.graph.find_nodes(op="get_attr"):
        readers.setdefault(id(attribute(model, str(node.target))), set()).add(node)
    for path, layer in model.named_modules():
        weights = [p for name, p in layer.named_parameters() if f"{name}.".startswith(_WEIGHT)]
        nodes = set().union(*(readers.get(id(weight), ()) for weight in weights))
        if path in leaves or not nodes or not isinstance(layer, _LAYERS):
            continue
        shape = weight_of(layer).shape
        if isinstance(layer, _ConvNd):
            groups = _groups(path, layer, nodes)
            written, read = shape[:2]
            if layer.transposed:
                written, read = read * groups, written
            else:
                read *= groups
            layer.in_channels, layer.out_channels, layer.groups = read, written, groups
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
        elif isinstance(layer, _NormBase):
            (layer.num_features,) = shape
        elif isinstance(layer, nn.GroupNorm):
            (layer.num_channels,) = shape
        else:
            layer.normalized_shape = tuple(shape)


_LAYERS = (_ConvNd, nn.Linear, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_WEIGHT = ("weight.", "parametrizations.weight.")


def _groups(path: str, layer: _ConvNd, readers: Collection[Node]) -> int:
    """The groups of the convolutions whose weight is computed from ``readers``."""
    found: set[object] = set()
    reached, rest = set(readers), list(readers)
    while rest:
        for user in rest.pop().users:
            if user in reached:
                continue
            if user.target in _CONVOLUTIONS:
                if (user.args[1] if len(user.args) > 1 else user.kwargs.get("weight")) in reached:
                    found.add(user.args[_GROUPS] if len(user.args) > _GROUPS else user.kwargs.get("groups", 1))
            else:
                reached.add(user)
                rest.append(user)
    match [*found]:
        case [int(groups)]:
            return groups
    if layer.groups == 1:
        return 1
    raise RecipeError(
        f"the graph of the recipe reads the weight of {path!r} ({qualified_name(type(layer))}), but does not tell its "
        "groups, which may have changed: conet_fx.load gives the network without your class"
    )
