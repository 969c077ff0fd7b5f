"""One operator in many spellings: keywords, negative numbers, sizes computed in several ways."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable

from tests.passes.cases import case, conv, net, parameter


@case({"a": (6, 1), "b": (4, 1)})
def numpy_keywords() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.a(x), self.b(x)), axis=1).mean(axis=(2, 3), keepdims=True))

    return net(forward, a=conv(3, 6), b=conv(3, 4), out=conv(10, 5))


@case({"a": (2, 1), "a#2": (4, 1), "b": (8, 4)})
def everything_by_keyword() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(input=self.a(input=x))
        u, v = torch.split(tensor=y, split_size_or_sections=[2, 4], dim=1)
        y = torch.cat(tensors=[v, u], dim=1)
        y = F.pixel_shuffle(self.b(torch.add(input=y, other=y, alpha=2)), upscale_factor=2)
        y = torch.transpose(input=torch.permute(y, dims=(0, 2, 3, 1)), dim0=1, dim1=3)
        y = torch.flatten(input=F.interpolate(input=y, scale_factor=2), start_dim=2)
        return self.out(torch.unsqueeze(input=y, dim=2))

    return net(forward, a=conv(3, 6), b=conv(6, 8), out=conv(2, 5))


@case({"a": (6, 3)})
def split_size_by_keyword() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        u, v, w = self.a(x).split(split_size=2, dim=1)
        return self.out(u + v * w)

    return net(forward, a=conv(3, 6), out=conv(2, 5))


@case({"a": (6, 1)})
def roll_and_flip_by_keyword() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.roll(y, shifts=1, dims=2) + torch.flip(y, [2, 3]) + torch.flip(y, dims=(3,)))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1), "b": (4, 1)})
def negative_dims() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.cat([self.a(x), self.b(x)], dim=-3).split([6, 4], dim=-3)
        return self.out(torch.cat([v, u], -3))

    return net(forward, a=conv(3, 6), b=conv(3, 4), out=conv(10, 5))


@case({f"a{n}": (s, 1) for n, s in zip(["", "#2", "#3", "#4", "#5"], [1, 1, 1, 2, 1], strict=True)})
def slices_in_all_directions() -> nn.Module:
    """Boundaries at 1, 2, 3 and 5 of 6; a bound beyond the end means the end."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, -4:-1], y[:, 1:-1], y[:, :-3], y[:, -100:], y[:, :100]], 1))

    return net(forward, a=conv(3, 6), out=conv(22, 5))


@case({"a": (6, 1)})
def empty_slices() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, 0:0], y, y[:, 6:]], 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 3)})
def slices_with_step_and_offset() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, 2::3], y[:, 0::3], y[:, 1:6:3].relu()], 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (1, 1), "a#2": (1, 1), "a#3": (1, 1)})
def channel_by_channel() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y[:, i : i + 1] * (i + 1) for i in range(y.size(1))], 1))

    return net(forward, a=conv(3, 3), out=conv(3, 5))


@case({"a": (6, 1)})
def flatten_by_numel() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.view(y.size(0), y.numel() // y.size(0)) + y.view(y.size(0), y.shape[1:].numel())
        return self.out(y + self.a(x).view(y.size(0), math.prod(self.a(x).shape[1:])))

    return net(forward, a=conv(3, 6), out=nn.Linear(384, 5))


@case({"a": (6, 3)})
def python_max_of_counts() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = max(y.shape[1] // 3, 1)
        return self.out(torch.cat([y[:, :n].relu(), y[:, n:]], 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 2)})
def divisibility_is_a_rule() -> nn.Module:
    """An assertion on a remainder is kept true."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        assert y.shape[1] % 2 == 0
        return self.out(y)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({}, {"a": "computes with a channel count", "a#2": "computes with a channel count"})
def rounded_share() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n = int(y.shape[1] * 0.5)
        return self.out(torch.cat([y[:, :n].relu(), y[:, n:]], 1))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def factor_from_the_count() -> nn.Module:
    """1 / sqrt(channels) follows a resize, which changes the function."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y * y.shape[1] ** -0.5 / math.sqrt(y.shape[1]))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (4, 1), "b": (5, 1)})
def difference_of_counts() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.cat([self.b(x), y], 1)
        n = z.shape[1] - y.shape[1]
        return self.out(torch.cat([z[:, n:], z[:, :n]], 1))

    return net(forward, a=conv(3, 4), b=conv(3, 5), out=conv(9, 5))


@case({}, {"a": "computes with a channel count", "b": "computes with a channel count"})
def zeros_to_match() -> nn.Module:
    """Zeros for the difference of two independent counts."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        zeros = torch.zeros(y.size(0), z.size(1) - y.size(1), 8, 8, dtype=y.dtype)
        return self.out(z + torch.cat([y, zeros], 1))

    return net(forward, a=conv(3, 4), b=conv(4, 7), out=conv(7, 5))


@case({"a": (6, 1)})
def zeros_of_computed_sizes() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + torch.zeros(y.size(0), y.size(1), 1, 1, dtype=y.dtype)
        drop = torch.zeros((y.shape[0],) + (1,) * (y.ndim - 1), dtype=y.dtype, device=y.device)
        return self.out(y + drop + torch.zeros(*y.shape, dtype=y.dtype))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def shapes_of_another_tensor() -> nn.Module:
    """view, expand and view_as with the whole shape of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.flatten(1).view(y.shape) + y.flatten(2).view_as(y) + y.view(2, 6, -1).softmax(2).reshape_as(y)
        return self.out(z + y.mean((2, 3), True).expand(y.shape) + y.mean((2, 3), True).expand(size=y.shape))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def layer_norm_over_a_shape() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = F.layer_norm(F.layer_norm(y, y.shape[1:]), y.size()[1:]).permute(0, 2, 3, 1)
        return self.out(F.layer_norm(y, [y.size(-1)]).permute(0, 3, 1, 2))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 2)}, mixed=["a"])
