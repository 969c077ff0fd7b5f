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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import fx, nn
from torch.nn.utils import parametrizations

from conet_fx.passes import rules
from conet_fx.passes.functions import Applied
from conet_fx.passes.nodes import hooks_that_compute, is_parametrized, plain_subclass, submodule
from conet_fx.passes.paths import by_mode
from conet_fx.passes.rules import Rule


@dataclasses.dataclass(frozen=True)
class Entry:
    """One operator: its rule and its argument names with defaults. ``own``: a user registered it."""

    rule: Rule
    arguments: Mapping[str, Any]
    own: bool = False


FUNCTIONS: dict[Callable[..., Any], Entry] = {}
METHODS: dict[str, Entry] = {}
MODULES: dict[type[nn.Module], Entry] = {}

_NO_ARGUMENTS: Mapping[str, Any] = {}
OUTPUT = Entry(rules.Output(), _NO_ARGUMENTS)
INPUT = Entry(rules.Input(), _NO_ARGUMENTS)
PARAMETER = Entry(rules.Parameter(), _NO_ARGUMENTS)
OPAQUE = Entry(rules.Opaque(), _NO_ARGUMENTS)
RECORD = Entry(rules.Record(), _NO_ARGUMENTS)
UNUSED = Entry(rules.Unused(), _NO_ARGUMENTS)
APPLIED = Entry(rules.Applied(), _NO_ARGUMENTS)


def lookup(node: fx.Node, root: nn.Module) -> Entry:
    """The entry of a node; :data:`OPAQUE` where the table has none."""
    if node.op == "placeholder":
        return INPUT
    if node.op == "output":
        return OUTPUT
    if node.op == "get_attr":
        return PARAMETER
    if node.op == "call_module":
        module = submodule(root, str(node.target))
        other = is_parametrized(module) or hooks_that_compute(module) or "forward" in vars(module)
        return OPAQUE if other else MODULES.get(plain_subclass(module), OPAQUE)
    if node.op == "call_method":
        return METHODS.get(str(node.target), OPAQUE)
    if isinstance(node.target, Applied):
        return APPLIED if "follows" in node.kwargs else OPAQUE
    if isinstance(node.target, type) and (
        dataclasses.is_dataclass(node.target) or hasattr(node.target, "_fields") or node.target is dict
    ):
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
    own: bool = False,
) -> None:
    """Add operators that behave like ``rule``. Raises ``ValueError`` for an operator that stands in the table already.

    ``methods`` are names separated by spaces; modules take their operands by ``arguments`` too.
    """
    entry = Entry(rule, parse_arguments(arguments), own)
    for table, keys in ((FUNCTIONS, functions), (METHODS, methods.split()), (MODULES, modules)):
        for key in keys:
            if key in table:
                raise ValueError(f"{key} stands twice in the operator table")
            table[key] = entry  # type: ignore[index]


def parse_arguments(arguments: str) -> Mapping[str, Any]:
    """Names and defaults. Raises ``ValueError`` or ``SyntaxError`` for a default that is no literal."""
    parsed: dict[str, Any] = {}
    for word in arguments.split():
        name, _, default = word.partition("=")
        parsed[name] = ast.literal_eval(default) if default else None
    return parsed


def _spellings(names: str) -> Iterator[str]:
    """Each name and its in-place form."""
    for name in names.split():
        yield from (name, f"{name}_")


def _functions(names: str) -> list[Callable[..., Any]]:
    """``torch.name`` and ``torch.name_``, each function once, as far as this version of torch has them."""
    return list(dict.fromkeys(getattr(torch, spelt) for spelt in _spellings(names) if hasattr(torch, spelt)))


def _methods(names: str) -> str:
    """The tensor methods ``name`` and ``name_``, as far as this version of torch has them."""
    return " ".join(spelt for spelt in _spellings(names) if callable(getattr(torch.Tensor, spelt, None)))


