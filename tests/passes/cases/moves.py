"""Operators that move data: chunk, split, slices, shuffles, reshapes, padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net


@case({"a": (16, 2), "b": (12, 1)})
def chunk() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        u, v = self.a(x).chunk(2, 1)
        return self.out(F.relu(self.b(u) * self.c(v)))

    return net(forward, a=conv(3, 16, 3), b=conv(8, 12, 3), c=conv(8, 12), out=conv(12, 5))


@case({"a": (16, 2), "b": (12, 1)})
def chunk_and_the_same_slices() -> nn.Module:
    """Halves, and slices at the half of the present size: one number holds both."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        u, v = y.chunk(2, 1)
        return self.out(F.relu(self.b(u) + self.b(v) + self.c(torch.cat([y[:, 8:], y[:, :8]], 1))))

    return net(forward, a=conv(3, 16, 3), b=conv(8, 12, 3), c=conv(16, 12, 3), out=conv(12, 5))


@case({"a": (15, 3)})
def chunk_in_three() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        u, v, w = torch.chunk(self.a(x), 3, dim=1)
        return self.out(torch.cat([w, u, v], 1))

    return net(forward, a=conv(3, 15), out=conv(15, 5))


@case({"a": (8, 1)})
def chunk_of_a_cat() -> nn.Module:
    """Halves of a concatenation with the boundary in the middle are its parts, and equally long."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.cat([self.a(x), self.b(x)], 1).chunk(2, 1)
        return self.out(F.relu(u) - self.c(v))

    return net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 8), out=conv(8, 5))


@case({"a": (6, 1), "b": (4, 1)}, {"p": "broadcasts one channel"})
def pieces_as_long_as_others() -> nn.Module:
    """Focal modulation: a layer writes two pieces as wide as another layer's channels, and a gate beside them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = y.shape[1]
        query, context, gate = self.p(y).split((n, n, 1), 1)
        rest = self.b(y)
        return self.out(query * context * gate + rest[:, :n]) + self.last(rest[:, n:])

    return net(forward, a=conv(3, 6), p=conv(6, 13), b=conv(6, 10), out=conv(6, 5), last=conv(4, 5))


@case({"a": (12, 3)})
def chunk_of_an_uneven_cat() -> nn.Module:
    """12 + 4 in two halves of 8: the boundary is inside a part, so all keep their proportion."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.cat([self.a(x), self.b(x)], 1).chunk(2, 1)
        return self.out(F.relu(u) + self.c(v))

    return net(forward, a=conv(3, 12), b=conv(3, 4), c=conv(8, 8), out=conv(8, 5))


@case({"a": (16, 2)})
def gated_linear_unit() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x).chunk(2, dim=1)
        return self.out(value * gate.sigmoid())

    return net(forward, a=conv(3, 16), out=conv(8, 5))


@case({"a": (16, 4)})
def split_by_size() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        p, q, r, s = torch.split(self.a(x), 4, dim=1)
        return self.out(p * q + r * s)

    return net(forward, a=conv(3, 16), out=conv(4, 5))


@case({"a": (4, 1), "a#2": (12, 1), "b": (5, 1)})
def split_by_list() -> nn.Module:
    """Literal sizes: the pieces are free, and the literals follow."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.a(x).split([4, 12], dim=1)
        return self.out(self.b(u) + self.c(v))

    return net(forward, a=conv(3, 16), b=conv(4, 5), c=conv(12, 5), out=conv(5, 5))


@case({"a": (16, 4), "b": (5, 1)})
def split_by_computed_sizes() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        quarter = y.shape[1] // 4
        u, v = torch.split(y, [quarter, y.shape[1] - quarter], dim=1)
        return self.out(self.b(u) + self.c(v))

    return net(forward, a=conv(3, 16), b=conv(4, 5), c=conv(12, 5), out=conv(5, 5))