def functional_norms() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = F.instance_norm(F.group_norm(self.a(x), 2, self.w, self.b))
        y = F.batch_norm(y, self.mean, self.var, self.w, self.b, False)
        return self.out(F.prelu(y, self.w))

    module = net(forward, a=conv(3, 6), w=parameter(6), b=parameter(6), out=conv(6, 5))
    module.register_buffer("mean", torch.rand(6))
    module.register_buffer("var", torch.rand(6) + 1)
    return module


@case({"a": (6, 1)}, mixed=["a"])
def reductions() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y - y.mean() - y.sum(1, True) - torch.var(y, 1, unbiased=False, keepdim=True) - y.max()
        z = z - y.std(dim=1, unbiased=False, keepdim=True) - y.norm(2, 1, True) - y.norm(dim=1, keepdim=True)
        return self.out(z - torch.logsumexp(y, (2, 3), True) - torch.max(y, dim=1, keepdim=True)[0])

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def pool_with_indices() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.pool(self.a(x))
        return self.out(y)

    return net(forward, a=conv(3, 6), pool=nn.MaxPool2d(2, return_indices=True), out=conv(6, 5))


@case({"a": (6, 2)})
def unflattened() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).unflatten(1, (2, -1)).flatten(1, 2)
        return self.out(y.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (8, 2)})
def interleaved() -> nn.Module:
    """Halves with different activations, interleaved: the two kinds of channels must not be confused."""

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.a(x).chunk(2, 1)
        return self.out(torch.stack([u.relu(), v], 2).flatten(1, 2))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (6, 3)})
def stack_of_a_chunk() -> nn.Module:
    """The list of pieces is one value of the graph."""

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.a(x).chunk(3, 1)
        return self.out(torch.stack(pieces, 0).sum(0) + torch.cat(pieces, 1)[:, :2])

    return net(forward, a=conv(3, 6), out=conv(2, 5))


@case({"a": (4, 1)})
def folded() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        patches = F.relu(F.unfold(self.a(x), 3, padding=1))
        return self.out(F.fold(patches, (8, 8), 3, padding=1))

    return net(forward, a=conv(3, 4), out=conv(4, 5))


@case({"a": (2, 1)})
def flat_channels_last() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y.flatten(1), y.permute(0, 2, 3, 1).flatten(1)], 1))

    return net(forward, a=conv(3, 2), out=nn.Linear(256, 5))


@case({"a": (8, 4)})
def depth_to_space_by_view() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        y = y.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, h * 2, w * 2)
        return self.out(y)

    return net(forward, a=conv(3, 8), out=conv(2, 5))


@case({"a": (6, 1)})
def space_to_depth_by_view() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        y = y.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).contiguous().view(b, 4 * c, h // 2, w // 2)
        return self.out(y)

    return net(forward, a=conv(3, 6), out=conv(24, 5))


@case({}, {"a": "meets channels of a fixed number"})
def channels_meet_rows() -> nn.Module:
    """8 channels and 8 rows are equal by chance only."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + y.transpose(1, 2))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 1)})
def rows_as_many_as_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y + y.transpose(2, 3) + self.columns)

    return net(forward, a=conv(3, 8), columns=parameter(8), out=conv(8, 5))


@case({}, {"a": "tensor_split"})
def unequal_pieces() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        u, v, w = torch.tensor_split(self.a(x), 3, dim=1)
        return self.out(torch.cat([w, v, u], 1))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (6, 1)})
def types_and_devices() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if isinstance(x, Tensor) and y.ndim == 4 and y.dtype.is_floating_point and not y.is_cuda:
            y = y + torch.zeros(1, device=y.device, dtype=y.dtype)
        return self.out(y.to(x.device).type_as(x).contiguous(memory_format=torch.channels_last))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1), "b": (4, 1)})
def weight_of_another_layer() -> nn.Module:
    """A convolution's weight used as an argument too: one tensor, one shape."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.conv2d(y, self.b.weight, padding=1) + self.b(y.flip(3)))

    return net(forward, a=conv(3, 6), b=conv(6, 4, 3), out=conv(4, 5))


@case({"a": (6, 1)})
def list_of_parameters() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        for scale in self.scales:
            y = y * scale
        return self.out(y)

    return net(
        forward, a=conv(3, 6), scales=nn.ParameterList([parameter(6, 1, 1), parameter(1, 6, 1, 1)]), out=conv(6, 5)
    )


@case({"a": (6, 1)})
def variables() -> nn.Module:
    """Code of the time when tensors were wrapped into variables, which cuts them off from the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        y = Variable(self.a(Variable(data=x)))
        ones = Variable(torch.ones_like(y), requires_grad=True)
        y = Variable(data=y, requires_grad=True) * Variable(ones, requires_grad=True)
        return self.out(self.b(y) + Variable(y, True))

    return net(forward, a=conv(3, 6), b=conv(6, 6), out=conv(6, 5))
