"""Channel counts in the Python of a model, and what cannot be followed."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import case, conv, net, parameter


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


@case({"a": (12, 1), "b": (12, 1)}, mixed=["a", "b"])
def scaled_by_counts() -> nn.Module:
    """Factors are computed anew, also those that are no sums of counts: squares, products, numbers of elements."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y * (y.shape[1] * y.shape[1]) / y.size(1))
        return self.out(z / (z.unsqueeze(2) * y.unsqueeze(1)).numel() + z.mul(z.shape[1]))

    return net(forward, a=conv(3, 12), b=conv(12, 12), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def filled_with_the_count() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        count = torch.full((2, 1, 1, 1), y.shape[1])
        return self.out(y.clamp(max=y.shape[1]) + torch.full_like(y, y.shape[1]) + y.new_full((1,), y.shape[1]) + count)

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({}, {"a": "computes with a channel count"})
def squared_count() -> nn.Module:
    """A length that is the square of a channel count."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).mean((2, 3))
        return self.out((y[:, None] * y[:, :, None]).reshape(y.shape[0], y.shape[1] * y.shape[1], 1, 1))

    return net(forward, a=conv(3, 12), out=conv(144, 5))


@case({}, {"a": "is not in the table"})
def unknown_function() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.special.i0(self.a(x)))

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
    """An assignment cuts as a slice does."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :4] = 0
        return self.out(y)

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (6, 1)}, mixed=["a"])
def square_root_of_the_count() -> nn.Module:
    """``math.sqrt`` is an operator of the graph: the factor follows, the function does not."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y / math.sqrt(y.shape[1]))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def count_read_by_python() -> nn.Module:
    """A number that Python takes out of the graph stays what it is, and the plan says so."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y / float(y.shape[1]) ** 0.5 * int(y.size(1)))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def count_in_a_tensor() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        scale = torch.sqrt(torch.tensor(y.shape[1], dtype=y.dtype)) + y.new_tensor([y.size(1), 2.0]).sum()
        return self.out(y / scale)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def numbers_of_the_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        ramp = torch.linspace(0, 1, y.size(1), dtype=y.dtype).view(-1, 1, 1)
        return self.out(y * torch.arange(y.size(1), dtype=y.dtype).view(1, -1, 1, 1) + ramp)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({}, {"a": "computed from a channel count"})
def numbers_up_to_the_count() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * torch.linspace(0, y.size(1), 6, dtype=y.dtype).view(1, -1, 1, 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def power_of_the_count() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * y.shape[1] ** 2)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def share_of_all_elements() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y.view(2, y.numel() // 128, 8, 8) + y.view(2, y.nelement() // 2).view_as(y))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def created_in_many_ways() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        rows, columns = torch.meshgrid(
            torch.arange(h, dtype=y.dtype), torch.linspace(0, 1, w, dtype=y.dtype), indexing="ij"
        )
        y = y + rows + columns + torch.full((b, c, 1, 1), 0.5, dtype=y.dtype) + torch.full(y.shape, 2.0, dtype=y.dtype)
        y = y + torch.full_like(y, 2.0) + y.new_full((b, c, h, w), 3.0) + torch.eye(h, dtype=y.dtype)
        y = torch.where(y > 0, y, 0.0) + torch.where(y > 1, 1.0, y) + F.one_hot(torch.arange(h), h).to(y.dtype)
        return self.out(y + torch.bucketize(y, self.bounds).to(y.dtype))

    return net(forward, a=conv(3, 6), bounds=torch.tensor([0.0, 0.5]), out=conv(6, 5))


@case({"a": (8, 1)})
def asserted_equal() -> nn.Module:
    """What is asserted to be equal stays equal."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        torch._assert(a.shape[1] == b.shape[1], "as many channels")
        return self.out(a) + self.w(b)

    return net(forward, a=conv(3, 8), b=conv(3, 8), w=conv(8, 5), out=conv(8, 5))


@case({"a": (6, 1)}, mixed=["a"])
def numpy_functions_of_sizes() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y / np.sqrt(y.shape[1]) * np.prod(y.shape[1:]) + np.sum(y.shape) - np.prod([y.shape[1], 2])
        rows = int(np.ceil(min(y.shape[2], np.int64(7)) / 2))
        return self.out(y[:, :, :rows] * np.log2(y.shape[1] + np.int64(1)))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1), "b": (8, 4)}, mixed=["b"])
def numpy_numbers() -> nn.Module:
    """Factors on either side, sizes, bounds, and what layers are made with."""

    def forward(self, x: Tensor) -> Tensor:
        y = np.float64(0.5) * self.a(x) - x.mean() * np.float32(2)
        z = self.norm(self.b(y.reshape(2, np.int64(6), -1, 4).clamp(np.float64(-1), np.inf)))
        return self.out(F.interpolate(z, scale_factor=np.float64(2.0)).view(z.shape[0], np.int64(-1), 32, 8))

    b = nn.Conv2d(np.int64(6), np.int64(8), np.int64(1), padding=(np.int64(0), np.int64(0)))
    norm = nn.GroupNorm(np.int64(4), np.int64(8), eps=np.float64(1e-5))
    return net(forward, a=conv(3, 6), b=b, norm=norm, out=conv(8, 5))


@case({"qkv": (8, 2)})
def product_of_a_count_that_stays() -> nn.Module:
    """The number of heads comes from a memory that has met the literal: it is as good as the literal."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x).flatten(2).reshape(x.shape[0], 2, -1, 64)
        memory = self.memory.expand(x.shape[0], -1, -1, -1)
        z = torch.cat([memory.mean(2, keepdim=True), y], 2)[:, :, 1:]
        return self.out(z.reshape(x.shape[0], z.shape[1] * z.shape[2], 8, 8))

    return net(forward, qkv=conv(3, 8), memory=parameter(1, 2, 3, 64), out=conv(8, 5))