@case({"a": (16, 2)})
def split_in_halves_by_size() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        u, v = torch.split(y, y.size(1) // 2, 1)
        return self.out(u * v.sigmoid())

    return net(forward, a=conv(3, 16), out=conv(8, 5))


@case({"a": (4, 1), "a#2": (8, 1), "b": (5, 1)})
def slices() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(self.b(y[:, :4]) + self.c(y[:, 4:]))

    return net(forward, a=conv(3, 12), b=conv(4, 5), c=conv(8, 5), out=conv(5, 5))


@case({"a": (3, 1), "a#2": (4, 1), "a#3": (5, 1)})
def overlapping_slices() -> nn.Module:
    """0-7 and 3-12 overlap: the depth is cut in 3 + 4 + 5."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, :7], y[:, 3:]], 1))

    return net(forward, a=conv(3, 12), out=conv(16, 5))


@case({"a": (12, 2)})
def half_by_slice() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        half = y.size(1) // 2
        return self.out(y[:, :half] * y[:, half:].sigmoid())

    return net(forward, a=conv(3, 12), out=conv(6, 5))


@case({"a": (12, 2)})
def every_second_channel() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y[:, ::2] * y[:, 1::2].sigmoid())

    return net(forward, a=conv(3, 12), out=conv(6, 5))


@case({"a": (10, 1), "a#2": (2, 1)})
def slice_from_the_end() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, :-2].relu(), y[:, -2:]], 1))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (3, 1), "b": (4, 1), "b#2": (5, 1)})
def slice_across_a_cat() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        return self.out(torch.cat([y[:, :7], y], 1))

    return net(forward, a=conv(3, 3), b=conv(3, 9), out=conv(19, 5))


@case({}, {"a": "takes one channel by its number"})
def one_channel_by_number() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * y[:, 0].unsqueeze(1))

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({}, {"a": "index tensor"})
def channels_by_index() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x)[:, [3, 1, 2, 0]])

    return net(forward, a=conv(3, 12), out=conv(4, 5))


@case({"a": (12, 1)})
def slices_of_space() -> nn.Module:
    """FactorizedReduce's shift, and the space-to-depth of YOLO's Focus."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        parts = [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]]
        return self.out(torch.cat(parts, 1))

    return net(forward, a=conv(3, 12), out=conv(48, 5))


@case({"a": (12, 1), "b": (8, 1)})
def unbind_of_space() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.a(x).unbind(2)
        return self.out(self.b(torch.stack([first, *rest[:3]], -2)))

    return net(forward, a=conv(3, 12), b=conv(12, 8), out=conv(8, 5))


@case({"a": (12, 1), "b": (4, 1)})
def narrow_and_select_of_space() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.narrow(2, 1, 4) + y.select(3, 0).unsqueeze(3)[:, :, :4]
        return self.out(self.b(y))

    return net(forward, a=conv(3, 12), b=conv(12, 4), out=conv(4, 5))


# --- shuffles --------------------------------------------------------------------------------------------------------


@case({"a": (12, 2), "g": (8, 2)})
def channel_shuffle_by_size() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.size()
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.out(F.relu(self.g(y)))

    return net(forward, a=conv(3, 12), g=conv(12, 8, 3, groups=2), out=conv(8, 5))


@case({"a": (12, 3)})
def channel_shuffle_hard_coded() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.view(-1, 3, 4, 8, 8).transpose(1, 2).reshape(-1, 12, 8, 8)
        return self.out(y)

    return net(forward, a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 3), "b": (12, 3)})
def channel_shuffle_module() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.shuffle(self.a(x))))

    return net(forward, a=conv(3, 12), shuffle=nn.ChannelShuffle(3), b=conv(12, 12, 3, groups=3), out=conv(12, 5))


