"""Check a rewritten module without running real data: a forward pass on meta tensors, node by node."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conet_fx.errors import ResizeError
from conet_fx.passes.call import Facts, Int, Tensor, Value, Written
from conet_fx.passes.depth import Dim
from conet_fx.passes.nodes import source
from conet_fx.passes.shapes import Shapes, undisturbed
from conet_fx.passes.trace import Trace


def verify(module: fx.GraphModule, traced: Trace, facts: Facts, size: Callable[[Dim], int]) -> None:
    """Run ``module`` on inputs of the traced shapes, node by node, and compare every shape with the predicted one.

    Requires a lint-clean graph; ensures that each node's ``meta["val"]`` holds its new shape. Raises
    :class:`~conet_fx.errors.ResizeError` naming the first node that fails: always a fault of a rule, never of the user.
    """
    module.graph.lint()
    shapes = Shapes(torch.device("cpu"), ("meta", "fake", "ones"))
    originals = {node.name: node for node in traced.graph_module.graph.nodes}
    with undisturbed():
        for node in module.graph.nodes:
            original = originals[node.name]
            if node.op == "placeholder":
                node.meta["val"] = original.meta["val"]
                continue
            try:
                node.meta["val"] = shapes.of(node, module, lambda n: n.meta["val"])
            except Exception as error:
                raise ResizeError(
                    f"{source(node)} does not run at the new sizes ({type(error).__name__}: {error}). This is a fault "
                    "in the operator table of conet-fx, please report it"
                ) from error
            if node.op != "output" and not agrees(node.meta["val"], facts.values[original], size):
                raise ResizeError(
                    f"{source(node)} gives {map_aggregate(node.meta['val'], _shape_of)} where "
                    f"{_shape(facts.values[original], size)} was predicted. This is a fault in the operator table of "
                    "conet-fx, please report it"
                )


def _flops_of_lstm(inputs: torch.Size, w_input: torch.Size, w_hidden: torch.Size, *_: Any, **__: Any) -> int:
    """One layer and direction of the fused LSTM on a CPU."""
    return 2 * inputs[0] * inputs[1] * (w_input[0] * w_input[1] + w_hidden[0] * w_hidden[1])


def _flops_of_deformable(inputs: torch.Size, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    """As those of a convolution."""
    return 2 * inputs[0] * out_shape[2] * out_shape[3] * weight.numel()


def _flops_of_product(added: torch.Size, a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    """addmm or baddbmm in place, which torch does not count."""
    return 2 * math.prod(a) * b[-1]


class _Whole:
    """Tells no module from another."""

    parents = frozenset(("Global",))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Counter(FlopCounterMode):
    """The hooks by which torch's counter tells modules apart fail on gradients that a forward takes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mod_tracker = cast(Any, _Whole())


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """A counter that sees every product: fused attention, which it knows on some devices only, is taken apart, and so
    are recurrent layers on a GPU; what torch does not count by itself is added.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        more = {
            torch.ops.aten.mkldnn_rnn_layer: _flops_of_lstm,
            torch.ops.aten.addmm_: _flops_of_product,
            torch.ops.aten.baddbmm_: _flops_of_product,
            torch.ops.torchvision.deform_conv2d: _flops_of_deformable,
        }
        with (
            torch.backends.cudnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            _Counter(display=False, custom_mapping=more) as counter,
        ):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def multiply_adds(node: fx.Node) -> int:
    """What one operator of a traced module costs, counted while it runs on fake tensors, which take the same paths as
    real ones; where it does not run on these (it reads a number out of one of its own), on meta tensors or on ones.
    """
    module = node.graph.owning_module
    assert module is not None
    with undisturbed():
        for kind in ("fake", "meta", "ones"):
            try:
                with counting() as counter:
                    Shapes(torch.device("cpu"), (kind,)).of(node, module, lambda n: n.meta["val"])
                break
            except Exception:
                if kind == "ones":
                    raise
    return int(counter.get_total_flops()) // 2


def _shape_of(a: Any) -> Any:
    return tuple(a.shape) if isinstance(a, torch.Tensor) else a


def agrees(val: Any, value: Value, size: Callable[[Dim], int]) -> bool:
    """True where the result of a node has the sizes that its value says."""
    if isinstance(value, Written):
        return val is None
    if isinstance(value, Tensor):
        return isinstance(val, torch.Tensor) and tuple(val.shape) == _shape(value, size)
    if isinstance(value, Int):
        return bool(val == size(value.dim))
    if isinstance(value, (tuple, list)) and isinstance(val, (tuple, list)):
        return len(val) == len(value) and all(agrees(v, w, size) for v, w in zip(val, value, strict=True))
    return True


def _shape(value: Value, size: Callable[[Dim], int]) -> Any:
    if isinstance(value, Tensor):
        return tuple(size(dim) for dim in value.dims)
    if isinstance(value, Int):
        return size(value.dim)
    return [_shape(v, size) for v in value] if isinstance(value, (tuple, list)) else value
