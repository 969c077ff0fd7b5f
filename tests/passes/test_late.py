"""The module of a trace has no code until somebody asks for it, and then it has."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from conet_fx.passes.trace import trace
from tests.passes.cases import conv, net

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def one() -> nn.Module:
    torch.manual_seed(0)
    return net(lambda self, x: self.out(self.a(x).relu()), a=conv(3, 4), out=conv(4, 5)).eval()


def two() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * torch.rand(y.shape[0], 1, 1, 1) if self.training else y)

    torch.manual_seed(0)
    return net(forward, a=conv(3, 4), out=conv(4, 5)).eval()


def written(module: fx.GraphModule) -> bool:
    return "_code" in vars(module)


def saved(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def relinked(module: Any) -> Any:
    module.recompile()
    return module


USES: dict[str, Callable[[Any], Any]] = {
    "called": lambda module: module,
    "in a container": nn.Sequential,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "saved": saved,
    "traced again": fx.symbolic_trace,
    "traced by conet_fx": lambda module: trace(module, X).graph_module,
    "interpreted": lambda module: fx.Interpreter(module).run,
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "exported": lambda module: torch.export.export(module, (X,)).module(),
    "written anew": relinked,
    "its forward": lambda module: module.forward,
    "that of its class": lambda module: lambda x: type(module).forward(module, x),
    "of its graph": lambda module: fx.GraphModule(module, module.graph),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("model", [one, two])
def test_it_can_be_used_like_any_other(model: Callable[[], nn.Module], use: str) -> None:
    module = trace(model(), X).graph_module
    assert not written(module)
    torch.testing.assert_close(USES[use](module)(X), model()(X))


@pytest.mark.parametrize("model", [one, two])
@pytest.mark.parametrize(
    "ask", [str, lambda m: m.code, lambda m: inspect.signature(m.forward), lambda m: type(m).forward]
)
def test_who_asks_sees_the_code(model: Callable[[], nn.Module], ask: Callable[[Any], Any]) -> None:
    module = trace(model(), X).graph_module
    shown = ask(module)
    assert written(module)
    assert "self.a(x)" in module.code
    if isinstance(shown, str):
        assert module.code in shown


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:The TorchScript type system")
def test_it_is_scripted() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU())
    torch.testing.assert_close(torch.jit.script(trace(model, X).graph_module)(X), model(X))


def test_code_is_written_anew_after_a_change() -> None:
    module = trace(one(), X).graph_module
    before = module.code
    (relu,) = module.graph.find_nodes(op="call_method", target="relu")
    relu.replace_all_uses_with(relu.args[0])
    module.graph.erase_node(relu)
    assert module.code == before
    module.recompile()
    assert "relu" in before
    assert "relu" not in module.code


def test_a_module_that_nobody_asked_is_freed() -> None:
    module = trace(one(), X).graph_module
    known = weakref.ref(module)
    del module
    gc.collect()
    assert known() is None