@case({"a": (6, 2)})
def shuffle_of_a_cat_then_slices() -> nn.Module:
    """After the shuffle the two halves hold channels of both parts: each part stays even, and both equally long."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.out(y)

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(12, 5))


@case({"a": (6, 2), "c": (5, 1)})
def shuffle_of_a_cat_then_chunk() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        u, v = y.chunk(2, 1)
        return self.out(self.c(u) + self.d(v))

    return net(forward, a=conv(3, 6), b=conv(3, 6), c=conv(6, 5), d=conv(6, 5), out=conv(5, 5))


@case({"a": (12, 4), "b": (5, 1)})
def pixel_shuffle() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(self.shuffle(self.a(x)))))

    return net(forward, a=conv(3, 12), shuffle=nn.PixelShuffle(2), b=conv(3, 5), out=conv(5, 5))


@case({"a": (4, 1)})
def pixel_unshuffle() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.pixel_unshuffle(self.a(x), 2))

    return net(forward, a=conv(3, 4), out=conv(16, 5))


@case({"a": (4, 1)})
def unfold() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.unfold(self.a(x), 3, padding=1).transpose(1, 2))

    return net(forward, a=conv(3, 4), out=nn.Linear(36, 5))


@case({"a": (8, 2), "b": (4, 1)})
def maxout() -> nn.Module:
    """Pairs of neighbours compete."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        y = y.view(b, c // 2, 2, h, w).max(dim=2).values
        return self.out(self.b(y))

    return net(forward, a=conv(3, 8), b=conv(4, 4), out=conv(4, 5))


@case({"a": (8, 2)})
def max_feature_map() -> nn.Module:
    """LightCNN: first half against second half."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.split(self.a(x), 4, 1)
        return self.out(torch.max(u, v))

    return net(forward, a=conv(3, 8), out=conv(4, 5))


# --- reshapes --------------------------------------------------------------------------------------------------------


def _flat(flatten: nn.Module | None, view: tuple[int, ...] | None = None) -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = self.flatten(x) if view is None else x.view(*view)
        return self.out(F.relu(self.l(x)))

    return net(forward, a=conv(3, 6), flatten=flatten, l=nn.Linear(96, 7), out=nn.Linear(7, 5))


@case({"a": (6, 1)}, {"l": LINEAR})
def flatten_module() -> nn.Module:
    return _flat(nn.Flatten())


@case({"a": (6, 1)}, {"l": LINEAR})
def flatten_by_view() -> nn.Module:
    return _flat(None, (2, -1))


@case({"a": (6, 1)}, {"l": LINEAR})
def flatten_by_literal() -> nn.Module:
    """``x.view(-1, 96)``: the literal is a channel count and is rewritten."""
    return _flat(None, (-1, 96))


@case({"a": (6, 1)}, {"l": LINEAR})
def flatten_by_size() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(self.l(x.view(x.size(0), x.size(1) * x.size(2) * x.size(3))))

    return net(forward, a=conv(3, 6), l=nn.Linear(384, 7), out=nn.Linear(7, 5))


@case({"a": (6, 1), "b": (4, 1)}, {"l": LINEAR})
def flatten_of_a_cat() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.out(self.l(torch.flatten(x, 1)))

    return net(forward, a=conv(3, 6), b=conv(3, 4), l=nn.Linear(640, 7), out=nn.Linear(7, 5))


@case({"a": (6, 1), "b": (4, 1)})
def cat_of_flattened() -> nn.Module:
    """SSD: maps of several sizes, flattened and joined, into one linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        big = self.a(x).flatten(1)
        small = F.avg_pool2d(self.b(x), 4).flatten(1)
        return self.out(torch.cat([small, big], 1))

    return net(forward, a=conv(3, 6), b=conv(3, 4), out=nn.Linear(400, 5))


