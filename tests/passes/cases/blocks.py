"""Blocks of known architectures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net, parameter


@case({"a": (8, 1), "b": (10, 1), "m": (12, 1), "u2": (6, 1), "d2": (9, 1), "u1": (4, 1), "d1": (7, 1)})
def u_net() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        m = F.relu(self.m(F.max_pool2d(b, 2)))
        b = F.relu(self.d2(torch.cat([b, self.u2(m)], 1)))
        a = F.relu(self.d1(torch.cat([a, self.u1(b)], 1)))
        return self.out(a)

    return net(
        forward,
        a=conv(3, 8, 3),
        b=conv(8, 10, 3),
        m=conv(10, 12, 3),
        u2=nn.ConvTranspose2d(12, 6, 2, 2),
        d2=conv(16, 9, 3),
        u1=nn.ConvTranspose2d(9, 4, 2, 2),
        d1=conv(12, 7, 3),
        out=conv(7, 5),
    )


@case({"stem": (8, 1)}, {"f1": LINEAR}, mixed=["stem"])
def conv_next() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.d(x).permute(0, 2, 3, 1))
        y = self.f2(F.gelu(self.f1(y))) * self.gamma
        return self.out(x + y.permute(0, 3, 1, 2))

    return net(
        forward,
        stem=conv(3, 8, 3),
        d=conv(8, 8, 7, groups=8),
        norm=nn.LayerNorm(8),
        f1=nn.Linear(8, 32),
        f2=nn.Linear(32, 8),
        gamma=parameter(8),
        out=conv(8, 5),
    )


@case({"stem": (8, 1), "layers.0.conv": (4, 1), "layers.1.conv": (4, 1), "layers.2.conv": (4, 1)})
def dense_net() -> nn.Module:
    """Growth: each layer reads all before it, and each stays free."""

    class Layer(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(inputs), conv(inputs, 4, 3)

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.conv(F.relu(self.norm(torch.cat(features, 1))))

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        return self.out(torch.cat(features, 1))

    return net(forward, stem=conv(3, 8), layers=nn.ModuleList(Layer(8 + 4 * i) for i in range(3)), out=conv(20, 5))


@case({"stem": (8, 1), "p": (3, 1), "q": (4, 1)})
def factorized_reduce() -> nn.Module:
    """DARTS: cat of two strided convolutions, added to another node: the depth of ``r`` is the sum of p and q."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        reduced = self.norm(torch.cat([self.p(x), self.q(x[:, :, 1:, 1:])], dim=1))
        return self.out(torch.cat([reduced + self.r(F.max_pool2d(x, 2)), reduced], 1))

    return net(
        forward,
        stem=conv(3, 8, 3),
        p=nn.Conv2d(8, 3, 1, 2),
        q=nn.Conv2d(8, 4, 1, 2),
        norm=nn.BatchNorm2d(7),
        r=conv(8, 7),
        out=conv(14, 5),
    )


@case({"stem": (8, 1), "primary": (4, 1)})
def ghost_module() -> nn.Module:
    """Cheap features by a depthwise convolution, joined with the primary ones."""

    def forward(self, x: Tensor) -> Tensor:
        primary = F.relu(self.primary(self.stem(x)))
        cheap = F.relu(self.cheap(primary))
        return self.out(torch.cat([primary, cheap], dim=1))

    return net(forward, stem=conv(3, 8), primary=conv(8, 4), cheap=conv(4, 8, 3, groups=4), out=conv(12, 5))


