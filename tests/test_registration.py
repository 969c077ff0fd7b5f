"""Operators of the user's own: ``register_op``, ``register_module``, and how they are undone."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import conet_fx
from conet_fx.errors import ConstraintError
from conet_fx.passes import custom, ops, rules
from conet_fx.passes.call import Call, Layout
from conet_fx.passes.call import Tensor as Dims
from tests.passes.battery import check_everything
from tests.passes.cases import conv, net

IMAGE = torch.randn(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def tables_as_they_were() -> Iterator[None]:
    tables = (ops.FUNCTIONS, ops.METHODS, ops.MODULES, custom.FUNCTIONS, custom.CLASSES)
    before = [table.copy() for table in tables]
    yield
    assert [table.copy() for table in tables] == before


def bend(features: Tensor, *, strength: float = 0.5) -> Tensor:
    """Ordinary Python around an operator that the table lacks."""
    out = features
    for _ in range(2):
        out = torch.special.i1e(out) * strength
    return out


def joined(a: Tensor, b: Tensor, scale: float = 2.0) -> Tensor:
    return torch.special.i1e(a) * scale + b


class Gain(nn.Module):
    """One number a channel, and a linear layer that is looked into by nobody."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.inner = nn.ParameterDict({"gain": nn.Parameter(torch.rand(channels))})

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.special.i1e(self.inner["gain"])[:, None, None]


class Narrow(Gain):
    """Initialised in another way."""

    def __init__(self) -> None:
        super().__init__(6)


class Other(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class PerChannel(rules.Rule):
    def depth(self, call: Call) -> Dims:
        dims = call.dims()
        layer = call.layer("norm", **{"in": dims[1]})
        layer.tensors = (Layout("inner.gain", (dims[1],), ("in",)),)
        layer.attributes = (("channels", dims[1]),)
        return Dims(dims)

    def labels(self, call: Any) -> Any:
        fields = call.fields()
        if 1 in fields:
            call.marker.uses(call.path, "in", call.marker.line(fields[1], 1))
        return fields


def chain(use: Callable[[Tensor], Tensor]) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(use(self.a(x)))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


def called(plan: conet_fx.ChannelPlan) -> list[str]:
    """Names of the functions in the graph."""
    return [node.target.__name__ for node in plan.trace.graph_module.graph.nodes if node.op == "call_function"]


# --- functions -------------------------------------------------------------------------------------------------------


def enclosed(factor: float) -> Callable[[Tensor], Tensor]:
    def inside(x: Tensor, power: int = 1) -> Tensor:
        return torch.special.i1e(x) * factor**power

    return inside


def test_a_function_is_one_node_however_it_is_referred_to() -> None:
    inside = enclosed(3.0)
    uses: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
        (bend, bend),
        (bend, lambda x: bend(features=x, strength=0.25)),
        (bend, functools.partial(bend, strength=0.25)),
        (inside, inside),
        (inside, functools.partial(inside, power=2)),
    ]
    for function, use in uses:
        model = chain(use)
        assert model(IMAGE).shape == (2, 5, 8, 8)
        assert conet_fx.analyze(model, IMAGE).group("a").frozen
        with conet_fx.register_op(function, rules.Elementwise()):
            plan = check_everything(model, IMAGE, seeds=(0,))
            assert called(plan) == [function.__name__]
            assert plan.group("a").frozen is None


def test_a_function_is_itself_again_after_a_trace() -> None:
    inside = enclosed(3.0)
    before = [(f.__code__, f.__defaults__, f.__kwdefaults__) for f in (bend, inside)]
    with conet_fx.register_op(bend, rules.Elementwise()), conet_fx.register_op(inside, rules.Elementwise()):
        conet_fx.analyze(chain(bend), IMAGE)
        with pytest.raises(conet_fx.TraceError, match="bend"):
            conet_fx.analyze(chain(lambda x: bend(x, wrong=1)), IMAGE)  # type: ignore[call-arg]
        assert [(f.__code__, f.__defaults__, f.__kwdefaults__) for f in (bend, inside)] == before
        assert torch.equal(inside(IMAGE), torch.special.i1e(IMAGE) * 3)


def test_the_line_is_the_users() -> None:
    with conet_fx.register_op(bend, rules.Elementwise()):
        plan = conet_fx.analyze(chain(bend), IMAGE)
    node = next(node for node in plan.trace.graph_module.graph.nodes if node.op == "call_function")
    assert re.search(r"test_registration.py:\d+$", node.meta["source"])


