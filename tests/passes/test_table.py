"""The operator table is complete: whatever torch offers is in it, or stands here under the reason why it is not.

What is left out freezes the channels that it touches, and the plan says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conet_fx.passes import ops

Groups = Mapping[str, str]

MODULES: Groups = {
    "losses, which the trace looks into": "BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss "
    "GaussianNLLLoss HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss LinearCrossEntropyLoss MSELoss MarginRankingLoss "
    "MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d PoissonNLLLoss SmoothL1Loss "
    "SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss",
    "a loss with layers of its own": "AdaptiveLogSoftmaxWithLoss",
    "containers and base classes, which the trace looks into": "Container Module ModuleDict ModuleList ParameterDict "
    "ParameterList RNNBase RNNCellBase Sequential DataParallel",
    "lazy: they turn into the layers of the table on their first data": "LazyBatchNorm1d LazyBatchNorm2d "
    "LazyBatchNorm3d LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d "
    "LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d LazyLinear",
    "made of layers that are in the table, and looked into": "Transformer TransformerDecoder "
    "TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer",
    "products of two inputs, or sums over rows of a table": "Bilinear EmbeddingBag",
}

FUNCTIONS: Groups = {
    "losses that are hardly ever inside a network": "cosine_embedding_loss ctc_loss gaussian_nll_loss "
    "hinge_embedding_loss linear_cross_entropy margin_ranking_loss multilabel_soft_margin_loss triplet_margin_loss "
    "triplet_margin_with_distance_loss",
    "helpers of torch that came in by an import": "assert_int_or_pair boolean_dispatch handle_torch_function "
    "has_torch_function has_torch_function_unary has_torch_function_variadic",
    "products of two inputs, or sums over rows of a table": "bilinear embedding_bag pdist",
    "quantised or grouped products": "grouped_mm scaled_addmm scaled_addmm_ scaled_grouped_mm scaled_mm",
    "nn.MultiheadAttention with all its weights as arguments": "multi_head_attention_forward",
    "time comes first": "conv_tbc",
}

METHODS: Groups = {
    "no tensor results": "allclose apply_ as_subclass backward const_data_ptr data_ptr dense_dim dim_order equal "
    "hash_tensor ipu is_coalesced is_conj is_distributed is_inference is_neg is_nonzero is_pinned is_same_size "
    "is_set_to is_shared item map2_ map_ module_load mtia numpy qscheme q_per_channel_axis q_scale q_zero_point "
    "record_stream register_hook register_post_accumulate_grad_hook reinforce retain_grad share_memory_ sparse_dim "
    "storage storage_offset storage_type stride tolist untyped_storage",
    "sparse or nested": "ccol_indices coalesce col_indices crow_indices indices row_indices smm slice_inverse "
    "sparse_mask sparse_resize_ sparse_resize_and_clear_ sspaddmm to_dense to_mkldnn to_padded_tensor to_sparse "
    "to_sparse_bsc to_sparse_bsr to_sparse_coo to_sparse_csc to_sparse_csr values resize_as_sparse_",
    "quantised": "dequantize int_repr q_per_channel_scales q_per_channel_zero_points",
    "the shape of the result depends on the data": "argwhere bincount histc histogram masked_select nonzero "
    "nonzero_static unique unique_consecutive",
    "memory as it lies": "as_strided as_strided_ as_strided_scatter new_empty_strided resize resize_ resize_as "
    "resize_as_ set_",
    "linear algebra: every entry of the result depends on all": "addr addr_ cholesky cholesky_inverse cholesky_solve "
    "corrcoef cov cross det dist eig geqrf inverse kron logdet lstsq lu lu_solve matrix_exp matrix_power orgqr ormqr "
    "pinverse qr slogdet solve svd symeig trace triangular_solve vdot",
    "one dim out of two, or two out of one": "diag diag_embed diagflat diagonal diagonal_scatter fill_diagonal_",
    "values at places that an index gives": "index index_put index_put_ kthvalue masked_scatter masked_scatter_ put "
    "put_ select_scatter slice_scatter take",
    "sums to another shape": "sum_to_size",
    "named dims": "align_as align_to has_names refine_names rename rename_",
    "two results of different types, or samples that are drawn": "frexp multinomial",
}


def _public(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("_"))


def _names(groups: Groups) -> list[str]:
    return [name for names in groups.values() for name in names.split()]


def test_every_layer_is_in_the_table_or_left_out_for_a_reason() -> None:
    layers = {
        name: cls
        for name in _public(dir(nn))
        if inspect.isclass(cls := getattr(nn, name)) and issubclass(cls, nn.Module)
    }
    assert {name for name, cls in layers.items() if cls not in ops.MODULES} <= set(_names(MODULES))


def test_every_function_is_in_the_table_or_left_out_for_a_reason() -> None:
    functions = {
        name: function
        for name in _public(dir(F))
        if callable(function := getattr(F, name))
        and not inspect.isclass(function)
        and getattr(function, "__module__", "") != "typing"
    }
    assert {name for name, function in functions.items() if function not in ops.FUNCTIONS} <= set(_names(FUNCTIONS))


def test_every_method_of_tensors_is_in_the_table_or_left_out_for_a_reason() -> None:
    methods = {name for name in _public(dir(torch.Tensor)) if callable(getattr(torch.Tensor, name))}
    assert methods - ops.METHODS.keys() <= set(_names(METHODS))


@pytest.mark.parametrize(
    ("groups", "table"),
    [
        (MODULES, {cls.__name__ for cls in ops.MODULES if cls.__module__.startswith("torch.nn")}),
        (FUNCTIONS, {name for name in dir(F) if any(getattr(F, name) is f for f in ops.FUNCTIONS)}),
        (METHODS, set(ops.METHODS)),
    ],
    ids=["modules", "functions", "methods"],
)
def test_nothing_is_left_out_twice_or_though_it_is_in_the_table(groups: Groups, table: set[str]) -> None:
    names = _names(groups)
    assert len(set(names)) == len(names)
    assert not table & set(names)


def test_methods_of_the_table_exist() -> None:
    assert all(hasattr(torch.Tensor, name) for name in ops.METHODS)