@case({"stem": (16, 4), "d": (4, 1)})
def res2net() -> nn.Module:
    """Four equal pieces, each added to the result of the one before; only the last result is added to nothing."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        p, q, r, s = torch.split(x, 4, 1)
        q = self.b(q)
        r = self.c(q + r)
        s = self.d(r + s)
        return self.out(torch.cat([p, q, r, s], 1))

    return net(forward, stem=conv(3, 16), b=conv(4, 4, 3), c=conv(4, 4, 3), d=conv(4, 4, 3), out=conv(16, 5))


@case({"a": (4, 1), "b": (6, 1), "c": (4, 1), "d": (6, 1)})
def high_resolution_fusion() -> nn.Module:
    """HRNet: every resolution gets the sum of all, resampled."""

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.a(x), self.b(F.avg_pool2d(x, 2))
        new_high = F.relu(high + F.interpolate(self.low_high(low), scale_factor=2, mode="nearest"))
        new_low = F.relu(low + self.high_low(high))
        return self.out(self.c(new_high)).mean((2, 3)) + self.out2(self.d(new_low)).mean((2, 3))

    return net(
        forward,
        a=conv(3, 4, 3),
        b=conv(3, 6, 3),
        low_high=conv(6, 4),
        high_low=nn.Conv2d(4, 6, 3, 2, 1),
        c=conv(4, 4),
        d=conv(6, 6),
        out=conv(4, 5),
        out2=conv(6, 5),
    )


@case({"stem": (8, 2), "b": (4, 1)})
def cross_stage_partial() -> nn.Module:
    """CSP: half of the channels take the short way."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        short, deep = x.chunk(2, dim=1)
        deep = deep + self.c(F.relu(self.b(deep)))
        return self.out(torch.cat([deep, short], 1))

    return net(forward, stem=conv(3, 8), b=conv(4, 4, 3), c=conv(4, 4, 3), out=conv(8, 5))


@case({"stem": (6, 1), "stem#2": (2, 1), "b": (2, 1)})
def dual_path() -> nn.Module:
    """DPN: the first channels are added, the rest is joined."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        residual, dense = x[:, :6], x[:, 6:]
        y = self.b(F.relu(x))
        residual = residual + y[:, :6]
        dense = torch.cat([dense, y[:, 6:]], 1)
        return self.out(torch.cat([residual, dense], 1))

    return net(forward, stem=conv(3, 8), b=conv(8, 8, 3), out=conv(10, 5))


@case({"high": (6, 1), "low": (4, 1), "hh": (8, 1), "ll": (5, 1)})
def octave() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        high, low = self.high(x), self.low(F.avg_pool2d(x, 2))
        new_high = self.hh(high) + F.interpolate(self.lh(low), scale_factor=2)
        new_low = self.ll(low) + self.hl(F.avg_pool2d(high, 2))
        return self.out(torch.cat([new_high, F.interpolate(new_low, scale_factor=2)], 1))

    return net(
        forward,
        high=conv(3, 6),
        low=conv(3, 4),
        hh=conv(6, 8, 3),
        lh=conv(4, 8, 3),
        ll=conv(4, 5, 3),
        hl=conv(6, 5, 3),
        out=conv(13, 5),
    )


@case({"stem": (6, 1), "a": (3, 1), "b.0": (4, 1), "b.1": (5, 1), "c": (2, 1)})
def inception() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = F.max_pool2d(x, 3, 1, 1)
        return self.out(torch.cat([self.a(x), self.b(x), self.c(pooled), x], 1))

    b = nn.Sequential(conv(6, 4), conv(4, 5, 3))
    return net(forward, stem=conv(3, 6), a=conv(6, 3), b=b, c=conv(6, 2), out=conv(16, 5))


@case({"stem": (8, 1), "experts.0": (6, 1)}, {"route": "takes one channel by its number"})
def conditional_convolution() -> nn.Module:
    """A mixture of three experts with weights from the input, all of equal depth."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        routing = self.route(x.mean((2, 3))).softmax(-1)
        y = sum(routing[:, i, None, None, None] * expert(x) for i, expert in enumerate(self.experts))
        return self.out(y)

    experts = nn.ModuleList(conv(8, 6, 3) for _ in range(3))
    return net(forward, stem=conv(3, 8), route=nn.Linear(8, 3), experts=experts, out=conv(6, 5))


@case({"a": (6, 1), "b": (4, 1)})
def auxiliary_statistics() -> nn.Module:
    """Mean and deviation of each channel, joined (style networks)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.out(torch.cat([x.mean((2, 3)), x.std((2, 3)), x.flatten(2).max(2)[0]], 1))

    return net(forward, a=conv(3, 6), b=conv(6, 4), out=nn.Linear(12, 5))


@case({"layers.in": (8, 1), "layers.1x1": (6, 1)})
def names_that_are_no_attributes() -> nn.Module:
    """Keys of a ModuleDict may be keywords of Python, and need not be identifiers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers["1x1"](self.layers["class"](self.layers["in"](x))))

    layers = nn.ModuleDict({"in": conv(3, 8, 3), "class": nn.BatchNorm2d(8), "1x1": conv(8, 6)})
    return net(forward, layers=layers, out=conv(6, 5))