def _in_place(names: str) -> list[Callable[..., Any]]:
    """``F.name_``."""
    return [getattr(F, f"{name}_") for name in names.split()]


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
register(rules.DeformableConvolution(2), "input offset mask=None", modules=[torchvision.ops.DeformConv2d])
register(rules.Recurrent(), "input state=None", modules=[nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell])
register(rules.Embedding(), modules=[nn.Embedding])
register(rules.FunctionalEmbedding(), "input weight padding_idx=None max_norm=None", functions=[F.embedding])
register(rules.WeightNorm(), "v g dim=0", functions=[torch._weight_norm])
register(rules.SpectralNorm(), modules=[parametrizations._SpectralNorm])

_CONV_ARGUMENTS = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
register(rules.FunctionalConvolution(1), _CONV_ARGUMENTS, functions=[F.conv1d])
register(rules.FunctionalConvolution(2), _CONV_ARGUMENTS, functions=[F.conv2d])
register(rules.FunctionalConvolution(3), _CONV_ARGUMENTS, functions=[F.conv3d])
_TRANSPOSED_ARGUMENTS = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
register(rules.FunctionalConvolution(1, True), _TRANSPOSED_ARGUMENTS, functions=[F.conv_transpose1d])
register(rules.FunctionalConvolution(2, True), _TRANSPOSED_ARGUMENTS, functions=[F.conv_transpose2d])
register(rules.FunctionalConvolution(3, True), _TRANSPOSED_ARGUMENTS, functions=[F.conv_transpose3d])
register(
    rules.FunctionalDeformable(2),
    "input offset weight bias=None stride=1 padding=0 dilation=1 mask=None groups=1",
    functions=[torchvision.ops.deform_conv2d],
)
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

_ELEMENTWISE = (
    "abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bitwise_not ceil "
    "conj conj_physical cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 fix floor frac i0 isfinite isinf isnan "
    "isneginf isposinf isreal lgamma log log10 log1p log2 logical_not logit mvlgamma nan_to_num neg negative "
    "positive rad2deg reciprocal relu resolve_conj resolve_neg round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt "
    "square tan tanh trunc clone detach dropout alpha_dropout feature_dropout feature_alpha_dropout "
    "bernoulli real imag"
)
register(
    rules.Elementwise(),
    functions=[
        F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign,
        F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, F.sigmoid, F.tanh, F.threshold, F.tanhshrink,
        F.softshrink, F.hardshrink, F.rrelu, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout,
        F.feature_alpha_dropout, torchvision.ops.stochastic_depth, torch.celu, torch.selu, torch.rrelu, torch.threshold,
        *_in_place("elu celu selu leaky_relu hardtanh rrelu threshold"), *_functions(_ELEMENTWISE), torch.zeros_like,
        torch.ones_like, torch.rand_like,
        torch.randn_like, torch.empty_like, torch.full_like, torch.randint_like,
    ],
    methods=_methods(_ELEMENTWISE) + " polygamma polygamma_ contiguous float double half bfloat16 int long short byte "
    "char bool cfloat "
    "cdouble chalf cpu cuda xpu type to requires_grad_ fill_ zero_ type_as hardshrink random_ normal_ uniform_ "
    "exponential_ geometric_ cauchy_ log_normal_ pin_memory",
    modules=[
        nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
        nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Sigmoid, nn.Tanh, nn.Threshold,
        nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.RReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
        nn.AlphaDropout, nn.FeatureAlphaDropout, torchvision.ops.StochasticDepth,
    ],
)  # fmt: skip
register(rules.Elementwise(), "input boundaries", functions=[torch.bucketize])
register(rules.Elementwise(), "n input", functions=[torch.polygamma])
register(rules.AsReal(), functions=[torch.view_as_real])
register(rules.AsComplex(), functions=[torch.view_as_complex])
register(
    rules.Spatial(1),
    functions=[F.max_pool1d, F.avg_pool1d, F.lp_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d,
               F.max_pool1d_with_indices, F.adaptive_max_pool1d_with_indices],
    modules=[nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d,
             nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ConstantPad1d, nn.ZeroPad1d, nn.CircularPad1d],
)  # fmt: skip
register(
    rules.Spatial(2),
    functions=[F.max_pool2d, F.avg_pool2d, F.lp_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
               F.max_pool2d_with_indices, F.adaptive_max_pool2d_with_indices, F.fractional_max_pool2d,
               F.fractional_max_pool2d_with_indices],
    modules=[nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
             nn.FractionalMaxPool2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.ZeroPad2d,
             nn.CircularPad2d],
)  # fmt: skip
register(
    rules.Spatial(3),
    functions=[F.max_pool3d, F.avg_pool3d, F.lp_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d,
               F.max_pool3d_with_indices, F.adaptive_max_pool3d_with_indices, F.fractional_max_pool3d,
               F.fractional_max_pool3d_with_indices],
    modules=[nn.MaxPool3d, nn.AvgPool3d, nn.LPPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d,
             nn.FractionalMaxPool3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.ConstantPad3d, nn.ZeroPad3d,
             nn.CircularPad3d],
)  # fmt: skip
register(
    rules.Spatial(0),  # all dims after the channels
    functions=[F.interpolate, F.upsample, F.upsample_nearest, F.upsample_bilinear],
    modules=[nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d],
)
for _spatial, _function, _module in (
    (1, F.max_unpool1d, nn.MaxUnpool1d),
    (2, F.max_unpool2d, nn.MaxUnpool2d),
    (3, F.max_unpool3d, nn.MaxUnpool3d),
):
    register(rules.Unpool(_spatial), "input indices", functions=[_function], modules=[_module])
