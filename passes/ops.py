"""THE table: how each operator carries the channel axis.

One entry an operator: its rule (a behaviour of ``rules.py``) and the names of its arguments, as far as the rule reads
them. To teach conet-fx a new operator, add it to the line of the rule that fits and give it one test; an operator that
stands twice is an error. Whatever is not here freezes the channels that it touches, and the report says so.

An argument list reads like a signature: ``"input dim=0"``; ``*sizes`` takes ``x.view(a, b)`` and ``x.view((a, b))``.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import fx, nn
from torch.nn.utils import parametrize

from conet_fx.passes import rules
from conet_fx.passes.nodes import plain_subclass
from conet_fx.passes.rules import Rule


@dataclasses.dataclass(frozen=True)
class Entry:
    """One operator: its rule and its argument names with defaults."""

    rule: Rule
    arguments: Mapping[str, Any]


FUNCTIONS: dict[Callable[..., Any], Entry] = {}
METHODS: dict[str, Entry] = {}
MODULES: dict[type[nn.Module], Entry] = {}

_NO_ARGUMENTS: Mapping[str, Any] = {}
OUTPUT = Entry(rules.Output(), _NO_ARGUMENTS)
INPUT = Entry(rules.Input(), _NO_ARGUMENTS)
PARAMETER = Entry(rules.Parameter(), _NO_ARGUMENTS)
OPAQUE = Entry(rules.Opaque(), _NO_ARGUMENTS)
RECORD = Entry(rules.Record(), _NO_ARGUMENTS)


def lookup(node: fx.Node, root: nn.Module) -> Entry:
    """The entry of a node; :data:`OPAQUE` where the table has none."""
    if node.op == "placeholder":
        return INPUT
    if node.op == "output":
        return OUTPUT
    if node.op == "get_attr":
        return PARAMETER
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return OPAQUE if parametrize.is_parametrized(module) else MODULES.get(plain_subclass(module), OPAQUE)
    if node.op == "call_method":
        return METHODS.get(str(node.target), OPAQUE)
    if isinstance(node.target, type) and (dataclasses.is_dataclass(node.target) or hasattr(node.target, "_fields")):
        return RECORD
    return FUNCTIONS.get(node.target, OPAQUE)  # type: ignore[arg-type]


def knows(target: Any) -> bool:
    """True for a function or a class of modules that stands in the table."""
    return target in (MODULES if isinstance(target, type) and issubclass(target, nn.Module) else FUNCTIONS)


def register(
    rule: Rule,
    arguments: str = "input",
    *,
    functions: Iterable[Callable[..., Any]] = (),
    methods: str = "",
    modules: Iterable[type[nn.Module]] = (),
) -> None:
    """Add operators that behave like ``rule``. Raises ``ValueError`` for an operator that stands in the table already.

    ``methods`` are names separated by spaces; modules take their operands by ``arguments`` too.
    """
    entry = Entry(rule, _parse(arguments))
    for table, keys in ((FUNCTIONS, functions), (METHODS, methods.split()), (MODULES, modules)):
        for key in keys:
            if key in table:
                raise ValueError(f"{key} stands twice in the operator table")
            table[key] = entry  # type: ignore[index]


def _parse(arguments: str) -> Mapping[str, Any]:
    parsed: dict[str, Any] = {}
    for word in arguments.split():
        name, _, default = word.partition("=")
        parsed[name] = ast.literal_eval(default) if default else None
    return parsed


# --- layers -------------------------------------------------------------------------------------------------

register(rules.Convolution(1), modules=[nn.Conv1d])
register(rules.Convolution(2), modules=[nn.Conv2d])
register(rules.Convolution(3), modules=[nn.Conv3d])
register(rules.Convolution(1, transposed=True), modules=[nn.ConvTranspose1d])
register(rules.Convolution(2, transposed=True), modules=[nn.ConvTranspose2d])
register(rules.Convolution(3, transposed=True), modules=[nn.ConvTranspose3d])
register(rules.Linear(), modules=[nn.Linear])
register(
    rules.ChannelNorm("num_features"),
    modules=[nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm],
)
register(rules.ChannelNorm("num_features", spatial=1), modules=[nn.InstanceNorm1d])
register(rules.ChannelNorm("num_features", spatial=2), modules=[nn.InstanceNorm2d])
register(rules.ChannelNorm("num_features", spatial=3), modules=[nn.InstanceNorm3d])
register(rules.ChannelNorm("num_channels", mixes=True), modules=[nn.GroupNorm])
register(rules.ChannelNorm("num_parameters"), modules=[nn.PReLU])
register(rules.LayerNorm(), modules=[nn.LayerNorm, nn.RMSNorm])
register(
    rules.MultiheadAttention(),
    "query key value key_padding_mask need_weights=True attn_mask",
    modules=[nn.MultiheadAttention],
)

_CONV_ARGUMENTS = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
register(rules.FunctionalConvolution(1), _CONV_ARGUMENTS, functions=[F.conv1d])
register(rules.FunctionalConvolution(2), _CONV_ARGUMENTS, functions=[F.conv2d])
register(rules.FunctionalConvolution(3), _CONV_ARGUMENTS, functions=[F.conv3d])
register(rules.FunctionalLinear(), "input weight bias=None", functions=[F.linear])
register(
    rules.FunctionalNorm(("mean", "var", "weight", "bias")),
    "input mean var weight=None bias=None",
    functions=[F.batch_norm],
)
register(
    rules.FunctionalNorm(("mean", "var", "weight", "bias")),
    "input mean=None var=None weight=None bias=None",
    functions=[F.instance_norm],
)
register(
    rules.FunctionalNorm(("weight", "bias"), mixes=True),
    "input num_groups weight=None bias=None",
    functions=[F.group_norm],
)
register(rules.FunctionalNorm(("weight",)), "input weight", functions=[F.prelu], methods="prelu")
register(
    rules.FunctionalLayerNorm(),
    "input normalized_shape weight=None bias=None",
    functions=[F.layer_norm, F.rms_norm],
)

# --- operators that keep the channel axis -------------------------------------------------------------------

register(
    rules.Elementwise(),
    functions=[
        F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign,
        F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, F.sigmoid, F.tanh, F.threshold, F.tanhshrink,
        F.softshrink, F.hardshrink, F.rrelu, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout,
        F.feature_alpha_dropout, torchvision.ops.stochastic_depth,
        torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.exp, torch.log, torch.log1p, torch.expm1, torch.sqrt,
        torch.rsqrt, torch.abs, torch.neg, torch.square, torch.sin, torch.cos, torch.erf, torch.sign, torch.round,
        torch.floor, torch.ceil, torch.reciprocal, torch.clone, torch.nan_to_num, torch.detach, torch.zeros_like,
        torch.ones_like, torch.rand_like, torch.randn_like, torch.empty_like, torch.full_like, torch.isnan,
        torch.logical_not, operator.neg, operator.pos, operator.invert, operator.abs,
    ],
    methods="relu relu_ sigmoid sigmoid_ tanh tanh_ exp log log1p expm1 sqrt rsqrt abs neg square sin cos erf sign "
    "round floor ceil reciprocal clone contiguous detach float double half bfloat16 int long bool cpu cuda type to "
    "requires_grad_ nan_to_num fill_ zero_ logical_not isnan type_as",
    modules=[
        nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
        nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Sigmoid, nn.Tanh, nn.Threshold,
        nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.RReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
        nn.AlphaDropout, nn.FeatureAlphaDropout, torchvision.ops.StochasticDepth,
    ],
)  # fmt: skip
register(
    rules.Spatial(1),
    functions=[F.max_pool1d, F.avg_pool1d, F.lp_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d],
    modules=[nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
             nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ConstantPad1d, nn.ZeroPad1d, nn.CircularPad1d],
)  # fmt: skip
register(
    rules.Spatial(2),
    functions=[F.max_pool2d, F.avg_pool2d, F.lp_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d],
    modules=[nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
             nn.FractionalMaxPool2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.ZeroPad2d,
             nn.CircularPad2d],
)  # fmt: skip
register(
    rules.Spatial(3),
    functions=[F.max_pool3d, F.avg_pool3d, F.lp_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d],
    modules=[nn.MaxPool3d, nn.AvgPool3d, nn.LPPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d,
             nn.ReflectionPad3d, nn.ReplicationPad3d, nn.ConstantPad3d, nn.ZeroPad3d, nn.CircularPad3d],
)  # fmt: skip
register(
    rules.Spatial(0),  # all dims after the channels
    functions=[F.interpolate, F.upsample],
    modules=[nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d],
)
register(
    rules.Mixing(),
    "input dim=None",
    functions=[
        F.softmax,
        F.log_softmax,
        F.softmin,
        torch.softmax,
        torch.log_softmax,
        torch.cumsum,
        torch.cumprod,
    ],
    methods="softmax log_softmax cumsum cumprod",
    modules=[nn.Softmax, nn.LogSoftmax, nn.Softmin],
)
register(rules.Mixing(axis=-3), modules=[nn.Softmax2d])
register(rules.Mixing(), "input p=2.0 dim=1", functions=[F.normalize])
register(rules.Mixing(axis=1), functions=[F.local_response_norm], modules=[nn.LocalResponseNorm])

# --- operators on several tensors ---------------------------------------------------------------------------

register(
    rules.Arithmetic("add"),
    "input other",
    functions=[torch.add, operator.add, operator.iadd],
    methods="add add_ __add__ __radd__",
)
register(
    rules.Arithmetic("sub"),
    "input other",
    functions=[torch.sub, operator.sub, operator.isub],
    methods="sub sub_ __sub__",
)
register(
    rules.Arithmetic("mul"),
    "input other",
    functions=[torch.mul, torch.multiply, operator.mul, operator.imul],
    methods="mul mul_ __mul__ __rmul__",
)
register(rules.Arithmetic("mod"), "input other", functions=[operator.mod])
register(rules.Arithmetic("floordiv"), "input other", functions=[operator.floordiv, torch.floor_divide])
register(
    rules.Arithmetic("other"),
    "input other",
    functions=[
        torch.div, torch.true_divide, operator.truediv, operator.itruediv, operator.pow, torch.pow, torch.rsub,
        math.sqrt, math.log, math.exp, math.floor, math.ceil,
    ],
    methods="div div_ pow pow_ true_divide __truediv__ __pow__",
)  # fmt: skip
register(
    rules.Summation(),
    "input other",
    functions=[torch.maximum, torch.minimum, torch.where, torch.lerp, torch.addcmul, torch.clamp, torch.clip,
               torch.atan2, torch.fmod, torch.logical_and, torch.logical_or, operator.and_, operator.or_, F.mse_loss],
    methods="maximum minimum where lerp clamp clamp_ clip masked_fill masked_fill_ addcmul copy_ logical_and "
    "logical_or clamp_min clamp_max",
)  # fmt: skip
register(
    rules.Compare(),
    "input other",
    functions=[operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_,
               torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge],
    methods="eq ne lt le gt ge",
)  # fmt: skip
register(
    rules.Reduce(),
    "input dim=None keepdim=False",
    functions=[torch.mean, torch.sum, torch.max, torch.min, torch.amax, torch.amin, torch.logsumexp, torch.prod,
               torch.argmax, torch.all, torch.any],
    methods="mean sum max min amax amin logsumexp prod argmax all any",
)  # fmt: skip
register(
    rules.Reduce(),
    "input dim=None unbiased=True keepdim=False",
    functions=[torch.std, torch.var],
    methods="std var",
)
register(rules.Reduce(), "input p='fro' dim=None keepdim=False", functions=[torch.norm], methods="norm")
register(
    rules.MatMul(),
    "input other",
    functions=[torch.matmul, torch.bmm, torch.mm, torch.mv, torch.dot, operator.matmul],
    methods="matmul bmm mm mv dot __matmul__",
)
register(
    rules.AddedMatMul(),
    "input first second",
    functions=[torch.baddbmm, torch.addmm, torch.addmv],
    methods="baddbmm addmm addmv",
)
register(rules.AddedSum(), "input first second", functions=[torch.addbmm], methods="addbmm")
register(rules.Einsum(), "equation *operands", functions=[torch.einsum])
register(rules.TensorDot(), "input other dims=2", functions=[torch.tensordot])
register(
    rules.ScaledDotProduct(),
    "query key value attn_mask dropout_p=0.0 is_causal=False scale enable_gqa=False",
    functions=[F.scaled_dot_product_attention],
)

# --- operators that move data -------------------------------------------------------------------------------

register(rules.Concatenation(), "tensors dim=0", functions=[torch.cat, torch.concat, torch.concatenate])
register(rules.Stack(), "tensors dim=0", functions=[torch.stack])
register(
    rules.Chunk(),
    "input chunks dim=0",
    functions=[torch.chunk, torch.tensor_split],
    methods="chunk tensor_split",
)
register(rules.Split(), "input sizes dim=0", functions=[torch.split], methods="split split_with_sizes")
register(rules.Narrow(), "input dim start", functions=[torch.narrow, torch.select], methods="narrow select")
register(rules.Unbind(), "input dim=0", functions=[torch.unbind], methods="unbind")
register(rules.GetItem(), "input index", functions=[operator.getitem], methods="__getitem__")
register(rules.SetItem(), "input index value", functions=[operator.setitem], methods="__setitem__")
register(
    rules.Permute(),
    functions=[torch.permute, torch.transpose, torch.swapaxes, torch.movedim, torch.moveaxis, torch.t],
    methods="permute transpose swapaxes movedim moveaxis t transpose_",
)
register(
    rules.Squeeze(),
    "input dim=None",
    functions=[torch.squeeze, torch.unsqueeze],
    methods="squeeze unsqueeze squeeze_ unsqueeze_",
)
register(rules.Reshape(), "input *shape", functions=[torch.reshape], methods="view reshape")
register(rules.ReshapeModule(), functions=[torch.flatten], methods="flatten", modules=[nn.Flatten])
register(rules.Unflatten(), "input dim sizes", functions=[torch.unflatten], methods="unflatten")
register(rules.Rescale("shuffle"), "input factor", functions=[F.pixel_shuffle], modules=[nn.PixelShuffle])
register(rules.Rescale("unshuffle"), "input factor", functions=[F.pixel_unshuffle], modules=[nn.PixelUnshuffle])
register(rules.Rescale("unfold"), "input kernel_size", functions=[F.unfold], modules=[nn.Unfold])
register(rules.Rescale("fold"), "input output_size kernel_size", functions=[F.fold], modules=[nn.Fold])
register(rules.ChannelShuffle(), "input groups", functions=[F.channel_shuffle], modules=[nn.ChannelShuffle])
register(rules.Expand(), "input *sizes", functions=[torch.broadcast_to], methods="expand broadcast_to")
register(rules.Expand(), "input other", methods="expand_as")
register(rules.ReshapeLike(), "input other", methods="view_as reshape_as")
register(rules.Tile(), "input *sizes", functions=[torch.tile], methods="repeat tile")
register(rules.Create(), "*sizes", functions=[torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn])
register(rules.Create(), "input *sizes", methods="new_zeros new_ones new_empty")
register(rules.Pad(), "input pad mode='constant'", functions=[F.pad])
register(rules.SameShape(), "input shifts dims=None", functions=[torch.roll], methods="roll")
register(rules.SameShape(), "input *dims", functions=[torch.flip], methods="flip")

# --- integers and attributes --------------------------------------------------------------------------------

register(rules.Shape(), "input name", functions=[builtins.getattr])
register(rules.Shape(), "input dim=None", methods="size")
register(rules.Ignore(), "input", functions=[torch._assert, builtins.len], methods="dim is_floating_point")
register(rules.Numel(), methods="numel")