def test_several_tensors() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(joined(b=self.a(x), a=self.b(x)))

    with conet_fx.register_op(joined, rules.Summation(), "input other"):
        plan = check_everything(net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 5)), IMAGE)
    assert [group.writers for group in plan.free] == [("a", "b")]
    assert next(d["kind"] for n, d in plan.graph.nodes(data=True) if n == "joined") == "summation"


def test_torch_functions_methods_and_custom_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "sin_of_the_tests", torch.Tensor.sin, raising=False)

    @torch.library.custom_op("conet_fx_tests::bent", mutates_args=())
    def bent(x: Tensor) -> Tensor:
        return x.sin()

    @bent.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    overload = torch.ops.conet_fx_tests.bent
    uses: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
        (torch.special.i1e, torch.special.i1e),
        ("sin_of_the_tests", lambda x: x.sin_of_the_tests()),
        (bent, bent),
        (bent, overload),
        (overload, bent),
        (overload.default, overload.default),
    ]
    for target, use in uses:
        with conet_fx.register_op(target, rules.Elementwise()):
            plan = conet_fx.analyze(chain(use), IMAGE)
        assert plan.group("a").frozen is None
        assert conet_fx.analyze(chain(use), IMAGE).group("a").frozen


def test_a_plan_keeps_what_it_knows() -> None:
    with conet_fx.register_op(bend, rules.Elementwise()):
        plan = conet_fx.analyze(chain(bend), IMAGE)
    resized = plan.resize({"a": 4}, init="inherit")
    assert resized(IMAGE).shape == (2, 5, 8, 8)
    assert plan.graph.number_of_nodes() == 5


def test_a_rule_that_promises_too_much_freezes() -> None:
    with (
        conet_fx.register_op(bend, rules.Reduce(), "input dim=1"),
        pytest.raises(ConstraintError, match=r"reads an argument 'keepdim' that its entry does not name .*input, dim"),
    ):
        conet_fx.analyze(chain(bend), IMAGE)
    with conet_fx.register_op(bend, rules.Reduce(), "input dim=1 keepdim=False"):
        plan = conet_fx.analyze(chain(bend), IMAGE)
    assert re.search(r"bend at .* \(its result has another shape\)", str(plan.group("a").frozen))


def test_a_rule_that_is_wrong_at_other_sizes_is_named() -> None:
    class Keeps(rules.Rule):
        """Claims that an operator with six numbers of its own takes any number of channels."""

        def depth(self, call: Call) -> Dims:
            return Dims(call.dims())

        def labels(self, call: Any) -> Any:
            return call.fields()

    with conet_fx.register_module(Gain, Keeps()):
        plan = conet_fx.analyze(wrapped(Gain(6)), IMAGE)
    with pytest.raises(conet_fx.ResizeError, match=r"middle .*does not run at the new sizes") as caught:
        plan.resize({"a": 4})
    assert re.match(r"registered operators take part.*: middle at \S+test_reg", caught.value.__notes__[0])


def test_a_rule_that_fails_says_where() -> None:
    class Faulty(rules.Rule):
        def depth(self, call: Call) -> Dims:
            return Dims(call.dims()[:9][7])  # type: ignore[arg-type]

    with conet_fx.register_op(bend, Faulty()), pytest.raises(IndexError) as caught:
        conet_fx.analyze(chain(bend), IMAGE)
    assert re.search(r"the rule Faulty followed bend at \S+test_registration.py:\d+", caught.value.__notes__[0])


# --- modules ---------------------------------------------------------------------------------------------------------


def wrapped(middle: nn.Module) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.middle(self.a(x)))

    return net(forward, a=conv(3, 6), middle=middle, out=conv(6, 5))


def test_a_module_is_a_leaf() -> None:
    assert conet_fx.analyze(wrapped(Gain(6)), IMAGE).group("a").frozen
    with conet_fx.register_module(Gain, PerChannel()):
        for middle in (Gain(6), Narrow()):
            plan = check_everything(wrapped(middle), IMAGE)
            assert [n.target for n in plan.trace.graph_module.graph.nodes if n.op == "call_module"] == [
                "a",
                "middle",
                "out",
            ]
            resized = plan.resize({"a": 4}, init="inherit")
            assert resized.get_submodule("middle").channels == 4
            assert resized.get_parameter("middle.inner.gain").shape == (4,)
        with pytest.raises(ConstraintError, match="i1e"):  # another forward is another behaviour
            conet_fx.analyze(wrapped(Other(6)), IMAGE, strict=True)
    assert conet_fx.analyze(wrapped(Gain(6)), IMAGE).group("a").frozen


