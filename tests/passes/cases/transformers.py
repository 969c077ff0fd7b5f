"""Attention as people write it by hand, and what stands around it in vision transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import case, conv, net, parameter

FIXED = "meets channels of a fixed number"


def tokens(x: Tensor) -> Tensor:
    """An image as a sequence of pixels: b x (h w) x c."""
    return x.flatten(2).transpose(1, 2)


def attention_net(attend: Callable[..., Any], channels: int = 8, **parts: Any) -> nn.Module:
    """A convolution, one residual block with ``attend`` on its pixels (b x n x c), a classifier."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = tokens(self.a(x))
        return self.out((x + attend(self, x)).mean(1))

    return net(forward, a=conv(3, channels), **parts, out=nn.Linear(channels, 5))


def qkv_parts(channels: int = 8, inner: int = 8) -> dict[str, nn.Module]:
    return {"qkv": nn.Linear(channels, 3 * inner), "proj": nn.Linear(inner, channels)}


@case({"a": (8, 2)}, mixed=["a"])
def joint_projection_chunked() -> nn.Module:
    """The heads are cut from the channel count of the input, so all is one width."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (t.view(b, n, 2, c // 2).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        y = F.softmax(q @ k.transpose(-2, -1) * (c // 2) ** -0.5, dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))

    return attention_net(attend, **qkv_parts())


@case({"a": (8, 1), "qkv": (24, 6)}, mixed=["qkv"], resize_linear=True)
def joint_projection_of_its_own_width() -> nn.Module:
    """Heads of a fixed number, all else inferred: the inner width is free."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, -1).permute(2, 0, 3, 1, 4)
        y = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))

    return attention_net(attend, **qkv_parts())