@case({"a": (6, 1), "l": (12, 4), "b": (3, 1)}, resize_linear=True)
def linear_to_map() -> nn.Module:
    """A generator: linear -> view -> conv. The linear layer writes whole maps."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.l(self.a(x).mean((2, 3)))
        return self.out(self.b(z.view(z.size(0), -1, 2, 2)))

    return net(forward, a=conv(3, 6), l=nn.Linear(6, 12), b=conv(3, 3), out=conv(3, 5))


@case({"a": (6, 1), "b": (4, 1)})
def permuted() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1).relu().transpose(1, 3).transpose(2, 3).swapaxes(2, 3)
        return self.out(self.b(y.movedim(1, 0).movedim(0, 1)))

    return net(forward, a=conv(3, 6), b=conv(6, 4), out=conv(4, 5))


@case({"a": (6, 1)})
def squeezed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(self.a(x), 1).squeeze(-1).squeeze(-1)
        return self.out(y.unsqueeze(1).unsqueeze(-1).squeeze(1).unsqueeze(2))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, {"eca": "removes the channel dim"}, mixed=["a"])
def efficient_channel_attention() -> nn.Module:
    """ECA: a one-dimensional convolution along the channels, of which it mixes neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        w = self.eca(y.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return self.out(y * w.sigmoid()[:, :, None, None])

    return net(forward, a=conv(3, 6), eca=nn.Conv1d(1, 1, 3, padding=1, bias=False), out=conv(6, 5))


@case({"a": (6, 1)})
def padded_channels() -> nn.Module:
    """ResNet shortcut by F.pad: fixed zeros around the channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.pad(y, (1, 1, 1, 1, 2, 1)))

    return net(forward, a=conv(3, 6), out=conv(9, 5))


@case({"a": (6, 1)}, {"b": "meets channels of a fixed", "b#2": "meets channels of a fixed"})
def padded_shortcut() -> nn.Module:
    """3 + a + 3 meets b: b is cut, its middle follows a, and what meets the zeros stays."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.pad(y, (0, 0, 0, 0, 3, 3)) + self.b(F.relu(y)))

    return net(forward, a=conv(3, 6), b=conv(6, 12), out=conv(12, 5))


@case({"a": (6, 1), "b": (4, 1)})
def expanded() -> nn.Module:
    """ASPP: a pooled branch is expanded over space."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        pooled = self.b(y.mean((2, 3), keepdim=True)).expand(-1, -1, y.size(2), y.size(3))
        return self.out(torch.cat([y, pooled], 1))

    return net(forward, a=conv(3, 6), b=conv(6, 4), out=conv(10, 5))


@case({"a": (6, 1)})
def repeated_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).repeat(1, 2, 1, 1))

    return net(forward, a=conv(3, 6), out=conv(12, 5))


@case({"a": (6, 1)}, {"m": "broadcasts one channel"})
def expand_one_channel() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * self.m(x).expand(-1, y.shape[1], -1, -1))

    return net(forward, a=conv(3, 6), m=conv(3, 1), out=conv(6, 5))


@case({"a": (6, 1), "b": (4, 1)})
def interpolated() -> nn.Module:
    """FPN: top-down sum of maps of two sizes."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.b(F.avg_pool2d(self.a(x), 2))
        top = F.interpolate(top, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(top + self.c(x))

    return net(forward, a=conv(3, 6), b=conv(6, 4), c=conv(3, 4), out=conv(4, 5))


@case({"a": (6, 1)})
def flipped_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).flip(1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def rolled_and_flipped_space() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.roll(self.a(x), (1, 2), dims=(2, 3)).flip(3))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (2, 1), "a#2": (4, 1)})
def narrow_channels() -> nn.Module:
    """A slice in another spelling; a start from the end becomes one from the front."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y.narrow(1, 2, 4), torch.narrow(y, 1, 0, 2).relu(), y.narrow(1, -4, 4)], 1))

    return net(forward, a=conv(3, 6), out=conv(10, 5))


@case({"a": (6, 2)})
def narrow_by_size() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = y.size(1) // 2
        return self.out(torch.cat([y.narrow(1, n, n), y.narrow(dim=1, start=0, length=n).relu()], 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1), "b": (4, 1)})
def flipped_cat() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x).flip(1), self.b(x)], 1)
        return self.out(torch.cat([y.fliplr().relu(), y], 1))

    return net(forward, a=conv(3, 6), b=conv(3, 4), out=conv(20, 5))


@case({"a": (6, 1)}, loses="each channel is joined with the one at the other end, and the pairs move")
def sum_with_the_flipped() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + y.flip(1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def interleaved_copies() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y.repeat_interleave(2, 1) + torch.repeat_interleave(y.relu(), 2, dim=1))

    return net(forward, a=conv(3, 6), out=conv(12, 5))


@case({"a": (6, 2)})
def unflatten_modules() -> nn.Module:
    """Two rows by literal sizes and by an inferred one; the first module keeps its sizes as an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(self.literal(y).transpose(1, 2).flatten(1, 2) + self.inferred(y).transpose(1, 2).flatten(1, 2))

    parts = {"literal": nn.Unflatten(1, (2, 3)), "inferred": nn.Unflatten(1, (2, -1))}
    return net(forward, a=conv(3, 6), **parts, out=conv(6, 5))


