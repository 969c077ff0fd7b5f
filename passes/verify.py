"""Check a rewritten module without running real data: a forward pass on fake tensors, node by node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conet_fx.errors import ResizeError
from conet_fx.passes.call import Facts, Int, Tensor, Value, Written
from conet_fx.passes.depth import Dim
from conet_fx.passes.trace import Trace, source, undisturbed


def verify(module: fx.GraphModule, traced: Trace, facts: Facts, size: Callable[[Dim], int]) -> None:
    """Run ``module`` on fake inputs of the traced shapes and compare every shape with the predicted one.

    Requires a lint-clean graph; ensures that each node's ``meta["val"]`` holds its new shape. Raises
    :class:`~conet_fx.errors.ResizeError` naming the first node that fails: always a fault of a rule, never of the user.
    """
    module.graph.lint()
    with undisturbed(), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        runner = _FakeRunner(module, mode)
        originals = {node.name: node for node in traced.graph_module.graph.nodes}
        inputs = [
            map_aggregate(originals[node.name].meta["val"], runner.fake)
            for node in module.graph.nodes
            if node.op == "placeholder"
        ]
        runner.run(*inputs)
    for node in module.graph.nodes:
        if not agrees(node.meta["val"], facts.values[originals[node.name]], size):
            raise ResizeError(
                f"{source(node)} gives {node.meta['val']} where "
                f"{_shape(facts.values[originals[node.name]], size)} was predicted. This is a fault in the operator "
                "table of conet-fx, please report it"
            )


@contextlib.contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """A counter that sees every product: fused attention, which it knows on some devices only, is taken apart."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def multiply_adds(node: fx.Node) -> int:
    """What one operator of a traced module costs, counted while it runs on fake tensors."""
    with undisturbed(), FakeTensorMode(allow_non_fake_inputs=True) as mode, counting() as counter:
        module = node.graph.owning_module
        assert module is not None
        runner = _FakeRunner(module, mode)
        runner.env = {n: map_aggregate(n.meta["val"], runner.fake) for n in node.all_input_nodes}
        runner.run_node(node)
    return int(counter.get_total_flops()) // 2


class _FakeRunner(fx.Interpreter):
    """Runs a graph on fake tensors and leaves the result of each node, as a meta tensor, in ``meta["val"]``."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode

    def fake(self, a: Any) -> Any:
        if not isinstance(a, torch.Tensor):
            return a
        with self.mode:
            return (
                torch.empty(a.shape, dtype=a.dtype, device="cpu")
                if a.is_meta
                else self.mode.from_tensor(a, static_shapes=True)
            )

    def fetch_attr(self, target: str) -> Any:
        return self.fake(super().fetch_attr(target))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        submodule = self.fetch_submodule(str(target))
        tensors = {name: self.fake(t) for name, t in (*submodule.named_parameters(), *submodule.named_buffers())}
        return torch.func.functional_call(submodule, tensors, args, kwargs)

    def fetch_submodule(self, path: str) -> torch.nn.Module:
        assert isinstance(self.module, fx.GraphModule)
        return self.module.get_submodule(path)

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise ResizeError(
                f"{source(n)} does not run at the new sizes ({type(error).__name__}: {error}). This is a fault in the "
                "operator table of conet-fx, please report it"
            ) from error
        n.meta["val"] = map_aggregate(result, _meta)
        return result


def _meta(a: Any) -> Any:
    return torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(a, torch.Tensor) else a


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
