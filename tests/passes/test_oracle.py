"""Plans against PyTorch's own symbolic shapes (:mod:`tests.passes.oracle`): equal where it says so, and no further."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import conet_fx
from conet_fx.passes.depth import Depths
from conet_fx.passes.nodes import attribute
from conet_fx.plan import ChannelPlan
from tests.passes.cases import CASES, Case
from tests.passes.oracle import Axis, Row, Span, relations
from tests.passes.test_torchvision import build


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between a plan and the oracle: how many sizes only one of them lets change by themselves.

    ``coarse``: the oracle's alone. ``bold``: the plan's alone. ``steps``: groups whose step could be a fraction of what
    the plan says. ``broken``: groups whose step breaks a divisibility. ``unread``: equalities that are not linear.
    ``detail`` says the same in words.
    """

    coarse: int = 0
    bold: int = 0
    steps: int = 0
    broken: int = 0
    unread: int = 0
    detail: str = dataclasses.field(default="", compare=False)


def steps_of(model: nn.Module, plan: ChannelPlan, axes: set[Axis]) -> dict[str, Row]:
    """By how much each axis grows where a free group grows by one quantum."""
    depths = plan.facts.depths
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    steps: dict[str, Row] = {group.name: {} for group in plan.free}
    roots = {root: group.name for root, group in plan._groups.items() if group.name in steps}
    for layer in plan.facts.layers.values():
        for layout in layer.tensors:
            path = f"{layer.path}.{layout.name}".rstrip(".")
            name = names.get(id(attribute(plan.trace.graph_module, path)), "")
            for axis, dim in enumerate(layout.dims):
                for root in depths.roots(dim):
                    if root in roots and (name, axis) in axes:
                        steps[roots[root]][name, axis] = Fraction(depths.share(dim, root), depths.steps(root))
    return {name: step for name, step in steps.items() if step}


def compare(model: nn.Module, inputs: tuple[torch.Tensor, ...], **options: bool) -> Difference:
    """The difference between the plan of ``model`` in eval mode and what PyTorch says."""
    model = model.eval()
    found = relations(model, inputs)
    plan = conet_fx.analyze(model, inputs, **{**options, "resize_linear": True})
    steps = steps_of(model, plan, set(found.axes))
    # one variable for each axis; what they say of variables that are no axis is eliminated first
    holders = {next(iter(form)): (axis, next(iter(form.values()))) for axis, form in found.axes.items()}
    equal = Span(found.equal, last=holders)
    changes = [
        {axis: value for axis, form in found.axes.items() if (value := dot(form, change))}
        for change in equal.null(holders)
    ]
    ours, theirs = Span(steps.values()), Span(changes)
    divisible = [(rest, of) for form, of in found.divisible if (rest := equal.rest(form)).keys() <= holders.keys()]

    def fits(step: Row) -> bool:
        change = {var: step.get(axis, Fraction(0)) / factor for var, (axis, factor) in holders.items()}
        whole = all(value.denominator == 1 for value in (*change.values(), *step.values()))
        return whole and all(dot(form, change) % of == 0 for form, of in divisible)

    agreed = {name: step for name, step in steps.items() if not theirs.rest(step)}
    coarse, bold = [rest for change in changes if (rest := ours.rest(change))], steps.keys() - agreed.keys()
    finer = [name for name, step in agreed.items() if any(fits(fraction(step, p)) for p in primes(step))]
    broken = [name for name, step in agreed.items() if not fits(step)]
    both = Span([*ours.rows.values(), *changes])
    return Difference(
        coarse=len(both) - len(ours),
        bold=len(both) - len(theirs),
        steps=len(finer),
        broken=len(broken),
        unread=len(found.unread),
        detail=f"more freedom: {[sorted(map(str, rest)) for rest in coarse]}; the plan alone lets change: "
        f"{sorted(bold)}; in smaller steps: {finer}; in larger steps: {broken}; unread: {found.unread}\n"
        + plan.explain(),
    )


def dot(form: Row, change: Row) -> Fraction:
    return sum((value * change.get(var, Fraction(0)) for var, value in form.items()), Fraction(0))


def fraction(step: Row, of: int) -> Row:
    return {axis: value / of for axis, value in step.items()}


def primes(step: Row) -> list[int]:
    """Of the largest number that divides all of ``step``."""
    whole = math.gcd(*(int(value) for value in step.values()))
    return [p for p in range(2, whole + 1) if whole % p == 0 and all(p % q for q in range(2, p))]