@case({"a": (8, 2)})
def gated_linear_units() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([F.glu(y, 1), self.glu(y)], 1))

    return net(forward, a=conv(3, 8), glu=nn.GLU(-3), out=conv(8, 5))


@case({"a": (2, 1), "a#2": (4, 1), "b": (4, 2)})
def split_at_offsets() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        u, v = torch.tensor_split(y, (2,), dim=1)
        p, q = y.hsplit([2])
        r, s = torch.hsplit(self.b(x), 2)
        top, bottom = torch.dsplit(torch.cat([v, u.relu(), q, p, r * s], 1), 2)
        return self.out(top + bottom)

    return net(forward, a=conv(3, 6), b=conv(3, 4), out=conv(14, 5))


@case({"a": (6, 1), "b": (6, 1)})
def squeeze_must_keep_two() -> nn.Module:
    """One channel would lose its dim."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(self.a(x), 1).squeeze()
        return self.out(torch.cat([y, self.b(x).mean((2, 3), keepdim=True).squeeze((1, 2, 3))], 1))

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=nn.Linear(12, 5))


@case({"a": (6, 1)})
def turned_and_shifted_space() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.swapdims(self.a(x), 1, 2).swapdims(2, 1)
        y = torch.rot90(y, 1, (2, 3)) + y.rot90(2, [2, 3])
        y = y.mean((2, 3), keepdim=True).squeeze((2, 3))[:, :, None, None] + y
        return self.out(y.to(memory_format=torch.channels_last).contiguous(memory_format=torch.contiguous_format))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({}, {"a": "turns channels"})
def turned_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.rot90(self.a(x), 1, (1, 2)))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (4, 1)})
def stacked_rows() -> nn.Module:
    """hstack joins channels, vstack samples, and lists may be nested in Python."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        levels = [[y, y.relu()], [F.avg_pool2d(y, 2), F.avg_pool2d(y, 4)]]
        wide = torch.hstack([F.interpolate(t, size=(8, 8)) for level in levels for t in level])
        return self.out(torch.vstack([wide, wide.flip(0)]))

    return net(forward, a=conv(3, 4), out=conv(16, 5))


@case({"a": (8, 1)})
def written_in_places() -> nn.Module:
    """A tensor of zeros is filled piece by piece: the pieces are channels of the result (temporal shift)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = torch.zeros_like(x)
        y[:, :, 1:] = x[:, :, :-1]
        y[..., 0, 0] = 1.0
        return self.out(y)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 4)})
def written_in_channels() -> nn.Module:
    """Temporal shift: a quarter of the channels moves up, a quarter down, the rest stays."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        fold = x.shape[1] // 4
        y = torch.zeros_like(x)
        y[:, :fold, 1:] = x[:, :fold, :-1]
        y[:, fold : 2 * fold, :-1] = x[:, fold : 2 * fold, 1:]
        y[:, 2 * fold :] = x[:, 2 * fold :]
        return self.out(y)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (3, 1), "a#2": (5, 1)})
def written_with_another_tensor() -> nn.Module:
    """The first channels become those of another convolution."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + 0
        y[:, :3] = self.b(x)
        return self.out(y)

    return net(forward, a=conv(3, 8), b=conv(3, 3), out=conv(8, 5))


@case({"a": (8, 1)})
def padded_with_infinity() -> nn.Module:
    """What fills the border is no channel, whatever its value."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.a(x).permute(0, 2, 3, 1), (0, 1), value=1.0)
        x = F.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1), value=float("-inf"))
        return self.out(F.max_pool2d(x, 3, 2))

    return net(forward, a=conv(3, 8), out=conv(9, 5))


@case({"a": (6, 1)}, {"eca": "removes the dim of one channel"}, mixed=["a"])
def efficient_channel_attention_by_views() -> nn.Module:
    """A convolution along the channels, which stand where an image has its width."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = self.eca(y.mean((2, 3)).view(y.shape[0], 1, -1)).sigmoid().view(y.shape[0], -1, 1, 1)
        return self.out(y * gate.expand_as(y))

    return net(forward, a=conv(3, 6), eca=nn.Conv1d(1, 1, 3, padding=1), out=conv(6, 5))
