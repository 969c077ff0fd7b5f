"""Modules from papers that move channels in unusual ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net, parameter


@case({"a": (16, 4)})
def shuffle_attention() -> nn.Module:
    """SA-Net: groups in the batch, halves, a norm with one group a channel, shuffle."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        channel, space = x.reshape(b * 2, -1, h, w).chunk(2, dim=1)
        channel = channel * (self.cw * channel.mean((2, 3), keepdim=True) + self.cb).sigmoid()
        space = space * (self.sw * self.norm(space) + self.sb).sigmoid()
        x = torch.cat([channel, space], 1).reshape(b, -1, h, w)
        return self.out(x.reshape(b, 2, -1, h, w).permute(0, 2, 1, 3, 4).reshape(b, -1, h, w))

    parts = {name: parameter(1, 4, 1, 1) for name in ("cw", "cb", "sw", "sb")}
    return net(forward, a=conv(3, 16), **parts, norm=nn.GroupNorm(4, 4), out=conv(16, 5))


@case({"a": (8, 1)}, {"fc": LINEAR})
def selective_kernel_linear() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        branches = [self.a(x), self.b(x)]
        z = self.fc(sum(branches).mean((2, 3)))
        weights = torch.stack([self.h1(z), self.h2(z)], 0).softmax(0)[..., None, None]
        return self.out((torch.stack(branches, 0) * weights).sum(0))

    heads = {"h1": nn.Linear(4, 8), "h2": nn.Linear(4, 8)}
    return net(forward, a=conv(3, 8), b=conv(3, 8, 3), fc=nn.Linear(8, 4), **heads, out=conv(8, 5))


@case({"a": (16, 2), "f1": (4, 1)})
def split_attention() -> nn.Module:
    """ResNeSt: two splits of one convolution, weighted by a softmax over the splits."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, channels = x.shape[:2]
        splits = x.reshape(b, 2, channels // 2, *x.shape[2:])
        pooled = splits.sum(1).mean((2, 3), keepdim=True)
        weights = self.f2(F.relu(self.f1(pooled))).view(b, 1, 2, -1).transpose(1, 2).softmax(1).reshape(b, -1, 1, 1)
        return self.out((splits * weights.reshape(b, 2, channels // 2, 1, 1)).sum(1))

    return net(forward, a=conv(3, 16, 3), f1=conv(8, 4), f2=conv(4, 16), out=conv(8, 5))


@case({"a": (8, 2), "red": (4, 1)}, {"span": "meets channels of a fixed number"})
def involution() -> nn.Module:
    """A kernel of 9 taps for each of 2 groups at each pixel: of 2 x 4 x 9 it is the 4 that grows."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        kernel = self.span(F.relu(self.red(x)))
        b, _, h, w = kernel.shape
        patches = F.unfold(x, 3, padding=1).view(b, 2, 4, 9, h, w)
        return self.out((kernel.view(b, 2, 9, h, w).unsqueeze(2) * patches).sum(3).view(b, 8, h, w))

    return net(forward, a=conv(3, 8), red=conv(8, 4), span=conv(4, 18), out=conv(8, 5))


@case({}, {"a": "merges two dims that hold channels"})
def bilinear_pooling() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2)
        return self.out((x @ x.transpose(1, 2) / 64).view(x.size(0), -1))

    return net(forward, a=conv(3, 6), out=nn.Linear(36, 5))


@case({"a": (4, 1)})
def coordinate_convolution() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, _, h, w = y.shape
        across = torch.linspace(-1, 1, w, dtype=y.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
        down = torch.linspace(-1, 1, h, dtype=y.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        return self.out(torch.cat([y, across, down], 1))

    return net(forward, a=conv(3, 4), out=conv(6, 5))


@case({"a": (6, 1)})
def funnel_activation() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.max(y, self.norm(self.d(y))))

    return net(forward, a=conv(3, 6), d=conv(6, 6, 3, groups=6), norm=nn.BatchNorm2d(6), out=conv(6, 5))


@case({"a": (6, 1)}, {"f1": LINEAR})
def dynamic_relu() -> nn.Module:
    """Two slopes for each channel, written by one linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        slopes = self.f2(F.relu(self.f1(y.mean((2, 3))))).sigmoid().view(2, 6, 2)
        flat = y.view(2, 6, -1)
        return self.out(torch.max(flat * slopes[..., :1], flat * slopes[..., 1:]).view(y.shape))

    return net(forward, a=conv(3, 6), f1=nn.Linear(6, 4), f2=nn.Linear(4, 12), out=conv(6, 5))


class BlurPool(nn.Module):
    """One filter, expanded over all channels; their number is an attribute."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(self.channels, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=self.channels)


@case({"a": (6, 1)})
def blur_pool() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blur(F.relu(self.a(x))))

    return net(forward, a=conv(3, 6), blur=BlurPool(6), out=conv(6, 5))