@case({"a": (8, 1), "qkv": (24, 6)}, mixed=["qkv"], resize_linear=True)
def joint_projection_of_literal_sizes() -> nn.Module:
    """Heads and their width as numbers: the larger one, the width, grows."""

    def attend(self: Any, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(2, 64, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        y = (q * 4**-0.5 @ k.mT).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(2, 64, 8))

    return attention_net(attend, **qkv_parts())


@case({"a": (8, 2)}, mixed=["a"])
def joint_projection_of_an_image() -> nn.Module:
    """One 1x1 convolution; heads first, then queries, keys and values inside each (GPT-NeoX, Restormer style)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 2, 3 * (c // 2), h * w).chunk(3, dim=2)
        y = v @ (q.transpose(2, 3) @ k).softmax(-1).transpose(2, 3)
        return self.out(x + self.proj(y.reshape(b, c, h, w)))

    return net(forward, a=conv(3, 8), qkv=conv(8, 24), proj=conv(8, 8), out=conv(8, 5))


@case({"a": (8, 1), "q": (8, 2), "v": (8, 2)}, mixed=["q"], resize_linear=True)
def separate_projections() -> nn.Module:
    """Queries and keys share a width, values have their own."""

    def attend(self: Any, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.proj((torch.matmul(q, k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    return attention_net(attend, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), proj=nn.Linear(8, 8))


@case({"a": (8, 2)}, {"mix": FIXED}, mixed=["a"], resize_linear=True)
def talking_heads() -> nn.Module:
    """A linear layer between the heads, whose number is fixed."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.mix((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    return attention_net(attend, **qkv_parts(), mix=nn.Linear(2, 2))


@case({"a": (8, 2)}, mixed=["a"])
def cross_covariance() -> nn.Module:
    """XCiT, EdgeNeXt: attention between the channels of a head, of normalized queries and keys, with a temperature."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 4, 1).unbind(0)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * self.temperature
        return self.proj(self.gamma * (scores.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(b, n, c))

    return attention_net(attend, **qkv_parts(), temperature=nn.Parameter(torch.ones(2, 1, 1)), gamma=parameter(8))


def window_bias(window: int, heads: int) -> dict[str, Any]:
    """The bias of Swin: a table with one row a displacement, and which row each pair of pixels takes."""
    at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    apart = at[:, :, None] - at[:, None, :] + window - 1
    return {
        "table": parameter((2 * window - 1) ** 2, heads),
        "index": nn.Buffer(apart[0] * (2 * window - 1) + apart[1]),
    }


@case({"a": (8, 2)}, mixed=["a"])
def shifted_windows() -> nn.Module:
    """Swin: windows of a shifted image, a learned bias for each displacement, the shift undone."""

    def windows(x: Tensor, size: int) -> Tensor:
        b, h, w, c = x.shape
        x = x.view(b, h // size, size, w // size, size, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, c)

    def together(x: Tensor, size: int, h: int, w: int) -> Tensor:
        b = int(x.shape[0] / (h * w / size / size))
        x = x.view(b, h // size, w // size, size, size, -1)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).permute(0, 2, 3, 1)
        shifted = torch.roll(self.norm(x), shifts=(-2, -2), dims=(1, 2))
        w = windows(shifted, 4).view(-1, 16, shifted.shape[-1])
        many, n, c = w.shape
        q, k, v = self.qkv(w).reshape(many, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (c // 2) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        scores = scores.view(many // 4, 4, 2, n, n) + self.mask.unsqueeze(1).unsqueeze(0)
        y = (scores.view(-1, 2, n, n).softmax(-1) @ v).transpose(1, 2).reshape(many, n, c)
        y = together(self.proj(y).view(-1, 4, 4, c), 4, 8, 8)
        return self.out((x + torch.roll(y, shifts=(2, 2), dims=(1, 2))).mean((1, 2)))

    parts = {"norm": nn.LayerNorm(8), **qkv_parts(), **window_bias(4, 2)}
    return net(forward, a=conv(3, 8), **parts, mask=nn.Buffer(torch.zeros(4, 16, 16)), out=nn.Linear(8, 5))


@case({"a": (8, 1), "down": (8, 1)}, mixed=["a"], resize_linear=True)
def patch_merging() -> nn.Module:
    """Swin: four neighbours are concatenated, normalized and projected."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).permute(0, 2, 3, 1)
        parts = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.down(self.norm(torch.cat(parts, -1)))
        return self.out(x.permute(0, 3, 1, 2))

    parts = {"norm": nn.LayerNorm(32), "down": nn.Linear(32, 8, bias=False)}
    return net(forward, a=conv(3, 8), **parts, out=conv(8, 5))


@case({"a": (8, 2), "sr": (8, 1)}, mixed=["a", "sr"])
def spatial_reduction() -> nn.Module:
    """PVT: keys and values come from a smaller image, whose width is its own."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, 2, c // 2).permute(0, 2, 1, 3)
        small = self.norm(tokens(self.sr(x.permute(0, 2, 1).reshape(b, c, 8, 8))))
        kv = self.kv(small).reshape(b, -1, 2, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = ((q @ kv[0].transpose(-2, -1)) * 0.5).softmax(dim=-1) @ kv[1]
        return self.proj(y.transpose(1, 2).reshape(b, n, c))

    parts = {"sr": nn.Conv2d(8, 8, 2, 2), "norm": nn.LayerNorm(8), "q": nn.Linear(8, 8), "kv": nn.Linear(8, 16)}
    return attention_net(attend, **parts, proj=nn.Linear(8, 8))


@case({"a": (8, 1), "q": (8, 2), "v": (8, 2)}, mixed=["q"], resize_linear=True)
def convolutional_projection() -> nn.Module:
    """CvT: a depthwise convolution and a norm before each projection, and a class token that passes them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b = x.shape[0]
        token = self.token.expand(b, -1, -1)
        q, k, v = (torch.cat([token, tokens(part(x))], 1) for part in (self.dq, self.dk, self.dv))
        q, k, v = self.q(q), self.k(k), self.v(v)
        q, k, v = (t.view(b, -1, 2, t.shape[-1] // 2).transpose(1, 2) for t in (q, k, v))
        scores = torch.einsum("bhlk,bhtk->bhlt", [q, k]) * 0.5
        y = torch.einsum("bhlt,bhtv->bhlv", [scores.softmax(-1), v])
        return self.out(self.proj(y.transpose(1, 2).flatten(2))[:, 0] + x.mean((2, 3)))

    def depthwise(stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 3, stride, 1, groups=8, bias=False), nn.BatchNorm2d(8))

    parts = {"dq": depthwise(1), "dk": depthwise(2), "dv": depthwise(2)}
    parts |= {name: nn.Linear(8, 8) for name in ("q", "k", "v", "proj")}
    return net(forward, a=conv(3, 8), token=parameter(1, 1, 8), **parts, out=nn.Linear(8, 5))


@case({"a": (8, 1), "qkv": (24, 6), "proj": (8, 1)}, mixed=["qkv"])
def bottleneck_attention() -> nn.Module:
    """BoTNet: positions are added to the keys; 2 heads of a fixed number."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 3, 2, -1, h * w).unbind(1)
        places = (self.rows + self.columns).view(1, 2, -1, h * w)
        scores = q.transpose(-2, -1) @ k + q.transpose(-2, -1) @ places
        y = v @ scores.softmax(-1).transpose(-2, -1)
        return self.out(self.proj(y.reshape(b, -1, h, w)).relu())

    parts = {"rows": parameter(1, 2, 4, 8, 1), "columns": parameter(1, 2, 4, 1, 8)}
    return net(forward, a=conv(3, 8), qkv=conv(8, 24), **parts, proj=conv(8, 8), out=conv(8, 5))


@case({"a": (8, 1), "qkv": (24, 6)}, mixed=["qkv"])
def linear_attention() -> nn.Module:
    """No softmax: keys and values are multiplied first, and the sum of the keys normalizes (EfficientViT, ReLU)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.size()
        q, k, v = torch.chunk(self.qkv(x).reshape(b, 2, -1, h * w).transpose(-1, -2), 3, dim=-1)
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 1), mode="constant", value=1.0)
        y = q @ (k.transpose(-1, -2) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1e-6)
        return self.out(x + self.proj(y.transpose(-1, -2).reshape(b, -1, h, w)))

    return net(forward, a=conv(3, 8), qkv=conv(8, 24, bias=False), proj=conv(8, 8), out=conv(8, 5))


