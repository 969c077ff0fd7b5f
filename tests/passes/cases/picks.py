"""Positions picked by an index, and values put at some."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.passes.cases import case, conv, net, parameter


@case({}, {"a": "picks channels by an index tensor"})
def index_of_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).index_select(1, self.order))

    return net(forward, a=conv(3, 6), order=torch.tensor([2, 1, 0]), out=conv(3, 5))


@case({"a": (6, 1)})
def index_of_rows() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.index_select(y, 2, self.order) + y[:, :, self.order]
        places = y.argsort(dim=3)
        y = torch.take_along_dim(y, places, 3) + torch.gather(y, 3, y.argmax(3, keepdim=True))
        return self.out(y.gather(2, places[:, :, :2] % 3))

    return net(forward, a=conv(3, 6), order=torch.tensor([2, 1, 0]), out=conv(6, 5))


@case({}, {"a": "picks channels by an index tensor"})
def gather_of_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(y.gather(1, y.argsort(1)))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def scattered() -> nn.Module:
    """Values that an index puts or adds somewhere along a dim without channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).flatten(2)
        places = torch.arange(y.shape[2]).flip(0)
        y = torch.zeros_like(y).scatter_add(2, places.expand_as(y), y)
        y = y.scatter(2, places[:3].expand(*y.shape[:2], 3), 0.5)
        y = torch.scatter_reduce(y, 2, places.expand_as(y), self.b(x).flatten(2), "amax")
        y = torch.index_add(y, dim=2, index=places, source=y, alpha=0.5)
        y.index_fill_(2, places[:2], 0.0)
        return self.out(y.unflatten(2, x.shape[2:]))

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 5))


@case({}, {"a": "picks channels by an index tensor"})
def scattered_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).index_copy(1, self.order, x))

    return net(forward, a=conv(3, 6), order=torch.tensor([2, 1, 0]), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def sorted_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        values, _ = y.sort(dim=1)
        highest, _ = torch.cummax(y, 2)
        return self.out(values + highest + y.flatten(2).topk(4, dim=2)[0].mean(-1)[:, :, None, None])

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def largest_channels() -> nn.Module:
    """Three of the channels, whatever their number, which must not be less than three."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).topk(3, dim=1).values)

    return net(forward, a=conv(3, 6), out=conv(3, 5))


@case({"a": (4, 1), "a#2": (2, 1)})
def assigned_slices() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :4] = 0
        y[:, 4:, 1:3] += 1
        y[..., 0] = y[..., 1] * 2
        y[:, :, 2] = y.mean(2)
        return self.out(y)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (8, 2)})
def assigned_halves() -> nn.Module:
    """The second half is written over the first, so that both are equally long; the mask has the dims of all."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) * 1
        n = y.size(1) // 2
        y[:, :n] = y[:, n:].relu()
        y[y > 3] = 3
        return self.out(y)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (8, 1)})
def assigned_pixels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.zeros(y.size(0), y.size(1), 8, 8, dtype=y.dtype)
        z[:, :, ::2, ::2] = y[:, :, ::2, ::2]
        z[:] = z + self.p
        return self.out(z)

    return net(forward, a=conv(3, 8), p=parameter(8, 1, 1), out=conv(8, 5))


@case({"a": (4, 1), "b": (6, 1)})
def assembled_from_parts() -> nn.Module:
    """A concatenation by assignment: the slices of the zeros are as wide as what they take."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(2, 10, 8, 8, dtype=x.dtype)
        y[:, :4] = self.a(x)
        y[:, 4:] = self.b(x)
        return self.out(y)

    return net(forward, a=conv(3, 4), b=conv(3, 6), out=conv(10, 5))


@case({}, {"a": "picks channels by an index tensor"})
def assigned_by_index() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) * 1
        y[:, [0, 2]] = 0
        return self.out(y)

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (6, 1)})
def index_tensors_at_several_dims() -> nn.Module:
    """Dims of index tensors stay where they are side by side, and come first where a slice is between them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)[..., (1, 0, 2, 3)]
        rows, columns = torch.tensor([0, 3, 5, 1, 7, 2]), torch.tensor([1, 0, 3, 3, 2, 0])
        side_by_side = y[:, :, rows[:3, None], columns[3:]]
        one_of_each = y[:, None, :, 0, columns].squeeze(1)
        apart = y.permute(1, 2, 0, 3)[:, rows, :, columns]  # as many as there are channels
        return self.out(
            (side_by_side.sum(3) + one_of_each[:, :, :3]).unsqueeze(3) + apart.permute(2, 1, 0)[..., None].mean(2, True)
        )

    return net(forward, a=conv(3, 6), out=conv(6, 5))