class Renorm(nn.Module):
    """A batch norm that users write themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1e(x / self.width) * self.weight[:, None, None] + self.bias[:, None, None]


def test_a_norm_of_the_users_own() -> None:
    with conet_fx.register_module(Renorm, rules.ChannelNorm("width", mixes=True)):
        model = wrapped(Renorm(6))
        plan = check_everything(model, IMAGE)
        assert plan.group("a").mixed_by
        assert plan.resize({"a": 9}).get_submodule("middle").width == 9


class Squashed(nn.Sequential):
    pass


def test_a_sequential_of_the_users_own() -> None:
    model = wrapped(Squashed(nn.ReLU(), nn.Softplus(2)))
    with conet_fx.register_module(Squashed, rules.Elementwise()):
        plan = check_everything(model, IMAGE)
        assert isinstance(plan.resize({}).get_submodule("middle"), Squashed)
        assert "middle" in plan.graph


# --- refusals --------------------------------------------------------------------------------------------------------

E = rules.Elementwise()


class NoDepth(rules.Rule):
    pass


@pytest.mark.parametrize(
    ("register", "error", "text"),
    [
        (lambda: conet_fx.register_op(torch.relu, E), ValueError, "relu stands in the operator table already.*Element"),
        (lambda: conet_fx.register_op("relu", E), ValueError, "relu stands in the operator table already"),
        (lambda: conet_fx.register_module(nn.Conv2d, E), ValueError, "Conv2d stands .* with the rule Convolution"),
        (lambda: conet_fx.register_op(bend, None), TypeError, "rule must be an instance.* not None"),
        (
            lambda: conet_fx.register_op(bend, rules.Elementwise),
            TypeError,
            r"pass an instance, such as Elementwise\(\)",
        ),
        (lambda: conet_fx.register_op(bend, NoDepth()), TypeError, r"NoDepth has no depth\(\)"),
        (lambda: conet_fx.register_op(bend), TypeError, "rule"),
        (lambda: conet_fx.register_op("erfin", E), ValueError, "no method 'erfin'; did you mean 'erfinv'"),
        (lambda: conet_fx.register_op(torch.Tensor.erfinv, E), TypeError, "by its name: register_op.'erfinv'"),
        (lambda: conet_fx.register_op(Gain(3), E), TypeError, "is a module: use register_module"),
        (lambda: conet_fx.register_op(Gain, E), TypeError, "is a module: use register_module"),
        (lambda: conet_fx.register_op(functools.partial(bend), E), TypeError, "call an object .* from a function"),
        (lambda: conet_fx.register_op(IMAGE.erfinv, E, 3), TypeError, "arguments must be a string"),
        (lambda: conet_fx.register_op(bend, E, "input dim=x"), ValueError, "a default is no Python literal"),
        (lambda: conet_fx.register_op(bend, E, "input 2"), ValueError, "'2' is no argument name"),
        (lambda: conet_fx.register_module(Gain(3), E), TypeError, "pass its class, Gain"),
        (lambda: conet_fx.register_module(bend, E), TypeError, "takes a subclass of torch.nn.Module"),
        (lambda: conet_fx.register_module(nn.Sequential, E), TypeError, "register the subclass"),
    ],
)
def test_refusals(register: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        register()


def test_twice_is_an_error_until_it_is_undone() -> None:
    first = conet_fx.register_op(bend, E)
    with pytest.raises(ValueError, match="bend stands in the operator table already"):
        conet_fx.register_op(bend, E)
    first.undo()
    second = conet_fx.register_op(bend, E)
    first.undo()  # what it registered is gone, and the second is not its own
    assert bend in ops.FUNCTIONS
    second.undo()
    with conet_fx.register_module(Gain, E), pytest.raises(ValueError, match="Gain stands"):
        conet_fx.register_module(Gain, E)


def test_the_graph_of_a_user_keeps_the_function() -> None:
    with conet_fx.register_op(bend, E):
        graph_module = conet_fx.analyze(chain(bend), IMAGE).resize({"a": 3})
    assert isinstance(graph_module, fx.GraphModule)
    assert any(node.target is bend for node in graph_module.graph.nodes)