@case({"a": (6, 1)})
def filter_response_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * torch.rsqrt(x.pow(2).mean(dim=[2, 3], keepdim=True) + 1e-6)
        return self.out(torch.max(self.gamma * x + self.beta, self.tau))

    parts = {name: parameter(1, 6, 1, 1) for name in ("gamma", "beta", "tau")}
    return net(forward, a=conv(3, 6), **parts, out=conv(6, 5))


@case({"a": (8, 2)}, mixed=["a"])
def evolved_norm() -> nn.Module:
    """EvoNorm-S0: variance over groups, expanded back to all channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        variance = y.view(b, 2, c // 2, h, w).var(dim=(2, 3, 4), unbiased=False, keepdim=True)
        deviation = (variance + 1e-5).sqrt().expand(b, 2, c // 2, h, w).reshape(b, c, h, w)
        return self.out(y * torch.sigmoid(self.v * y) / deviation * self.gamma + self.beta)

    parts = {name: parameter(1, 8, 1, 1) for name in ("v", "gamma", "beta")}
    return net(forward, a=conv(3, 8), **parts, out=conv(8, 5))


@case({"a": (6, 1), "w": (8, 1)}, {"r": LINEAR})
def mixed_kernels() -> nn.Module:
    """CondConv: the kernel is a sum of three parameters, weighted by the input."""

    def forward(self, x: Tensor) -> Tensor:
        weights = self.r(x.mean((2, 3))).sigmoid().mean(0)
        kernel = (weights[:, None, None, None, None] * self.w).sum(0)
        return self.out(F.conv2d(self.a(x), kernel, padding=1))

    return net(forward, a=conv(3, 6), r=nn.Linear(3, 3), w=parameter(3, 8, 6, 3, 3), out=conv(8, 5))


@case({"a": (2, 1), "a#2": (6, 1), "p": (2, 1)})
def partial_convolution() -> nn.Module:
    """FasterNet by literals: the first channels are convolved, the rest passes."""

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(self.a(x), [2, 6], dim=1)
        return self.out(torch.cat((self.p(first), rest), 1))

    return net(forward, a=conv(3, 8), p=conv(2, 2, 3), out=conv(8, 5))


@case({"a": (8, 4)})
def partial_convolution_by_size() -> nn.Module:
    """The same by a quarter of the size, with a residual."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = y.shape[1] // 4
        return self.out(torch.cat((self.p(y[:, :n]), y[:, n:]), 1) + y)

    return net(forward, a=conv(3, 8), p=conv(2, 2, 3), out=conv(8, 5))


@case({"a": (3, 1), "a#2": (3, 1), "a#3": (2, 1)})
def mixed_depthwise() -> nn.Module:
    """MixConv: depthwise kernels of several sizes."""

    def forward(self, x: Tensor) -> Tensor:
        p, q, r = torch.split(self.a(x), [3, 3, 2], 1)
        return self.out(torch.cat([self.d1(p), self.d2(q), self.d3(r)], 1))

    d1, d2, d3 = conv(3, 3, 3, groups=3), conv(3, 3, 5, groups=3), conv(2, 2, 7, groups=2)
    return net(forward, a=conv(3, 8), d1=d1, d2=d2, d3=d3, out=conv(8, 5))


@case({"a": (6, 1), "b": (3, 1), "c": (4, 1), "d": (5, 1), "e": (7, 1)})
def harmonic_dense() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        c = self.c(torch.cat([b, a], 1))
        d = self.d(c)
        e = self.e(torch.cat([d, c, a], 1))
        return self.out(torch.cat([a, b, d, e], 1))

    return net(forward, a=conv(3, 6), b=conv(6, 3), c=conv(9, 4), d=conv(4, 5), e=conv(15, 7), out=conv(21, 5))


@case({"a": (6, 6)})
def dense_with_shuffles() -> nn.Module:
    """6 + 4 in two rows of 5, then 10 + 5 in three: no boundary fits, so 6 : 4 : 5 stay, in steps of one sixth."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        y = self.s2(torch.cat([a, self.b(a)], 1))
        return self.out(self.s3(torch.cat([y, self.c(y)], 1)))

    shuffles = {"s2": nn.ChannelShuffle(2), "s3": nn.ChannelShuffle(3)}
    return net(forward, a=conv(3, 6), b=conv(6, 4), c=conv(10, 5), **shuffles, out=conv(15, 5))


@case({"a": (2, 1), "a#2": (6, 1)})
def temporal_shift_in_place() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out = torch.zeros_like(y)
        out[:-1, :2] = y[1:, :2]
        out[:, 2:] = y[:, 2:]
        return self.out(out)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 4)})
def temporal_shift() -> nn.Module:
    """A quarter of the channels comes from the next sample, one from the sample before."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = y.shape[1] // 4
        ahead = torch.cat([y[1:, :n], torch.zeros_like(y[:1, :n])], 0)
        back = torch.cat([torch.zeros_like(y[:1, n : 2 * n]), y[:-1, n : 2 * n]], 0)
        return self.out(torch.cat([ahead, back, y[:, 2 * n :]], 1))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"qkv": (24, 6)}, mixed=["qkv"])
