"""The generator itself: its programs run, train and trace, and between them they use the whole operator table."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from hypothesis import given, settings
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from conet_fx.passes import ops
from conet_fx.passes.nodes import plain_subclass
from conet_fx.passes.trace import trace
from tests.property import test_freedom, test_invariants
from tests.property.networks import OPERATORS, Program, RandomNet, every_use, programs, randomize, resolve
from tests.property.profiles import EXAMPLES


def run(module: nn.Module, program: Program) -> list[Tensor]:
    torch.manual_seed(0)
    return pytree.tree_leaves(module(program.input()))


@EXAMPLES
@given(programs())
def test_programs_run_and_back_propagate(program: Program) -> None:
    model = RandomNet(program)
    randomize(model)
    for mode in (True, False):
        outputs = run(model.train(mode), program)
        assert outputs[0].shape == (2, 3)
        assert all(value.isfinite().all() for value in outputs)
        model.zero_grad()
        sum(value.sum() for value in outputs).backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("head"))


@EXAMPLES
@given(programs())
def test_programs_trace(program: Program) -> None:
    model = RandomNet(program).eval()
    randomize(model)
    pairs = zip(run(trace(model, program.input()).graph_module, program), run(model, program), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


def test_a_program_reads_like_a_program() -> None:
    program = resolve(1, 3, 4, [("conv1", (0, 2)), ("split_by_list", (0, 1))], returned=1)
    assert repr(program) == (
        "\nv0 = input[2, 3, 4]\nv1 = conv1(v0, width=4)  # [2, 4, 4]\n"
        "v2, v3 = split_by_list(v1, first=2, name='split')  # [2, 2, 4], [2, 2, 4]\n"
        "return head(v2) + head(v3), v3\n"
    )


TRACED_THROUGH = "torch.fx records what it calls"
IN_PLACE = "torch.fx writes x += y as x + y, and x.__add__(y) too"
NUMBERS = "its argument is a number that Python has already got when torch.fx records"
ON_A_GPU = "runs only where there is a GPU"
BOXES = "takes boxes, which are data of their own: it is in the catalogue"
CLASSES = "compares with numbers of classes, which are data of their own: it is in the catalogue"
EXPERIMENTAL = "warns that torch hardly supports it"
RANDOM = "draws random numbers for each channel, so that no resize can keep its function"
NOT_GENERATED: dict[Callable[..., Any] | str | type, str] = {
    **dict.fromkeys([F.sigmoid, F.tanh, F.upsample, F.upsample_nearest, F.upsample_bilinear], TRACED_THROUGH),
    **dict.fromkeys([torchvision.ops.DeformConv2d, torchvision.ops.StochasticDepth], TRACED_THROUGH),
    torchvision.ops.stochastic_depth: TRACED_THROUGH,
    **dict.fromkeys([operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow], IN_PLACE),
    **dict.fromkeys([operator.iand, operator.ior, operator.ixor, "__setitem__"], IN_PLACE),
    **dict.fromkeys(["__add__", "__radd__", "__sub__", "__mul__", "__rmul__", "__truediv__", "__pow__"], IN_PLACE),
    **dict.fromkeys(["__matmul__", "__getitem__"], IN_PLACE),
    **dict.fromkeys([math.sqrt, math.log, math.log2, math.log10, math.exp, math.pow, math.floor, math.ceil], NUMBERS),
    **dict.fromkeys([builtins.len, operator.not_], NUMBERS),
    **dict.fromkeys(["cuda", "xpu", "get_device", "pin_memory"], ON_A_GPU),
    nn.SyncBatchNorm: ON_A_GPU,
    "chalf": EXPERIMENTAL,
    **dict.fromkeys([torchvision.ops.roi_align, torchvision.ops.roi_pool], BOXES),
    **dict.fromkeys([F.cross_entropy, F.nll_loss, F.multi_margin_loss, F.multilabel_margin_loss], CLASSES),
    **dict.fromkeys([nn.FractionalMaxPool2d, nn.FractionalMaxPool3d], RANDOM),
    **dict.fromkeys([F.fractional_max_pool2d, F.fractional_max_pool3d], RANDOM),
    **dict.fromkeys([F.fractional_max_pool2d_with_indices, F.fractional_max_pool3d_with_indices], RANDOM),
}


@functools.cache
def generated() -> frozenset[Any]:
    """All operators in the graphs of programs that try each option of each operator of the generator."""
    found: set[Any] = set()
    for name in OPERATORS:
        for program in every_use(name):
            root = trace(RandomNet(program).eval(), program.input()).graph_module
            for node in root.graph.nodes:
                if node.op == "call_module":
                    found.add(plain_subclass(root.get_submodule(str(node.target))))
                elif node.op in ("call_function", "call_method"):
                    found.add(node.target)
    return frozenset(found)


def test_every_operator_of_the_table_is_generated() -> None:
    table = {*ops.FUNCTIONS, *ops.METHODS, *ops.MODULES}
    assert table - generated() - NOT_GENERATED.keys() == set()


def test_what_is_said_not_to_be_generated_is_not() -> None:
    assert generated() & NOT_GENERATED.keys() == set()


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_of_the_generator_can_be_used(name: str) -> None:
    assert next(every_use(name), None) is not None


def test_the_thorough_profile_tries_twenty_thousand_networks() -> None:
    properties = [
        function
        for module in (test_freedom, test_invariants, sys.modules[__name__])
        for name, function in vars(module).items()
        if name.startswith("test_") and getattr(function, "is_hypothesis_test", False)
    ]
    assert len(properties) * settings.get_profile("thorough").max_examples >= 20_000
    assert len(properties) * settings.get_profile("ci").max_examples <= 700
