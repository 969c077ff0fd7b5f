"""Values read at places that are computed, transforms over space, windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import deform_conv2d, roi_align

from tests.passes.cases import LINEAR, case, conv, net, parameter


@case({"a": (6, 1), "b": (4, 1)}, {"offset": "says where a kernel reads", "mask": "says where a kernel reads"})
def deformable() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(F.relu(self.b(x, self.offset(x), self.mask(x).sigmoid())))

    b = torchvision.ops.DeformConv2d(6, 4, 3, padding=1)
    return net(forward, a=conv(3, 6), offset=conv(6, 18, 3), mask=conv(6, 9, 3), b=b, out=conv(4, 5))


@case({"a": (6, 1), "w": (4, 1)}, {"offset": "says where a kernel reads"})
def functional_deformable() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(F.relu(deform_conv2d(x, self.offset(x), self.w, padding=(1, 1))))

    return net(forward, a=conv(3, 6), offset=conv(6, 18, 3), w=parameter(4, 6, 3, 3), out=conv(4, 5))


@case({"a": (6, 1)})
def regions() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        boxes = self.boxes.to(x.dtype)
        return self.out(self.align(y, boxes) + roi_align(y, boxes, (2, 2)) + torchvision.ops.roi_pool(y, boxes, 2))

    boxes = torch.tensor([[0, 0, 0, 4, 4], [1, 1, 1, 6, 6], [1, 2, 2, 7, 7]])
    return net(forward, a=conv(3, 6), boxes=boxes, align=torchvision.ops.RoIAlign(2, 1.0, 2), out=conv(6, 5))


@case({"a": (6, 1)}, {"t": "gives places to sample"})
def spatial_transformer() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        theta = self.t(y.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, y.size(), align_corners=False)
        return self.out(F.grid_sample(y, grid, align_corners=False))

    return net(forward, a=conv(3, 6), t=nn.Linear(6, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def unpooled() -> nn.Module:
    """SegNet: the places of the maxima are kept for the way up, and ``b`` is unpooled by those of ``a``."""

    def forward(self, x: Tensor) -> Tensor:
        y, places = self.pool(self.a(x))
        y = self.unpool(self.b(F.relu(y)), places)
        z, again = F.max_pool2d(y, 2, return_indices=True)
        return self.out(F.max_unpool2d(z, again, 2))

    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    return net(forward, a=conv(3, 6), b=conv(6, 6), pool=pool, unpool=unpool, out=conv(6, 5))


@case({"a": (6, 1)}, loses="")
def spectrogram() -> nn.Module:
    """Each channel is a signal of its own: its short-time spectrum is damped, and turned back."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.stft(y.reshape(-1, 64), 16, window=self.window, return_complex=True)
        loud = z.abs().sum((1, 2)).view(2, -1, 1, 1)
        return self.out(torch.istft(z * 0.5, 16, window=self.window).view_as(y) * loud)

    model = net(forward, a=conv(3, 6), out=conv(6, 5))
    model.register_buffer("window", torch.hann_window(16))
    return model


@case({"a": (6, 1)})
def fourier() -> nn.Module:
    """GFNet: a learned filter in the frequencies of space."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.fft.rfft2(y, norm="ortho")
        z = torch.view_as_complex(torch.view_as_real(z) * self.filter)
        z = torch.fft.irfft2(z, s=(8, 8), norm="ortho")
        rows = torch.fft.fftshift(torch.fft.fft(y), dim=(2, 3)).real + torch.complex(y, y).imag
        return self.out(z + torch.fft.fftn(y, dim=(-1, -2)).abs() + rows)

    return net(forward, a=conv(3, 6), filter=parameter(6, 8, 5, 1), out=conv(6, 5))


@case({}, {"a": "works along a dim that holds channels"})
def fourier_over_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.fft.fft(self.a(x), dim=1).real)

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def windows() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        patches = y.unfold(2, 4, 2).unfold(3, 4, 4)
        return self.out(patches.mean((-1, -2)) + torch.diff(y, dim=2).mean((2, 3), keepdim=True))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({}, {"a": "takes windows of channels"})
def windows_of_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).unfold(1, 3, 3).mean(-1))

    return net(forward, a=conv(3, 6), out=conv(2, 5))


@case({"a": (6, 1)})
def lower_triangle() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.tril(y) + y.triu(1).flip(3))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, {"eca": "broadcasts one channel"}, mixed=["a"])
def attention_along_channels() -> nn.Module:
    """ECA in its usual spelling, with "same" padding."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        w = self.eca(F.adaptive_avg_pool2d(y, 1).squeeze(-1).transpose(-1, -2))
        return self.out(y * w.transpose(-1, -2).unsqueeze(-1).sigmoid())

    eca = nn.Conv1d(1, 1, 5, padding="same", bias=False)
    return net(forward, a=conv(3, 6), eca=eca, out=conv(6, 5))


@case({"c": (1, 1)}, {"a": "convolves along a dim that holds channels", "l": LINEAR})
def strided_along_channels() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.a(x).mean((2, 3)).unsqueeze(1)).flatten(1)
        return self.out(self.l(y))

    c = nn.Conv1d(1, 1, 3, stride=2, padding=1)
    return net(forward, a=conv(3, 6), c=c, l=nn.Linear(3, 4), out=nn.Linear(4, 5))
