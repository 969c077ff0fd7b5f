"""Functions that a model keeps, those of torch.jit and torch.compile among them, and a forward in place of another."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import TraceError

IMAGES = torch.rand(2, 3, 8, 8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # of torch.compile
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.b(self.a(x)).mean((2, 3)))


def check(model: nn.Module) -> conet_fx.ChannelPlan:
    """Groups a and b are free; present sizes keep the bits; other sizes train weights of their own."""
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = conet_fx.analyze(model, IMAGES)
    assert sorted(group.size for group in plan.free) == [6, 8]
    assert torch.equal(plan.resize({}, init="inherit")(IMAGES), model(IMAGES))
    resized = plan.resize({group.name: group.size // 2 for group in plan.free})
    resized(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in resized.parameters())
    assert not {id(p) for p in resized.parameters()} & {id(p) for p in model.parameters()}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    return plan


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) * 2

    return wrapper


@pytest.mark.parametrize("path", ["", "a", "b", "head"])
@pytest.mark.parametrize(
    "wrap",
    [doubled, torch.autocast("cpu", enabled=False), lambda f: torch.compile(f, backend="eager"), functools.partial],
    ids=["closure", "autocast", "compile", "partial"],
)
def test_a_forward_around_that_of_the_class_calls_the_copy(path: str, wrap: Callable[..., Any]) -> None:
    model = Net()
    module = model.get_submodule(path)
    module.forward = wrap(module.forward)
    check(model)


def circular(self: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.weight, self.bias)


@pytest.mark.parametrize("bind", [types.MethodType, functools.partial])
def test_a_forward_of_its_own_is_looked_into(bind: Callable[..., Any]) -> None:
    model = Net()
    model.b.forward = bind(circular, model.b)
    plan = check(model)
    assert any(node.target is F.pad for node in plan.resize({}).graph.nodes)


def test_functions_in_attributes_call_the_copy() -> None:
    class Steps(Net):
        def __init__(self) -> None:
            super().__init__()

            def again(x: Tensor, times: int) -> Tensor:
                return again(x + 1, times - 1) if times else self.a(x)

            self.steps = [lambda x: again(x, 2).relu(), self.second, functools.partial(torch.mean, dim=(2, 3))]
            self.last: dict[str, Any] = {"head": lambda x, layer=self.head: layer(x), "none": None}

        def second(self, x: Tensor) -> Any:
            return self.b(x)

        def forward(self, x: Tensor) -> Any:
            for step in self.steps:
                x = step(x)
            return self.last["head"](x)

    model = Steps()
    steps = list(model.steps)
    check(model)
    assert model.steps == steps, "the model's own are as they were"


def test_functions_of_a_module_that_is_one_call_and_of_the_users_class_call_the_copy(tmp_path: Path) -> None:
    class OneCall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(5, 5, 1)
            self.steps = {"conv": lambda x: self.conv(x)}

        def forward(self, x: Tensor) -> Any:
            return torch.vmap(lambda image: image * 2)(self.steps["conv"](x))

    class Around(Net):
        def __init__(self) -> None:
            super().__init__()
            self.middle, self.b = OneCall(), nn.Conv2d(5, 8, 1)
            self.edge, self.act = nn.Conv2d(6, 5, 1), lambda x: self.b(self.middle(x))

        def forward(self, x: Tensor) -> Any:
            return self.head(self.act(self.edge(self.a(x))).mean((2, 3)))

    model = Around()
    plan = conet_fx.analyze(model, IMAGES)
    resized = plan.resize({"a": 4, "b": 3})
    resized(IMAGES).sum().backward()
    assert resized.middle.conv.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.warns(UserWarning, match="no graph"):
        conet_fx.save(resized, plan, tmp_path)
    assert torch.equal(conet_fx.apply(model, tmp_path)(IMAGES), resized(IMAGES))


def test_a_function_that_has_the_layer_from_a_global_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    monkeypatch.setitem(globals(), "LAYER", model.b)
    model.b.forward = lambda x: circular(globals()["LAYER"], x)
    with pytest.raises(TraceError, match=r"test_closures.py:\d+ is not among the parameters .* from a global name"):
        conet_fx.analyze(model, IMAGES)


def test_a_forward_of_its_own_that_cannot_be_followed_stands_for_itself() -> None:
    def mapped(self: nn.Conv2d, x: Tensor) -> Tensor:
        return torch.vmap(lambda image: circular(self, image[None])[0])(x)

    model = Net().eval()
    model.b.forward = types.MethodType(mapped, model.b)
    plan = conet_fx.analyze(model, IMAGES)
    assert not plan.free, "what its convolution does with channels is not known"
    assert torch.equal(plan.resize({}, init="inherit")(IMAGES), model(IMAGES))


def test_scripted_traced_and_compiled_functions_are_looked_into() -> None:
    scripted = torch.jit.script(swish)
    traced = torch.jit.trace(lambda x: x.relu() + 1, torch.rand(2, 3))  # type: ignore[no-untyped-call]
    compiled = torch.compile(swish, backend="eager")

    class Compiled(Net):
        @torch.compile(backend="eager")
        def middle(self, x: Tensor) -> Any:
            return self.b(x)

        def forward(self, x: Tensor) -> Any:
            x = compiled(scripted(self.a(x), 2))
            return self.head(traced(self.middle(x)).mean((2, 3)))

    plan = check(Compiled())
    assert any(node.target is torch.sigmoid for node in plan.resize({}).graph.nodes)
    assert torch.equal(scripted(IMAGES, 2), swish(IMAGES, 2)), "and are themselves outside"


def swish(x: Tensor, times: int = 1) -> Tensor:
    for _ in range(times):
        x = x * torch.sigmoid(x)
    return x
