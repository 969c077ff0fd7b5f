"""Attention: products between channels, heads, softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net, parameter


@case({"a": (8, 1), "q": (4, 1), "v": (6, 1)}, mixed=["q"])
def non_local() -> nn.Module:
    """q and k are multiplied channel by channel, so they are tied."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        q = self.q(x).view(b, -1, h * w).permute(0, 2, 1)
        k = self.k(x).view(b, -1, h * w)
        v = self.v(x).view(b, -1, h * w).permute(0, 2, 1)
        y = torch.softmax(torch.matmul(q, k), dim=-1) @ v
        y = y.permute(0, 2, 1).contiguous().view(b, -1, h, w)
        return self.out(x + self.w(y))

    return net(forward, a=conv(3, 8), q=conv(8, 4), k=conv(8, 4), v=conv(8, 6), w=conv(6, 8), out=conv(8, 5))


@case({"a": (8, 1)}, mixed=["a"])
def softmax_over_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).softmax(1))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 1)}, mixed=["a"])
def channel_attention() -> nn.Module:
    """DANet: a channels x channels map."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        flat = x.flatten(2)
        attention = torch.bmm(flat, flat.transpose(1, 2)).softmax(-1)
        return self.out(torch.bmm(attention, flat).view(x.shape) + x)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 2)}, mixed=["a"])
def heads_by_reshape() -> nn.Module:
    """Self-attention of timm: qkv in one linear layer, cut by reshape into 3 x heads x channels: all is tied."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(b, n, c)
        return self.out((x + self.proj(y)).mean(1))

    return net(forward, a=conv(3, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8), out=nn.Linear(8, 5))


@case({"a": (8, 1), "mlp.0": (2, 1)}, {"m": "broadcasts"}, mixed=["a"])
def convolutional_block_attention() -> nn.Module:
    """CBAM: channel attention by two pools, then a map from mean and max over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        pooled = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * pooled.sigmoid()
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.out(x * self.m(both).sigmoid())

    mlp = nn.Sequential(conv(8, 2), nn.ReLU(), conv(2, 8))
    return net(forward, a=conv(3, 8), mlp=mlp, m=conv(2, 1, 7), out=conv(8, 5))


@case({"a": (8, 1), "c": (4, 1)})
def coordinate_attention() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        _, _, h, w = x.size()
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        both = F.hardswish(self.c(torch.cat([rows, columns], dim=2)))
        rows, columns = torch.split(both, [h, w], dim=2)
        return self.out(x * self.h(rows).sigmoid() * self.w(columns.permute(0, 1, 3, 2)).sigmoid())

    return net(forward, a=conv(3, 8), c=conv(8, 4), h=conv(4, 8), w=conv(4, 8), out=conv(8, 5))


@case({"patch": (8, 1)}, {"f1": LINEAR}, mixed=["patch"])
def vision_transformer_block() -> nn.Module:
    """Patches, class token, position embedding, norm and MLP: all follow the patch convolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.f2(F.gelu(self.f1(self.norm(x))))
        return self.out(x[:, 0])

    return net(
        forward,
        patch=nn.Conv2d(3, 8, 4, 4),
        token=parameter(1, 1, 8),
        position=parameter(1, 5, 8),
        norm=nn.LayerNorm(8),
        f1=nn.Linear(8, 16),
        f2=nn.Linear(16, 8),
        out=nn.Linear(8, 5),
    )