register(rules.Sampled(0), "input grid", functions=[F.grid_sample])
register(rules.Grid(), "theta sizes", functions=[F.affine_grid])
register(rules.Regions(), "input boxes", functions=[torchvision.ops.roi_align, torchvision.ops.roi_pool])
register(
    rules.Mixing(),
    "input dim=None",
    functions=[F.softmax, F.log_softmax, F.softmin, torch.softmax, torch.log_softmax, torch.cumsum, torch.cumprod,
               torch.cummax, torch.cummin, torch.logcumsumexp],
    methods="softmax log_softmax cumsum cumsum_ cumprod cumprod_ cummax cummin logcumsumexp",
    modules=[nn.Softmax, nn.LogSoftmax, nn.Softmin],
)  # fmt: skip
register(rules.Mixing(), "input p=2.0 dim=1", functions=[F.normalize])
register(rules.Mixing(), "input tau=1 hard=False eps=1e-10 dim=-1", functions=[F.gumbel_softmax])
register(rules.Mixing(), "input dim=-1", functions=[torch.sort, torch.argsort], methods="sort argsort")
register(rules.Mixing(axis=0), functions=[torch.msort], methods="msort")
register(rules.Mixing(axis=1), functions=[F.local_response_norm], modules=[nn.LocalResponseNorm, nn.CrossMapLRN2d])
register(rules.Mixing(axis=-3), modules=[nn.Softmax2d])
register(rules.TopK(), "input k dim=-1", functions=[torch.topk], methods="topk")
register(rules.Renorm(), "input p dim maxnorm", functions=[torch.renorm], methods="renorm renorm_")
register(rules.Spectrum(1), functions=[torch.stft], methods="stft")
register(rules.Spectrum(2), functions=[torch.istft], methods="istft")
register(rules.Along(), "input n=1 dim=-1", functions=[torch.diff], methods="diff")
register(
    rules.Along(),
    "input n=None dim=-1",
    functions=[torch.fft.fft, torch.fft.ifft, torch.fft.rfft, torch.fft.irfft, torch.fft.hfft, torch.fft.ihfft],
)
register(
    rules.Along(),
    "input s=None dim=(-2,-1)",
    functions=[torch.fft.fft2, torch.fft.ifft2, torch.fft.rfft2, torch.fft.irfft2, torch.fft.hfft2, torch.fft.ihfft2],
)
register(
    rules.Along(),
    "input s=None dim=None",
    functions=[torch.fft.fftn, torch.fft.ifftn, torch.fft.rfftn, torch.fft.irfftn, torch.fft.hfftn, torch.fft.ihfftn],
)
register(rules.Along(), "input dim=None", functions=[torch.fft.fftshift, torch.fft.ifftshift])
register(rules.Along((-2, -1)), functions=[torch.triu, torch.tril], methods="triu triu_ tril tril_")

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
    functions=[torch.sub, torch.subtract, operator.sub, operator.isub],
    methods="sub sub_ subtract subtract_ __sub__",
)
register(
    rules.Arithmetic("mul"),
    "input other",
    functions=[torch.mul, torch.multiply, operator.mul, operator.imul],
    methods="mul mul_ multiply multiply_ __mul__ __rmul__",
)
register(rules.Arithmetic("mod"), "input other", functions=[operator.mod])
register(rules.Arithmetic("other"), functions=[operator.neg, operator.pos, operator.invert, operator.abs])
register(
    rules.Arithmetic("floordiv"),
    "input other",
    functions=[operator.floordiv, torch.floor_divide],
    methods="floor_divide floor_divide_",
)
register(
    rules.Arithmetic("other"),
    "input other",
    functions=[
        torch.div, torch.divide, torch.true_divide, operator.truediv, operator.itruediv, operator.pow, operator.ipow,
        torch.pow, torch.float_power, torch.rsub, math.sqrt, math.log, math.log2, math.log10, math.exp, math.pow,
    ],
    methods="div div_ divide divide_ pow pow_ float_power float_power_ true_divide true_divide_ __truediv__ __pow__",
)  # fmt: skip
_JOINING = (
    "addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor clamp "
    "clamp_max clamp_min clip copysign fmax fmin fmod gcd heaviside hypot igamma igammac isclose lcm ldexp lerp "
    "logaddexp logaddexp2 logical_and logical_or logical_xor masked_fill maximum minimum nextafter remainder xlogy"
)
register(
    rules.Summation(),
    "input other",
    functions=[*_functions(_JOINING), torch.where, torch.complex, torch.polar, operator.and_, operator.or_,
               operator.xor, operator.iand, operator.ior, operator.ixor],
    methods=_methods(_JOINING) + " where copy_",
)  # fmt: skip
_COMPARING = "eq ne lt le gt ge not_equal less less_equal greater greater_equal"
register(
    rules.Compare(),
    "input other",
    functions=[operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_,
               *_functions(_COMPARING)],
    methods=_methods(_COMPARING),
)  # fmt: skip
register(rules.Similarity(), "input other dim=1 keepdim=False", functions=[F.cosine_similarity])
register(rules.Similarity(), "input other p=2 eps=1e-6 keepdim=False dim=-1", functions=[F.pairwise_distance])
register(rules.Similarity(), "input other keepdim=False dim=-1", modules=[nn.CosineSimilarity, nn.PairwiseDistance])
register(rules.Distances(), "input other", functions=[torch.cdist])
register(
    rules.Loss(),
    "input other",
    functions=[
        F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.soft_margin_loss, F.kl_div, F.poisson_nll_loss,
        F.binary_cross_entropy, F.binary_cross_entropy_with_logits,
    ],
)  # fmt: skip
register(
    rules.ClassLoss(),
    "input other",
    functions=[F.cross_entropy, F.nll_loss, F.multi_margin_loss, F.multilabel_margin_loss],
)
_REDUCING = "mean sum max min amax amin logsumexp prod argmax argmin all any nansum nanmean median nanmedian aminmax"
register(
    rules.Reduce(),
    "input dim=None keepdim=False",
    functions=_functions(_REDUCING),
    methods=_methods(_REDUCING),
)
register(rules.Reduce(), "input dim=None keepdim=False", functions=[torch.count_nonzero], methods="count_nonzero")
register(rules.Reduce(), "input dim=-1 keepdim=False", functions=[torch.mode], methods="mode")
register(
    rules.Reduce(),
    "input q dim=None keepdim=False",
    functions=[torch.quantile, torch.nanquantile],
    methods="quantile nanquantile",
)
register(
    rules.Reduce(),
    "input dim=None unbiased=True keepdim=False",
    functions=[torch.std, torch.var, torch.std_mean, torch.var_mean],
    methods="std var",
)
register(rules.Reduce(), "input p='fro' dim=None keepdim=False", functions=[torch.norm], methods="norm")
register(rules.Reduce(), "input ord=2 dim=None keepdim=False", functions=[torch.linalg.vector_norm, torch.linalg.norm])
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
    methods="baddbmm baddbmm_ addmm addmm_ addmv addmv_",
)
register(rules.AddedSum(), "input first second", functions=[torch.addbmm], methods="addbmm addbmm_")
register(rules.Einsum(), "equation *operands", functions=[torch.einsum])
register(rules.TensorDot(), "input other dims=2", functions=[torch.tensordot])
register(rules.TensorDot(), "input other dims=((-1,),(-1,))", functions=[torch.inner], methods="inner")
register(rules.Outer(), "input other", functions=[torch.outer, torch.ger], methods="outer ger")
register(
    rules.ScaledDotProduct(),
    "query key value attn_mask dropout_p=0.0 is_causal=False scale enable_gqa=False",
    functions=[F.scaled_dot_product_attention],
)