@case({"patch": (8, 1), "f1": (16, 1)}, mixed=["patch"], resize_linear=True)
def embedded_patches() -> nn.Module:
    """A class token, positions that are interpolated to the size of the image, layer scale."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.patch(x)
        b, c, h, w = x.shape
        first, places = self.position[:, :1], self.position[:, 1:]
        places = F.interpolate(places.reshape(1, 2, 2, c).permute(0, 3, 1, 2), size=(h, w), mode="bilinear")
        x = tokens(x) + places.permute(0, 2, 3, 1).view(1, -1, c)
        x = torch.cat((self.token.expand(b, -1, -1) + first, x), dim=1)
        x = x + self.gamma * self.f2(F.gelu(self.f1(self.norm(x))))
        return self.out(x[:, 0])

    parts = {"token": parameter(1, 1, 8), "position": parameter(1, 5, 8), "gamma": parameter(8)}
    parts |= {"norm": nn.LayerNorm(8), "f1": nn.Linear(8, 16), "f2": nn.Linear(16, 8)}
    return net(forward, patch=nn.Conv2d(3, 8, 2, 2), **parts, out=nn.Linear(8, 5))


@case({"a": (8, 1), "f1": (32, 1)}, mixed=["a", "f1"], resize_linear=True)
def global_response_norm() -> nn.Module:
    """ConvNeXt V2: norms of channels over space, divided by their mean over the channels."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.f1(self.norm(self.a(x).permute(0, 2, 3, 1)))
        g = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = self.gamma * (y * (g / (g.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + y
        return self.out((self.a(x).permute(0, 2, 3, 1) + self.f2(y)).mean((1, 2)))

    parts = {"gamma": parameter(1, 1, 1, 32), "beta": parameter(1, 1, 1, 32), "norm": nn.LayerNorm(8)}
    return net(forward, a=conv(3, 8), **parts, f1=nn.Linear(8, 32), f2=nn.Linear(32, 8), out=nn.Linear(8, 5))


@case({"a": (8, 2)}, mixed=["a"])
def weights_of_a_module() -> nn.Module:
    """The module is never called, its weights are: torchvision's Swin."""

    def attend(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = F.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1) @ v
        return F.dropout(F.linear(y.transpose(1, 2).reshape(b, n, c), self.proj.weight, self.proj.bias), p=0.0)

    return attention_net(attend, **qkv_parts())


@case({"a": (8, 1), "qkv": (24, 6)}, mixed=["qkv"])
def multi_scale_linear_attention() -> nn.Module:
    """EfficientViT: the head width is a number and -1 the number of heads, which the groups of ``mix`` fix."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.mix(self.near(qkv))], dim=1)
        qkv = qkv.reshape(b, -1, 12, h * w).transpose(-1, -2)
        q, k, v = qkv[..., 0:4].relu(), qkv[..., 4:8].relu(), qkv[..., 8:]
        y = q @ (k.transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
        y = (y[..., :-1] / (y[..., -1:] + 1e-6)).transpose(-1, -2).reshape(b, -1, h, w)
        return self.out(x + self.proj(y))

    parts = {"near": conv(24, 24, 5, groups=24), "mix": conv(24, 24, groups=6)}
    return net(forward, a=conv(3, 8), qkv=conv(8, 24), **parts, proj=conv(16, 8), out=conv(8, 5))


@case({"a": (8, 1), "qkv": (24, 6)}, mixed=["qkv"])
def heads_among_the_samples() -> nn.Module:
    """``-1`` is samples times heads, so it is the width of a head that grows."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=1)
        q = q.reshape(-1, 4, h * w).transpose(1, 2)
        k, v = k.reshape(b * 2, 4, h * w), v.reshape(b * 2, 4, h * w)
        y = torch.bmm(v, torch.bmm(q, k).softmax(-1).transpose(1, 2))
        return self.out(x + self.proj(y.reshape(b, -1, h, w)))

    return net(forward, a=conv(3, 8), qkv=conv(8, 24), proj=conv(8, 8), out=conv(8, 5))
