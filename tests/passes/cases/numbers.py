"""Channel counts in the Python of a model, and what cannot be followed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import case, conv, net


@case({}, {"a": "condition on a channel count"})
def condition() -> nn.Module:
    """The graph holds one outcome, so the count must stay."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * (y.shape[1] > 3))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 1)})
def assertion() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        assert y.dim() == 4
        assert y.shape[2] == x.shape[2], "same size"
        return self.out(y)

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({}, {"a": "computes with a channel count"})
def scaled_by_the_count() -> nn.Module:
    """Attention-like scaling by the square root of the channel count follows the count."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * (y.shape[1] * y.shape[1]))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({}, {"a": "is not in the table"})
def unknown_function() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.special.i0(self.a(x)))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({}, {"a": "an einsum that is not one or two operands"})
def einsum_of_three() -> nn.Module:
    """Torch chooses in which order it multiplies them, and so what it costs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.einsum("bchw,bchw,bchw->bchw", self.a(x), self.a(x), self.a(x)))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 1)})
def created_in_forward() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        noise = torch.zeros(y.shape, dtype=y.dtype) + torch.ones(1, y.size(1), 1, 1, dtype=y.dtype)
        return self.out(y + noise + y.new_zeros(y.shape[0], y.shape[1], 1, 1))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 1)})
def created_by_literal() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + torch.ones(1, 12, 1, 1, dtype=y.dtype))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 1)})
def constant_attribute() -> nn.Module:
    """A plain tensor as attribute: per-channel constants."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.relu(y * self.scale.to(y.dtype)))

    return net(forward, a=conv(3, 12), scale=torch.rand(12, 1, 1), out=conv(12, 5))


@case({"a": (4, 1), "a#2": (8, 1)})
def set_item() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :4] = 0
        return self.out(y)

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (8, 1)})
def asserted_equal() -> nn.Module:
    """What is asserted to be equal stays equal."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        torch._assert(a.shape[1] == b.shape[1], "as many channels")
        return self.out(a) + self.w(b)

    return net(forward, a=conv(3, 8), b=conv(3, 8), w=conv(8, 5), out=conv(8, 5))
