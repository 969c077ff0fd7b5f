"""Products that sum over dims: einsum, tensordot, matrices plus a tensor, attention as one function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net, parameter


@case({"a": (8, 1), "q": (4, 1), "v": (6, 1)}, mixed=["q"])
def scaled_dot_product() -> nn.Module:
    """Queries and keys are one width, values go through."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        q, k, v = (part(x).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(x + self.w(y.transpose(1, 2).unflatten(2, (8, 8))))

    return net(forward, a=conv(3, 8), q=conv(8, 4), k=conv(8, 4), v=conv(8, 6), w=conv(6, 8), out=conv(8, 5))


@case({"a": (8, 1), "q": (8, 2), "v": (12, 2)}, mixed=["q"])
def scaled_dot_product_with_heads() -> nn.Module:
    """Two heads, a mask, a scale; the width of the values is their own."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        q, k, v = (part(x).unflatten(1, (2, -1)).flatten(3).transpose(2, 3) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=0.5)
        y = y.transpose(2, 3).flatten(1, 2).unflatten(2, (8, 8))
        return self.out(x + self.w(y))

    parts = {"q": conv(8, 8), "k": conv(8, 8), "v": conv(8, 12), "w": conv(12, 8)}
    return net(forward, a=conv(3, 8), **parts, mask=parameter(1, 64, 64), out=conv(8, 5))


@case({"a": (8, 1), "q": (16, 4), "v": (12, 2)}, mixed=["q"])
def grouped_query_attention() -> nn.Module:
    """Four heads of queries share two of keys and values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        q = self.q(x).unflatten(1, (4, -1)).flatten(3).transpose(2, 3)
        k, v = (part(x).unflatten(1, (2, -1)).flatten(3).transpose(2, 3) for part in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = y.transpose(2, 3).flatten(1, 2).unflatten(2, (8, 8))
        return self.out(x + self.w(y))

    parts = {"q": conv(8, 16), "k": conv(8, 8), "v": conv(8, 12), "w": conv(24, 8)}
    return net(forward, a=conv(3, 8), **parts, out=conv(8, 5))


@case({"a": (8, 1), "q": (8, 2), "v": (6, 2)}, mixed=["q"])
def einsum_with_heads() -> nn.Module:
    """Spaces in the equation, heads as a letter."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        q, k, v = (part(x).unflatten(1, (2, -1)).flatten(3).transpose(2, 3) for part in (self.q, self.k, self.v))
        scores = torch.einsum("b h i d, b h j d -> b h i j", q, k).softmax(-1)
        y = torch.einsum("bhij,bhjd->bihd", scores, v).flatten(2).transpose(1, 2).unflatten(2, (8, 8))
        return self.out(x + self.w(y))

    parts = {"q": conv(8, 8), "k": conv(8, 8), "v": conv(8, 6), "w": conv(6, 8)}
    return net(forward, a=conv(3, 8), **parts, out=conv(8, 5))


@case({"a": (8, 1), "b": (6, 1)}, mixed=["b"])
def einsum_of_ellipsis_and_implicit_output() -> nn.Module:
    """The first sums over the pixels. Without an arrow the letters that come once are the result, sorted."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).flatten(2), self.b(x).flatten(2)
        products = torch.einsum("...cn,...dn->...cd", a, b).softmax(-1)
        y = torch.einsum("...dn,...cd", b, products)
        gate = torch.einsum("bcn->bc", [y]).sigmoid()
        return self.out(torch.einsum("bcn,bc->bcn", a, gate).unflatten(2, (8, 8)))

    return net(forward, a=conv(3, 8), b=conv(3, 6), out=conv(8, 5))


@case({"a": (6, 1), "b": (4, 1)}, {"u": LINEAR, "v": LINEAR})
def einsum_of_several() -> nn.Module:
    """A map of low rank; multiplied in the order of the operands."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,cr,ro,bo->bohw", self.a(x), self.u, self.v, self.s)
        z = self.b(x)
        return self.out(y) + self.out(torch.einsum("bchw,bchw,bc,dc->bdhw", z, z, z.mean((2, 3)), self.w))

    parts = {"u": parameter(6, 2), "v": parameter(2, 8), "s": parameter(2, 8), "w": parameter(8, 4)}
    return net(forward, a=conv(3, 6), b=conv(3, 4), **parts, out=conv(8, 5))


@case({"a": (6, 1)}, {"w": "broadcasts one channel", "w#2": LINEAR})
def einsum_of_numbers() -> nn.Module:
    """Three operands of fixed numbers."""

    def forward(self, x: Tensor) -> Tensor:
        mix = torch.einsum("ij,jk,kl->il", self.p, self.p, self.p)
        return self.out(self.a(x)) + torch.einsum("bchw,cd->bdhw", x, self.w)[:, :1] * mix.mean()

    return net(forward, a=conv(3, 6), p=nn.Parameter(torch.eye(3)), w=parameter(3, 2), out=conv(6, 5))


@case({"a": (8, 1), "b": (6, 1)}, mixed=["a"])
def matrices_added() -> nn.Module:
    """baddbmm and addmm: the tensor that is added has the dims of the product."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x).flatten(2)
        scores = torch.bmm(a.flatten(2).transpose(1, 2), self.k(x).flatten(2)).softmax(-1)
        y = torch.baddbmm(b, self.c(x).flatten(2), scores, beta=0.5, alpha=0.25)
        return self.out(y.unflatten(2, (8, 8)))

    return net(forward, a=conv(3, 8), k=conv(3, 8), b=conv(3, 6), c=conv(3, 6), out=conv(6, 5))


@case({"a": (8, 1), "b": (6, 1)}, mixed=["b"])
def tensordot_over_pixels() -> nn.Module:
    """The dims of one and of the other that are not summed over, in this order."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        mix = torch.tensordot(a, b, dims=([0, 2, 3], [0, 2, 3])) / 64
        y = torch.tensordot(mix, b, dims=([1], [1]))
        return self.out(y.transpose(0, 1) + a)

    return net(forward, a=conv(3, 8), b=conv(3, 6), out=conv(8, 5))


@case({"a": (8, 1)}, mixed=["a"])
def product_with_a_vector() -> nn.Module:
    """A context vector: softmax over the pixels, then one weighted mean of them (global context block)."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        weights = torch.matmul(a.flatten(2).transpose(1, 2), self.v).softmax(1)
        context = torch.einsum("bcn,bn->bc", a.flatten(2), weights)
        return self.out(a + context[..., None, None])

    return net(forward, a=conv(3, 8), v=parameter(8), out=conv(8, 5))


@case({"a": (8, 1)}, mixed=["a"])
def inner_and_outer_products() -> nn.Module:
    """torch.inner sums over the last dims of both; torch.outer joins two vectors."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).permute(0, 2, 3, 1), self.b(x).mean((2, 3))
        alike = torch.inner(a, b)
        weights = torch.outer(self.u, b[0])
        return self.out(self.a(x) + alike.mean(-1).unsqueeze(1)) * torch.inner(weights, b).mean()

    return net(forward, a=conv(3, 8), b=conv(3, 8), u=parameter(4), out=conv(8, 5))


@case({"a": (8, 1), "w": (6, 1), "v": (4, 1)}, resize_linear=True)
def product_with_a_parameter() -> nn.Module:
    """A parameter that is multiplied is a linear layer: it reads one width and writes another."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1) @ self.w + self.b
        return self.out(torch.einsum("bhwc,dc->bdhw", y.relu(), self.v))

    return net(forward, a=conv(3, 8), w=parameter(8, 6), b=parameter(6), v=parameter(4, 6), out=conv(4, 5))


@case({"a": (8, 1)}, {"w": LINEAR})
def product_with_a_transposed_parameter() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.addmm(self.b, self.a(x).mean((2, 3)), self.w.t()).relu())

    return net(forward, a=conv(3, 8), w=parameter(6, 8), b=parameter(6), out=nn.Linear(6, 5))
