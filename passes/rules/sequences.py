"""Layers on sequences and tables: recurrent layers and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from conet_fx.passes.call import Call, Layout, NoRule, Tensor, Value, dims_in, fixed_like, product
from conet_fx.passes.labels import Fields, MarkCall
from conet_fx.passes.rules.base import EdgeKind, Rule


class Recurrent(Rule):
    """nn.RNN, nn.GRU, nn.LSTM and their cells: the input size follows what feeds the layer, its hidden size stays."""

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        module, dims = call.module, call.dims()
        call.freeze(*dims[:-1], because="walks along a dim that holds channels")
        states = call.value(call.raw("state"))
        call.freeze(*dims_in(states), because="is the state of a recurrent layer")
        layer = call.layer("linear", **{"in": dims[-1]})
        weights = [name for name, _ in module.named_parameters() if name.startswith("weight")]
        first = [name for name in weights if name == "weight_ih" or name.startswith("weight_ih_l0")]
        rows = {name: getattr(module, name).shape[0] for name in first}
        layer.tensors = tuple(Layout(name, ((rows[name],), dims[-1]), ("", "in")) for name in first)
        layer.attributes = (("input_size", dims[-1]),)
        call.facts.readers[call.path] = dims[-1]
        call.facts.reading.add((call.path, "in"))
        steps = product([call.size(dim) for dim in dims[:-1]])
        others = sum(getattr(module, name).numel() for name in weights if name not in rows)
        call.count(steps * sum(rows.values()), dims[-1])
        call.count(steps * others)
        return fixed_like(call.node.meta["val"])

    def labels(self, call: MarkCall) -> Any:
        last = len(call.shape()) - 1
        call.marker.uses(call.path, "in", call.line("input", last, call.module.input_size))
        return None


class Embedding(Rule):
    """nn.Embedding: a table with a row for each index; like a linear layer it writes its width."""

    def edge(self, module: nn.Module | None) -> EdgeKind:
        return "conv"

    def depth(self, call: Call) -> Value:
        module = call.module
        layer = call.layer("linear")
        if "out" not in layer.dims:
            layer.dims["out"] = call.depths.new(module.embedding_dim)
        out = layer.dims["out"]
        layer.tensors = (Layout("weight", ((int(module.num_embeddings),), out), ("", "out")),)
        layer.attributes = (("embedding_dim", out),)
        call.facts.writers[call.path] = out
        call.facts.linear.add(call.path)
        if module.max_norm is not None:
            call.mixes(out)
        return Tensor((*call.dims(), out))

    def labels(self, call: MarkCall) -> Any:
        out = call.marker.fresh(call.path, call.module.embedding_dim)
        call.marker.uses(call.path, "out", out)
        return _rows(call, out)


class FunctionalEmbedding(Rule):
    """F.embedding with a table that is a parameter or computed from one."""

    def depth(self, call: Call) -> Value:
        rows, width = call.dims("weight")
        call.freeze(rows, because="is looked up by an index")
        if call.raw("max_norm") is not None:
            raise NoRule("it changes the table")
        return Tensor((*call.dims(), width))

    def labels(self, call: MarkCall) -> Any:
        field = call.fields("weight").get(1)
        return {} if field is None else _rows(call, call.marker.line(field, 1))


def _rows(call: MarkCall, out: torch.Tensor) -> Fields:
    ndim = len(call.out)
    fields = {d: f.unsqueeze(-1) for d, f in call.fields().items()}
    return {**fields, ndim - 1: call.spread(out, ndim - 1, ndim)}