@case({"patch": (8, 1)}, {"t1": LINEAR, "t2": "meets channels of a fixed number", "c1": LINEAR}, mixed=["patch"])
def mixer_block() -> nn.Module:
    """MLP-Mixer: linear layers along the patches and along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(F.gelu(self.c1(x)))
        return self.out(x.mean(1))

    return net(
        forward,
        patch=nn.Conv2d(3, 8, 4, 4),
        norm=nn.LayerNorm(8),
        t1=nn.Linear(4, 6),
        t2=nn.Linear(6, 4),
        c1=nn.Linear(8, 12),
        c2=nn.Linear(12, 8),
        out=nn.Linear(8, 5),
    )


def _tokens(x: Tensor) -> Tensor:
    """An image as a sequence of pixels: b x (h w) x c."""
    return x.flatten(2).transpose(1, 2)


@case({"a": (8, 2)}, mixed=["a"])
def multihead_attention() -> nn.Module:
    """Query, heads and result are one width, a multiple of the heads."""

    def forward(self, x: Tensor) -> Tensor:
        x = _tokens(self.a(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(x.mean(1))

    return net(forward, a=conv(3, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True), out=nn.Linear(8, 5))


@case({"a": (6, 2)}, mixed=["a"])
def multihead_attention_sequence_first() -> nn.Module:
    """Without bias, with one more key and value for all and one of zeros, and the weights are read too."""

    def forward(self, x: Tensor) -> Tensor:
        x = _tokens(self.a(x)).transpose(0, 1)
        y, weights = self.attention(x, x, x)
        return self.out((x + y).mean(0)) * weights.mean()

    attention = nn.MultiheadAttention(6, 2, bias=False, add_bias_kv=True, add_zero_attn=True)
    return net(forward, a=conv(3, 6), attention=attention, out=nn.Linear(6, 5))


@case({"a": (8, 2), "k": (6, 1), "v": (10, 1)}, mixed=["a"])
def cross_attention() -> nn.Module:
    """Keys and values of other widths: their own groups, which nothing mixes."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _tokens(self.a(x)), _tokens(self.k(x)), _tokens(self.v(x))
        y, weights = self.attention(q, k, v, average_attn_weights=False)
        return self.out((q + y).mean(1)) * weights.amax((1, 2, 3))[:, None]

    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=10, batch_first=True)
    return net(forward, a=conv(3, 8), k=conv(3, 6), v=conv(3, 10), attention=attention, out=nn.Linear(8, 5))


@case({"a": (8, 4)}, mixed=["a"])
def attention_to_another_image() -> nn.Module:
    """One packed projection: what it reads in any of three places is one width."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = _tokens(self.a(x)), _tokens(self.k(F.avg_pool2d(x, 2)))
        mask = torch.zeros(64, 16, dtype=torch.bool)
        mask[:, 3] = True
        return self.out(self.attention(query=q, key=k, value=k, attn_mask=mask)[0].mean(1))

    return net(
        forward,
        a=conv(3, 8),
        k=conv(3, 8),
        attention=nn.MultiheadAttention(8, 4, batch_first=True),
        out=nn.Linear(8, 5),
    )


@case({"a": (8, 4)}, mixed=["a"])
def attention_pooling() -> nn.Module:
    """The head of CLIP's ResNets: ``F.multi_head_attention_forward`` with weights of layers, which is looked into."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.place[:, None]
        x, _ = F.multi_head_attention_forward(
            query=x[:1], key=x, value=x, embed_dim_to_check=x.shape[-1], num_heads=4, q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight, v_proj_weight=self.v.weight, in_proj_weight=None,
            in_proj_bias=torch.cat([self.q.bias, self.k.bias, self.v.bias]), bias_k=None, bias_v=None,
            add_zero_attn=False, dropout_p=0.0, out_proj_weight=self.out.weight, out_proj_bias=self.out.bias,
            use_separate_proj_weight=True, training=self.training, need_weights=False,
        )  # fmt: skip
        return x.squeeze(0)

    parts = {name: nn.Linear(8, 8) for name in ("q", "k", "v")}
    return net(forward, a=conv(3, 8), place=parameter(65, 8), **parts, out=nn.Linear(8, 5))


@case({}, {"a": "attends over a dim that holds channels"})
def attention_among_channels() -> nn.Module:
    """Channels as a sequence of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2)
        return self.out(self.attention(x, x, x)[0].mean(2))

    return net(forward, a=conv(3, 8), attention=nn.MultiheadAttention(64, 4, batch_first=True), out=nn.Linear(8, 5))
