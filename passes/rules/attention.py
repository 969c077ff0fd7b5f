"""Attention: nn.MultiheadAttention, and the product of queries, keys and values as one function.

Queries and keys meet channel by channel, so their widths are tied, and the product over them (with its scale, one over
the root of the width) mixes these channels. The values go through. The number of heads stays; inside each head the
channels keep their order, so a width is a multiple of the number of heads.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import nn

from conet_fx.passes.call import Call, Layout, Tensor, Value, fixed_like
from conet_fx.passes.depth import Dim
from conet_fx.passes.labels import MarkCall
from conet_fx.passes.rules.base import EdgeKind, Rule

_OVER_CHANNELS = "attends over a dim that holds channels"


class MultiheadAttention(Rule):
    """nn.MultiheadAttention: self or cross attention.

    The width ``embed_dim`` is one depth: that of the query, of the result and of what is inside the heads; the widths
    of key and value (``kdim``, ``vdim``) are their own where the module has separate weights for them. Roles of the
    layer: "in", "key" and "value" are read; "matched" are the rows of the query and key projections, "passed" those of
    the value projection, "projected" all three together; "heads" is what ``out_proj`` reads and "out" what it writes.
    """

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        module = call.module
        operands = {role: call.dims(role) for role in ("query", "key", "value")}
        for dims in operands.values():
            call.freeze(*dims[:-1], because=_OVER_CHANNELS)
        for mask in ("key_padding_mask", "attn_mask"):
            if isinstance(call.operand(mask), Tensor):
                call.freeze(*call.dims(mask), because=_OVER_CHANNELS)
        width, key, value = (dims[-1] for dims in operands.values())
        if module._qkv_same_embed_dim:
            call.tie(width, key)
            call.tie(width, value)
        call.layer(
            "attention",
            **{"in": width, "key": key, "value": value, "heads": width, "out": width},
            matched=width,
            passed=width,
            projected=(*width, *width, *width),
        )
        self._describe(call, width, key, value)
        call.depths.multiple(width, module.num_heads, call.why)
        call.mixes(width)
        call.facts.writers[call.path] = width
        call.facts.readers[call.path] = (*width, *key, *value)
        call.facts.linear.add(call.path)
        call.facts.reading |= {(call.path, role) for role in ("in", "key", "value", "heads")}
        return self._result(call, width)

    @staticmethod
    def _describe(call: Call, width: Dim, key: Dim, value: Dim) -> None:
        module, layer = call.module, call.facts.layers[call.path]
        projected = layer.dims["projected"]
        if module._qkv_same_embed_dim:
            weights: tuple[Layout, ...] = (Layout("in_proj_weight", (projected, width), ("projected", "in")),)
        else:
            weights = (
                Layout("q_proj_weight", (width, width), ("matched", "in")),
                Layout("k_proj_weight", (width, key), ("matched", "key")),
                Layout("v_proj_weight", (width, value), ("passed", "value")),
            )
        layer.tensors = (
            *weights,
            Layout("in_proj_bias", (projected,), ("projected",)),
            Layout("bias_k", ((1,), (1,), width), ("", "", "matched")),
            Layout("bias_v", ((1,), (1,), width), ("", "", "passed")),
            Layout("out_proj.weight", (width, width), ("out", "heads")),
            Layout("out_proj.bias", (width,), ("out",)),
        )
        head = call.depths.scale(width, Fraction(1, module.num_heads), call.why)
        layer.attributes = (
            ("embed_dim", width),
            ("kdim", key),
            ("vdim", value),
            ("head_dim", head),
            ("out_proj.in_features", width),
            ("out_proj.out_features", width),
        )

    @staticmethod
    def _result(call: Call, width: Dim) -> Value:
        module = call.module
        query, key, value = (call.dims(name) for name in ("query", "key", "value"))
        unbatched = len(query) == 2
        step = 1 if module.batch_first or unbatched else 0  # places of the sequence among the dims before the channels
        seen = call.size(key[:-1][0 if unbatched else step]) + (module.bias_k is not None) + module.add_zero_attn
        call.count(1, *query[:-1], width, width)
        call.count(1, *key[:-1], key[-1], width)
        call.count(1, *value[:-1], value[-1], width)
        call.count(2 * seen, *query[:-1], width)
        call.count(1, *query[:-1], width, width)
        result = fixed_like(call.node.meta["val"])
        result[0] = Tensor((*((n,) for n in call.out_shapes[0][:-1]), width))
        return result

    def labels(self, call: MarkCall) -> Any:
        module, marker, path = call.module, call.marker, call.path
        width, heads = module.embed_dim, module.num_heads
        for role, name in (("in", "query"), ("key", "key"), ("value", "value")):
            shape = call.shape(name)
            into = "in" if module._qkv_same_embed_dim else role
            marker.uses(path, into, call.line(name, len(shape) - 1, shape[-1]))
        matched, passed = marker.fresh(f"{path}/matched", width), marker.fresh(f"{path}/passed", width)
        marker.uses(path, "projected", torch.cat([matched, matched, passed]), 3 * heads)
        marker.uses(path, "matched", matched, heads)
        marker.uses(path, "passed", passed, heads)
        marker.uses(path, "heads", passed, heads)
        out = marker.fresh(path, width)
        marker.uses(path, "out", out)
        ndim = len(call.shape("query"))
        return [{ndim - 1: call.spread(out, ndim - 1, ndim)}, *[{} for _ in call.node.meta["val"][1:]]]