# --- operators that move data -------------------------------------------------------------------------------

register(rules.Concatenation(), "tensors dim=0", functions=[torch.cat, torch.concat, torch.concatenate])
register(rules.Concatenation(0), "tensors", functions=[torch.vstack, torch.row_stack])
register(rules.Concatenation(1), "tensors", functions=[torch.hstack, torch.column_stack])
register(rules.Concatenation(2), "tensors", functions=[torch.dstack])
register(rules.Stack(), "tensors dim=0", functions=[torch.stack])
register(
    rules.Chunk(),
    "input chunks dim=0",
    functions=[torch.chunk, torch.unsafe_chunk],
    methods="chunk unsafe_chunk",
)
register(rules.TensorSplit(), "input sections dim=0", functions=[torch.tensor_split], methods="tensor_split")
register(rules.TensorSplit(0), "input sections", functions=[torch.vsplit], methods="vsplit")
register(rules.TensorSplit(1), "input sections", functions=[torch.hsplit], methods="hsplit")
register(rules.TensorSplit(2), "input sections", functions=[torch.dsplit], methods="dsplit")
register(
    rules.Split(),
    "input sizes dim=0",
    functions=[torch.split, torch.split_with_sizes, torch.unsafe_split, torch.unsafe_split_with_sizes],
    methods="split split_with_sizes unsafe_split unsafe_split_with_sizes",
)
register(
    rules.Narrow(), "input dim start length", functions=[torch.narrow, torch.narrow_copy], methods="narrow narrow_copy"
)
register(rules.Select(), "input dim index", functions=[torch.select], methods="select")
register(rules.Unbind(), "input dim=0", functions=[torch.unbind], methods="unbind")
register(rules.GetItem(), "input index", functions=[operator.getitem], methods="__getitem__")
register(rules.SetItem(), "input index value", functions=[operator.setitem], methods="__setitem__")
register(rules.IndexSelect(), "input dim index", functions=[torch.index_select], methods="index_select")
_SCATTERING = "scatter scatter_add scatter_reduce index_add index_copy index_fill index_reduce"
register(rules.Scatter(), "input dim index src", functions=[*_functions(_SCATTERING)], methods=_methods(_SCATTERING))
register(rules.Gather(), "input dim index", functions=[torch.gather], methods="gather")
register(rules.Gather(), "input index dim=None", functions=[torch.take_along_dim], methods="take_along_dim")
register(
    rules.Permute(),
    functions=[torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis, torch.t,
               torch.adjoint],
    methods="permute transpose swapaxes swapdims movedim moveaxis t adjoint transpose_ swapaxes_ swapdims_ t_",
)  # fmt: skip
register(rules.Rotate(), "input k=1 dims=(0,1)", functions=[torch.rot90], methods="rot90")
register(rules.Windows(), "input dim size step", methods="unfold")
register(
    rules.Squeeze(),
    "input dim=None",
    functions=[torch.squeeze, torch.unsqueeze],
    methods="squeeze unsqueeze squeeze_ unsqueeze_",
)
register(rules.Reshape(), "input *shape", functions=[torch.reshape], methods="view reshape")
register(
    rules.ReshapeModule(),
    functions=[torch.flatten, torch.ravel],
    methods="flatten ravel",
    modules=[nn.Flatten],
)
register(rules.UnflattenModule(), modules=[nn.Unflatten])
register(rules.Unflatten(), "input dim sizes", functions=[torch.unflatten], methods="unflatten")
register(rules.Rescale("shuffle"), "input factor", functions=[F.pixel_shuffle], modules=[nn.PixelShuffle])
register(rules.Rescale("unshuffle"), "input factor", functions=[F.pixel_unshuffle], modules=[nn.PixelUnshuffle])
register(rules.Rescale("unfold"), "input kernel_size", functions=[F.unfold], modules=[nn.Unfold])
register(rules.Rescale("fold"), "input output_size kernel_size", functions=[F.fold], modules=[nn.Fold])
register(
    rules.ChannelShuffle(),
    "input groups",
    functions=[F.channel_shuffle, F.native_channel_shuffle],
    modules=[nn.ChannelShuffle],
)
register(rules.Expand(), "input *sizes", functions=[torch.broadcast_to], methods="expand broadcast_to")
register(rules.Expand(), "input other", methods="expand_as")
register(rules.ReshapeLike(), "input other", methods="view_as reshape_as")
register(rules.Tile(), "input *sizes", functions=[torch.tile], methods="repeat tile")
register(
    rules.RepeatInterleave(),
    "input repeats dim=None",
    functions=[torch.repeat_interleave],
    methods="repeat_interleave",
)
register(rules.Glu(), "input dim=-1", functions=[F.glu], modules=[nn.GLU])
register(rules.Create(), "*sizes", functions=[torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn])
register(rules.Create(), "input *sizes", methods="new_zeros new_ones new_empty")
register(rules.New(), "input *sizes", methods="new")
register(rules.Full(), "input sizes fill_value", methods="new_full")
register(rules.Full(), "sizes fill_value", functions=[torch.full])
register(rules.Drawn(), "input", functions=[torch.randint, torch.randperm, torch.normal])
register(rules.Constant(), "data", functions=[torch.tensor])
register(rules.Constant(), "input data", methods="new_tensor")
register(rules.Range(), "start end=None step=1", functions=[torch.arange])
register(rules.Range(), "start end steps", functions=[torch.linspace])
register(rules.OneHot(), "input classes=-1", functions=[F.one_hot])
register(rules.Pad(), "input pad mode='constant'", functions=[F.pad])
register(rules.Roll(), "input shifts dims=None", functions=[torch.roll], methods="roll")
register(rules.Flip(), "input *dims", functions=[torch.flip], methods="flip")
register(rules.Flip(0), functions=[torch.flipud], methods="flipud")
register(rules.Flip(1), functions=[torch.fliplr], methods="fliplr")

# --- integers and attributes --------------------------------------------------------------------------------

register(rules.Shape(), "input name", functions=[builtins.getattr])
register(rules.Shape(), "input dim=None", methods="size")
register(
    rules.Ignore(),
    "input",
    functions=[torch._assert, builtins.len],
    methods="dim ndimension is_floating_point is_complex is_signed is_contiguous element_size get_device",
)
register(rules.ByMode(), "training in_train in_eval", functions=[by_mode])
register(rules.Numel(), functions=[torch.numel], methods="numel nelement")