NETWORKS = {
    "resnet18": 32,
    "resnet50": 32,
    "resnext50_32x4d": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "densenet121": 32,
    "googlenet": 32,
    "efficientnet_b0": 32,
    "regnet_y_400mf": 32,
    "squeezenet1_1": 32,
    "convnext_tiny": 32,
    "vgg11_bn": 32,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision(name: str) -> None:
    """No difference: what PyTorch finds independent is free, what it finds equal is tied, steps are as small."""
    size = NETWORKS[name]
    difference = compare(build(name), (torch.randn(1, 3, size, size),))
    assert difference == Difference(), difference.detail


# why a plan and the oracle differ
LITERAL = "the program spells out a number of channels: PyTorch holds on to it, a rewrite changes it"
PLAIN = "PyTorch pins what it takes as a plain number: for math.sqrt, torch.tensor, the groups of a group norm"
PART = "PyTorch takes a part of the values where the index is shorter, which the plan does not let come about"
INSIDE = "a module of torch.nn keeps a number of channels: PyTorch holds on to it, a rewrite changes it"
ONE = "a size of one stays one for PyTorch, since it may broadcast"
MULTIPLIER = "how many outputs a depthwise layer has for each input is a number of the program"
REFUSED = "the plan does not follow what is done with these channels, and says so"
PARTS = "parts that meet, or are cut, as a whole: a plan ties them one by one, or keeps their proportion"
FLOOR = "a floor division: the plan keeps it exact, PyTorch takes the rest of the channels as they come"
LENGTH = "the length of a parameter or buffer that no layer writes: rows of a table, classes, positions of an image"
PRODUCT = "one size is the product of others, which is no linear equation"
CLASSES = "channels are compared with numbers of classes, which may come from data"
UNCHECKED = "torchvision computes what comes out of a deformable convolution, and does not ask what fits"
MODE = "the other mode ties them, of which the oracle, in eval mode, sees nothing"

DIFFERENT: dict[str, tuple[str, Difference]] = {
    "blocks-res2net": (LITERAL, Difference(bold=1)),
    "blocks-dual_path": (LITERAL, Difference(bold=1)),
    "designs-involution": (LITERAL, Difference(bold=1)),
    "designs-dynamic_relu": (LITERAL, Difference(bold=1)),
    "designs-blur_pool": (LITERAL, Difference(bold=1)),
    "computed-octave_convolution": (LITERAL, Difference(bold=2)),
    "designs-partial_convolution": (LITERAL, Difference(bold=2)),
    "designs-mixed_depthwise": (LITERAL, Difference(bold=3)),
    "layers-layer_norm_2d": (LITERAL, Difference(bold=1)),
    "moves-split_by_size": (LITERAL, Difference(bold=1)),
    "moves-split_by_list": (LITERAL, Difference(bold=2)),
    "moves-slices": (LITERAL, Difference(bold=1)),
    "moves-overlapping_slices": (LITERAL, Difference(bold=1)),
    "moves-slice_across_a_cat": (LITERAL, Difference(bold=1)),
    "moves-channel_shuffle_hard_coded": (LITERAL, Difference(bold=1)),
    "moves-max_feature_map": (LITERAL, Difference(bold=1)),
    "moves-flatten_by_literal": (LITERAL, Difference(bold=1)),
    "numbers-created_by_literal": (LITERAL, Difference(bold=1)),
    "computed-fourier_layer": (LITERAL, Difference(bold=1)),
    "spellings-everything_by_keyword": (LITERAL, Difference(bold=1)),
    "spellings-split_size_by_keyword": (LITERAL, Difference(bold=1)),
    "spellings-negative_dims": (LITERAL, Difference(bold=1)),
    "spellings-slices_in_all_directions": (LITERAL, Difference(bold=1)),
    "spellings-channel_by_channel": (LITERAL, Difference(bold=1)),
    "spellings-shapes_of_another_tensor": (LITERAL, Difference(bold=1)),
    "spellings-unflattened": (LITERAL, Difference(bold=1)),
    "spellings-stack_of_a_chunk": (LITERAL, Difference(bold=1)),
    "joins-zeros_in_other_spellings": (LITERAL, Difference(bold=1)),
    "joins-stack_with_a_position": (LITERAL, Difference(bold=1)),
    "joins-gate_at_one_channel": (LITERAL, Difference(bold=1)),
    "layers-root_mean_square_by_hand": (LITERAL, Difference(bold=1)),
    "layers-bare_parameters": (LITERAL, Difference(bold=1)),
    "layers-standardised_kernels": (LITERAL, Difference(bold=2)),
    "moves-narrow_channels": (LITERAL, Difference(bold=1)),
    "moves-written_with_another_tensor": (LITERAL, Difference(bold=1)),
    "picks-assembled_from_parts": (LITERAL, Difference(bold=2)),
    "transformers-joint_projection_of_literal_sizes": (LITERAL, Difference(bold=1)),
    "transformers-heads_among_the_samples": (LITERAL, Difference(bold=1)),
    # a literal bound of a slice: for PyTorch what lies behind it grows
    "spellings-empty_slices": (LITERAL, Difference(coarse=1, bold=1)),
    "spellings-slices_with_step_and_offset": (LITERAL, Difference(coarse=1, bold=1)),
    "designs-recurrent_reading_of_the_last": (LITERAL, Difference(coarse=2, bold=1)),
    "computed-slimmable_convolution": (LITERAL, Difference(coarse=3, bold=2)),
    # groups=12 is a number, and of a multiple of 12 outputs any goes
    "layers-functional_depthwise_buffer": (LITERAL, Difference(coarse=1, bold=1)),
    "computed-weight_norm_by_a_hook": (INSIDE, Difference(bold=2)),
    "designs-shuffle_attention": (PLAIN, Difference(bold=1)),
    "spellings-flatten_by_numel": (PLAIN, Difference(bold=1)),
    "spellings-factor_from_the_count": (PLAIN, Difference(bold=1)),
    "numbers-square_root_of_the_count": (PLAIN, Difference(bold=1)),
    "numbers-count_read_by_python": (PLAIN, Difference(bold=1)),
    "numbers-count_in_a_tensor": (PLAIN, Difference(bold=1)),
    "numbers-numpy_numbers": (LITERAL, Difference(bold=1)),
    "numbers-numbers_of_the_channels": (PLAIN, Difference(bold=1)),
    "picks-scattered": (PART, Difference(coarse=1)),
    "picks-scattered_channels": (REFUSED, Difference(coarse=1)),
    "picks-index_of_rows": (PLAIN, Difference(bold=1)),
    "attention-multihead_attention": (INSIDE, Difference(bold=1)),
    "attention-multihead_attention_sequence_first": (INSIDE, Difference(bold=1)),
    "attention-cross_attention": (INSIDE, Difference(bold=3)),
    "designs-recurrent_head": (INSIDE, Difference(bold=1)),
    "moves-unflatten_modules": (INSIDE, Difference(bold=1)),
    "sequences-lstm": (INSIDE, Difference(bold=1)),
    "sequences-gru": (INSIDE, Difference(bold=1)),
    "sequences-plain_recurrence": (INSIDE, Difference(bold=1)),
    "sequences-cells": (INSIDE, Difference(bold=1)),
    # for PyTorch the last projection may be of another width
    "attention-attention_to_another_image": (INSIDE, Difference(coarse=1, bold=1)),
    "layers-depthwise_on_the_image": (MULTIPLIER, Difference(bold=1)),
    "computed-functional_depthwise_transposed": (MULTIPLIER, Difference(coarse=2, unread=2)),
    "blocks-conditional_convolution": (REFUSED, Difference(coarse=1)),
    "moves-one_channel_by_number": (REFUSED, Difference(coarse=1)),
    "moves-channels_by_index": (REFUSED, Difference(coarse=1)),
    "numbers-condition": (REFUSED, Difference(coarse=1)),
    "numbers-squared_count": (REFUSED, Difference(coarse=2, unread=2)),
    "numbers-unknown_function": (REFUSED, Difference(coarse=1)),
    "modes-joined_in_one_mode": (MODE, Difference(coarse=1)),
    # two: for PyTorch the last projection may be of another width too
    "attention-attention_among_channels": (REFUSED, Difference(coarse=2)),
    "computed-parametrized_norm": (REFUSED, Difference(coarse=1)),
    "picks-index_of_channels": (REFUSED, Difference(coarse=1)),
    "picks-gather_of_channels": (REFUSED, Difference(coarse=1)),
    "picks-assigned_by_index": (REFUSED, Difference(coarse=1)),
    "sampling-fourier_over_channels": (REFUSED, Difference(coarse=1)),
    "sampling-windows_of_channels": (REFUSED, Difference(coarse=1)),
    "sampling-strided_along_channels": (f"{REFUSED}; {ONE}", Difference(coarse=1, bold=1)),
    "spellings-rounded_share": (REFUSED, Difference(coarse=1, unread=1)),
    "spellings-zeros_to_match": (REFUSED, Difference(coarse=2)),
    "spellings-unequal_pieces": (REFUSED, Difference(coarse=1)),
    "designs-dense_with_shuffles": (PARTS, Difference(coarse=2)),
    "layers-shared_head": (PARTS, Difference(coarse=1)),
    "attention-attention_pooling": (PARTS, Difference(coarse=2)),
    "moves-chunk_of_a_cat": (PARTS, Difference(coarse=1)),
    "moves-chunk_of_an_uneven_cat": (PARTS, Difference(coarse=1)),
    "moves-shuffle_of_a_cat_then_slices": (PARTS, Difference(coarse=1, steps=1)),
    "moves-shuffle_of_a_cat_then_chunk": (PARTS, Difference(coarse=1, steps=1)),
    "transformers-multi_scale_linear_attention": (PARTS, Difference(coarse=1)),
    "designs-temporal_shift": (FLOOR, Difference(steps=1)),
    "spellings-python_max_of_counts": (FLOOR, Difference(steps=1)),
    "moves-written_in_channels": (FLOOR, Difference(steps=1)),
    "designs-weighted_fusion": (LENGTH, Difference(coarse=1)),
    "joins-cat_with_a_constant": (LENGTH, Difference(coarse=1)),
    "products-einsum_of_numbers": (LENGTH, Difference(coarse=1)),
    "products-inner_and_outer_products": (LENGTH, Difference(coarse=1)),
    "numbers-product_of_a_count_that_stays": (LENGTH, Difference(coarse=1)),
    "sequences-embedding": (LENGTH, Difference(coarse=1)),
    "sequences-embedding_alone": (LENGTH, Difference(coarse=1)),
    "sequences-functional_embedding": (LENGTH, Difference(coarse=1)),
    "transformers-shifted_windows": (LENGTH, Difference(coarse=1)),
    "transformers-bottleneck_attention": (LENGTH, Difference(coarse=2, unread=5)),
    "sampling-deformable": (UNCHECKED, Difference(coarse=4)),
    "sampling-functional_deformable": (UNCHECKED, Difference(coarse=2)),
    "joins-loss_inside": (CLASSES, Difference(coarse=1)),
    "designs-bilinear_pooling": (PRODUCT, Difference(coarse=2, unread=2)),
}


UNASKED = {"numbers-numpy_functions_of_sizes"}  # numpy's functions refuse the oracle's symbols


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in UNASKED], ids=lambda case: case.name)
def test_catalogue(case: Case) -> None:
    _, expected = DIFFERENT.get(case.name, ("", Difference()))
    options = {name: value for name, value in case.options.items() if name != "tie_concat"}
    difference = compare(case.build(), case.inputs(), **options)
    assert difference.unread <= expected.unread, difference.detail  # versions of torch note down more or fewer
    assert difference == dataclasses.replace(expected, unread=difference.unread), difference.detail


def test_what_is_said_to_differ_is_in_the_catalogue() -> None:
    assert DIFFERENT.keys() | UNASKED <= {case.name for case in CASES}


CATALOGUE = {case.name: case for case in CASES}


def test_groups_that_are_too_coarse_are_noticed() -> None:
    case = CATALOGUE["joins-cat_plus_conv"]
    assert compare(case.build(), case.inputs()).coarse == 0
    assert compare(case.build(), case.inputs(), tie_concat=True).coarse == 1


def test_groups_that_are_too_fine_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CATALOGUE["joins-squeeze_excite_conv"]
    monkeypatch.setattr(Depths, "tie", lambda *args: None)
    assert compare(case.build(), case.inputs()).bold == 1


def test_steps_that_are_too_large_or_too_small_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CATALOGUE["layers-grouped"]
    multiple = Depths.multiple
    monkeypatch.setattr(Depths, "multiple", lambda self, dim, q, why: multiple(self, dim, 2 * q, why))
    assert compare(case.build(), case.inputs()).steps > 0
    monkeypatch.setattr(Depths, "multiple", lambda self, dim, q, why: None)
    assert compare(case.build(), case.inputs()).broken > 0