def linear_attention() -> nn.Module:
    """Two dims of one value that change together: channels of keys x channels of values."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (t.reshape(b, 2, -1, h * w) for t in self.qkv(x).chunk(3, 1))
        context = k.softmax(-1) @ v.transpose(-1, -2)
        return self.out((context.transpose(-1, -2) @ q.softmax(-2)).reshape(b, -1, h, w))

    return net(forward, qkv=conv(3, 24), out=conv(8, 5))


@case({"a": (6, 1)}, {"l": LINEAR})
def windows() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1)
        b, h, w, c = y.shape
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, c)
        y = self.l(y).view(b, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        return self.out(y.permute(0, 3, 1, 2))

    return net(forward, a=conv(3, 6), l=nn.Linear(6, 7), out=conv(7, 5))


@case({"a": (12, 3)}, {"m": "meets channels of a fixed number"})
def maps_for_heads() -> nn.Module:
    """Three maps scale a third of the channels each: which third a channel is in matters."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        return self.out((y.view(b, 3, c // 3, h, w) * self.m(x).sigmoid().unsqueeze(2)).view(b, c, h, w))

    return net(forward, a=conv(3, 12), m=conv(3, 3), out=conv(12, 5))


@case({"a": (6, 1), "b": (8, 1), "fpn.inner_blocks.1.0": (7, 1), "fpn.layer_blocks.1.0": (7, 1)})
def feature_pyramid() -> nn.Module:
    """torchvision's own, with a dict of maps; the output layer is shared by both scales."""

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.a(x)
        maps = self.fpn({"fine": fine, "coarse": self.b(F.max_pool2d(fine, 2))})
        return [self.out(level) for level in maps.values()]

    fpn = torchvision.ops.FeaturePyramidNetwork([6, 8], 7)
    return net(forward, a=conv(3, 6), b=conv(6, 8), fpn=fpn, out=conv(7, 5))


@case({"a": (6, 1)})
def weighted_fusion() -> nn.Module:
    """BiFPN: one learned number for each map."""

    def forward(self, x: Tensor) -> Tensor:
        w = F.relu(self.w)
        w = w / (w.sum() + 1e-4)
        return self.out(w[0] * self.a(x) + w[1] * self.b(x))

    return net(forward, a=conv(3, 6), b=conv(3, 6), w=parameter(2), out=conv(6, 5))


@case({"a": (8, 2)})
def groups_in_the_batch() -> nn.Module:
    """A grouped convolution by folding the groups into the batch: ``g`` reads and writes half of ``a``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        return self.out(self.g(y.reshape(b * 2, c // 2, h, w)).view(b, c, h, w))

    return net(forward, a=conv(3, 8), g=conv(4, 4, 3), out=conv(8, 5))


@case({"a": (6, 1)})
def recurrent_reading_of_the_last() -> nn.Module:
    """Only the newest six channels are read each time: a negative start must follow too."""

    def forward(self, x: Tensor) -> Tensor:
        found = [self.a(x)]
        for _ in range(3):
            found.append(F.relu(self.b(torch.cat(found, 1)[:, -6:])))
        return self.out(torch.cat(found, 1))

    return net(forward, a=conv(3, 6), b=conv(6, 6, 3), out=conv(24, 5))


@case({"a": (6, 1)})
def recurrent_head() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.a(x).mean(2).permute(0, 2, 1))
        return self.out(states[:, -1])

    return net(forward, a=conv(3, 6), gru=nn.GRU(6, 7, batch_first=True), out=nn.Linear(7, 5))


@case({"a": (12, 3), "g1": (12, 6), "g2": (6, 2)})
def grouped_shuffle_grouped() -> nn.Module:
    """ShuffleNet: three groups, shuffle, two groups: what stands between is a multiple of six."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.g1(self.a(x))
        b, c, h, w = y.shape
        assert c % 3 == 0
        return self.out(self.g2(y.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)))

    return net(forward, a=conv(3, 12), g1=conv(12, 12, groups=3), g2=conv(12, 6, groups=2), out=conv(6, 5))


@case({"a": (6, 1), "g": (9, 3)}, mixed=["a"])
def grouped_on_a_multiplier() -> nn.Module:
    """At other sizes the three copies of one channel may come to stand in two groups."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.g(self.d(self.a(x))))

    return net(forward, a=conv(3, 6), d=conv(6, 18, 3, groups=6), g=conv(18, 9, groups=3), out=conv(9, 5))
