"""Train and eval mode that take different paths."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import OUTPUT, case, conv, net


@case({"a": (6, 1), "b": (8, 1)}, out="out auxiliary")
def auxiliary_head() -> nn.Module:
    """GoogLeNet: a second head that is trained only."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        scores = self.out(self.b(y))
        return (scores, self.auxiliary(y.mean((2, 3)))) if self.training else scores

    return net(forward, a=conv(3, 6), b=conv(6, 8), auxiliary=nn.Linear(6, 4), out=conv(8, 5))


@case({"a": (6, 1)}, {"embedding": OUTPUT}, out="classes")
def embedding_for_retrieval() -> nn.Module:
    """Scores of classes in training, what they are computed from after it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(self.a(x)).mean((2, 3))
        return self.classes(y) if self.training else F.normalize(y)

    return net(forward, a=conv(3, 6), embedding=conv(6, 8), classes=nn.Linear(8, 5))


@case({"a": (6, 1)}, out="out mask")
def joined_in_one_mode() -> nn.Module:
    """What one mode adds stays one size in both."""

    def forward(self, x: Tensor) -> Any:
        y, z = self.a(x), self.b(x)
        if self.training:
            return self.out(y + F.dropout(z, 0.1))
        return {"scores": self.out(y).softmax(1), "mask": self.mask(z)}

    return net(forward, a=conv(3, 6), b=conv(3, 6), mask=conv(6, 2), out=conv(6, 5))


@case({"a": (6, 1)})
def noise_in_training() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            y = y + 0.1 * torch.randn_like(y)
            keep = (torch.rand(y.shape[0], y.shape[1], 1, 1) > 0.1).to(y.dtype)
            y = y * keep / 0.9
        return self.out(y)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def statistics_by_hand() -> nn.Module:
    """A batch norm that is written out."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * mean)
                self.variance.mul_(0.9).add_(0.1 * variance)
        else:
            mean, variance = self.mean, self.variance
        return self.out((y - mean[:, None, None]) * torch.rsqrt(variance[:, None, None] + 1e-5))

    module = net(forward, a=conv(3, 6), out=conv(6, 5))
    module.register_buffer("mean", torch.zeros(6))
    module.register_buffer("variance", torch.ones(6))
    return module


@case({"a": (6, 1), "b": (8, 1)})
def stochastic_depth() -> nn.Module:
    """A residual path that training drops at times: what follows is the same in both modes."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.c(self.b(x).relu())
        if self.training:
            y = y * (torch.rand(y.shape[0], 1, 1, 1) < 0.9) / 0.9
        return self.out((x + y).relu())

    return net(forward, a=conv(3, 6), b=conv(6, 8), c=conv(8, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def a_layer_for_each_mode() -> nn.Module:
    """What stands in one place in both modes has one size."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x) if self.training else self.b(x)).relu())

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 5))
