"""Layers with weights: convolutions of all kinds, linear layers, norms, parameters used directly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, OUTPUT, case, conv, net, parameter


@case({"a": (12, 1)})
def dense() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.a(x))))

    return net(forward, a=conv(3, 12, 3), norm=nn.BatchNorm2d(12), out=conv(12, 5))


@case({"a": (12, 4), "g": (24, 4)})
def grouped() -> nn.Module:
    """In and out stay multiples of the groups."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.g(F.relu(self.a(x)))))

    return net(forward, a=conv(3, 12, 3), g=conv(12, 24, 3, groups=4), out=conv(24, 5))


@case({"a": (12, 4), "g": (24, 4)})
def grouped_transposed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.g(F.relu(self.a(x)))))

    return net(forward, a=conv(3, 12, 3), g=nn.ConvTranspose2d(12, 24, 2, 2, groups=4), out=conv(24, 5))


@case({"a": (12, 1)})
def depthwise() -> nn.Module:
    """A depthwise convolution keeps the depth: no group of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.d(F.relu(self.a(x)))))

    return net(forward, a=conv(3, 12, 3), d=conv(12, 12, 3, groups=12), out=conv(12, 5))


@case({"a": (12, 1)})
def depthwise_multiplier() -> nn.Module:
    """Each channel occurs three times in a row."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.d(F.relu(self.a(x))))))

    return net(forward, a=conv(3, 12, 3), d=conv(12, 36, 3, groups=12), norm=nn.BatchNorm2d(36), out=conv(36, 5))


@case({"a": (12, 1)})
def depthwise_transposed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.d(F.relu(self.a(x))))

    d = nn.ConvTranspose2d(12, 24, 2, 2, groups=12)
    return net(forward, a=conv(3, 12, 3), d=d, out=conv(24, 5))


@case({"d": (12, 3)})
def depthwise_on_the_image() -> nn.Module:
    """The image has three channels for good, so the output of its depthwise layer is free."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.d(x)))

    return net(forward, d=conv(3, 12, 3, groups=3), out=conv(12, 5))


@case({"a": (6, 1), "b": (10, 1)})
def depthwise_on_a_cat() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.d(torch.cat([self.a(x), self.b(x)], 1)))

    return net(forward, a=conv(3, 6), b=conv(3, 10), d=conv(16, 32, 3, groups=16), out=conv(32, 5))


@case({"a": (6, 2), "b": (10, 2), "g": (8, 2)}, loses="channels of b come to stand in the other block of g")
def grouped_on_a_cat() -> nn.Module:
    """Each part of the concatenation stays even, so that the sum does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.g(torch.cat([self.a(x), self.b(x)], 1)))

    return net(forward, a=conv(3, 6), b=conv(3, 10), g=conv(16, 8, 3, groups=2), out=conv(8, 5))


@case({"a": (1, 1), "b": (6, 1)})
def one_channel() -> nn.Module:
    """A convolution with one output channel is no depthwise convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(self.a(x))))

    return net(forward, a=conv(3, 1, 3), b=conv(1, 6, 3), out=conv(6, 5))


@case({"a": (12, 1), "up": (8, 1)})
def transposed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.up(F.relu(self.a(x)))))

    up = nn.ConvTranspose2d(12, 8, 3, 2, padding=1, output_padding=1)
    return net(forward, a=conv(3, 12, 3), up=up, norm=nn.BatchNorm2d(8), out=conv(8, 5))


@case({"a": (12, 4), "g": (8, 4)}, shapes=[(2, 3, 16)])
def one_dimensional() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(self.g(F.relu(self.norm(self.a(x)))), 2)
        return self.out(x.view(x.size(0), -1))

    a, g = nn.Conv1d(3, 12, 3, padding=1), nn.Conv1d(12, 8, 3, padding=1, groups=4)
    return net(forward, a=a, norm=nn.BatchNorm1d(12), g=g, out=nn.Linear(64, 5))


@case({"a": (6, 1), "b": (8, 1), "up": (4, 1)}, shapes=[(2, 3, 4, 8, 8)])
def three_dimensional() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm(self.a(x))), 2)
        return self.out(self.up(self.b(x)).mean((2, 3, 4)))

    a, b = nn.Conv3d(3, 6, 3, padding=1), nn.Conv3d(6, 8, (1, 3, 3), padding=(0, 1, 1))
    return net(forward, a=a, norm=nn.BatchNorm3d(6), b=b, up=nn.ConvTranspose3d(8, 4, 2, 2), out=nn.Linear(4, 5))


@case({"a": (6, 1), "b": (8, 1)}, shapes=[(3, 8, 8)])
def unbatched() -> nn.Module:
    """One image without a batch dim: the channel axis is dim 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.b(F.relu(self.a(x)))))

    return net(forward, a=conv(3, 6, 3), b=conv(6, 8, 3), norm=nn.InstanceNorm2d(8, affine=True), out=conv(8, 5))


@case({"a": (12, 1)})
def shared_module() -> nn.Module:
    """A layer that is called on its own output has one depth on both sides."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for _ in range(3):
            x = F.relu(self.norm(self.r(x)))
        return self.out(x)

    return net(forward, a=conv(3, 12), r=conv(12, 12, 3), norm=nn.BatchNorm2d(12), out=conv(12, 5))


@case({"a": (6, 1), "b": (4, 1), "head": (8, 1)})
def shared_head() -> nn.Module:
    """One head on two scales: what it reads is tied, part by part."""

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.a(x), self.b(x)], 1)
        small = F.avg_pool2d(torch.cat([self.c(x), self.d(x)], 1), 2)
        return self.out(self.head(both)).mean((2, 3)) + self.out(self.head(small)).mean((2, 3))

    parts = {"a": conv(3, 6), "b": conv(3, 4), "c": conv(3, 6), "d": conv(3, 4)}
    return net(forward, **parts, head=conv(10, 8, 3), out=conv(8, 5))


@case({"a": (8, 1)})
def one_module_two_names() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.c(F.relu(self.b(self.a(x)))) + self.a(x))

    b = conv(8, 8, 3)
    return net(forward, a=conv(3, 8), b=b, c=b, out=conv(8, 5))


@case({"a": (8, 1)})
def tied_weights() -> nn.Module:
    """Two layers with one weight tensor have one shape: here what ``a`` writes and ``b`` writes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(x), self.b(-x)], 1))

    a, b = conv(3, 8, 3), conv(3, 8, 3)
    b.weight = a.weight
    return net(forward, a=a, b=b, out=conv(16, 5))


@case({"a": (8, 1), "enc": (6, 1)}, out="dec")
def tied_autoencoder() -> nn.Module:
    """The decoder uses the weight of the encoder, transposed: it reads what that writes, and writes what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.enc(F.relu(self.a(x))))
        code = F.conv_transpose2d(code, self.enc.weight, padding=1)
        return self.dec(code)

    return net(forward, a=conv(3, 8), enc=conv(8, 6, 3), dec=conv(8, 3))


@case({"a": (12, 1)}, {"l": LINEAR})
def linear_head() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.l(F.relu(self.a(x)).mean((2, 3)))))

    return net(forward, a=conv(3, 12), l=nn.Linear(12, 7), out=nn.Linear(7, 5))


@case({"a": (12, 1), "l": (7, 1)}, resize_linear=True)
def linear_head_free() -> nn.Module:
    return linear_head()


@case({"a": (12, 1)}, {"l": OUTPUT}, shapes=[(2, 3, 6, 6)])
def linear_on_the_image() -> nn.Module:
    """What it writes is a dim of the image, which convolutions of one pixel keep up to the output."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(self.l(x)))

    return net(forward, l=nn.Linear(6, 7), a=conv(3, 12), out=conv(12, 5))


@case({"a": (12, 1)})
def prelu() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(self.many(self.a(x))))

    return net(forward, a=conv(3, 12), many=nn.PReLU(12), one=nn.PReLU(), out=conv(12, 5))


@case({"a": (12, 4)}, mixed=["a"])
def group_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    return net(forward, a=conv(3, 12), norm=nn.GroupNorm(4, 12), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def layer_norm_as_group_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    return net(forward, a=conv(3, 12), norm=nn.GroupNorm(1, 12), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def layer_norm_chw() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    return net(forward, a=conv(3, 12), norm=nn.LayerNorm([12, 8, 8]), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def layer_norm_2d() -> nn.Module:
    """ConvNeXt's norm: channels last, and back."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(self.a(x).permute(0, 2, 3, 1), (12,), self.weight, self.bias, 1e-6)
        return self.out(x.permute(0, 3, 1, 2))

    return net(forward, a=conv(3, 12), weight=parameter(12), bias=parameter(12), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def rms_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x).movedim(1, -1)).movedim(-1, 1))

    return net(forward, a=conv(3, 12), norm=nn.RMSNorm(12), out=conv(12, 5))


@case({"a": (12, 1)})
def instance_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    norm = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
    return net(forward, a=conv(3, 12), norm=norm, out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def local_response_norm() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(F.relu(self.a(x))))

    return net(forward, a=conv(3, 12), norm=nn.LocalResponseNorm(3), out=conv(12, 5))


@case({"a": (12, 1), "b": (8, 1)})
def layer_scale() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x) * self.gamma) * self.beta[None, :, None, None])

    return net(forward, a=conv(3, 12), gamma=parameter(12, 1, 1), b=conv(12, 8), beta=parameter(8), out=conv(8, 5))


@case({"a": (12, 1)})
def frozen_statistics() -> nn.Module:
    """FrozenBatchNorm2d: buffers used directly."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.randn(12))
            self.register_buffer("var", torch.rand(12) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            scale = (self.var + 1e-5).rsqrt().reshape(1, -1, 1, 1)
            return x * scale - self.mean.reshape(1, -1, 1, 1) * scale

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.a(x))))

    return net(forward, a=conv(3, 12), norm=Frozen(), out=conv(12, 5))


@case({"a": (12, 1)}, mixed=["a"])
def global_response_norm() -> nn.Module:
    """ConvNeXt V2."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).permute(0, 2, 3, 1)
        norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        norm = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        x = self.gamma * (x * norm) + self.beta + x
        return self.out(x.permute(0, 3, 1, 2))

    gamma, beta = parameter(1, 1, 1, 12), parameter(1, 1, 1, 12)
    return net(forward, a=conv(3, 12), gamma=gamma, beta=beta, out=conv(12, 5))


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: mean and deviation over all inputs of each output channel."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@case({"a": (12, 1), "b": (8, 1)}, mixed=["a", "b"])
def weight_standardisation() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))

    return net(
        forward,
        a=StandardisedConv(3, 12, 3, padding=1),
        b=StandardisedConv(12, 8, 3, padding=1),
        out=StandardisedConv(8, 5, 1),
    )


@case({"a": (12, 1), "b": (8, 1)}, out="out")
def scaled_weight() -> nn.Module:
    """A functional convolution whose weight is a scaled parameter (equalised learning rate)."""

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * 0.5, self.bias, padding=self.padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))

    return net(forward, a=Scaled(3, 12, 3, padding=1), b=Scaled(12, 8, 3, padding=1), out=Scaled(8, 5, 1))


@case({"a": (12, 1)})
def functional_depthwise() -> nn.Module:
    """A fixed blur for each channel (anti-aliased pooling)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = F.conv2d(x, self.blur.repeat(x.shape[1], 1, 1, 1), padding=1, groups=x.shape[1])
        return self.out(x)

    module = net(forward, a=conv(3, 12), out=conv(12, 5))
    module.register_buffer("blur", torch.ones(1, 1, 3, 3) / 9)
    return module


@case({"a": (12, 1)})
def functional_depthwise_buffer() -> nn.Module:
    """BlurPool of timm and antialiased-cnns: one copy of the filter for each channel, in a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(F.conv2d(x, self.blur, stride=2, padding=1, groups=12))

    module = net(forward, a=conv(3, 12), out=conv(12, 5))
    module.register_buffer("blur", torch.ones(12, 1, 3, 3) / 9)
    return module


@case({"a": (12, 1)})
def fixed_point_weights() -> nn.Module:
    """A subclass with another ``__init__`` is still a convolution."""

    class Conv3x3(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x))

    return net(forward, a=Conv3x3(3, 12), out=Conv3x3(12, 5))


@case({"a": (6, 2)}, mixed=["a"])
def norms_without_parameters() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.group(self.plain(self.batchwise(self.a(x))))
        y = self.layer(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(F.instance_norm(self.instance(y)))

    return net(
        forward,
        a=conv(3, 6),
        batchwise=nn.BatchNorm2d(6, track_running_stats=False),
        plain=nn.BatchNorm2d(6, affine=False),
        group=nn.GroupNorm(2, 6, affine=False),
        layer=nn.LayerNorm(6, elementwise_affine=False),
        instance=nn.InstanceNorm2d(6),
        out=conv(6, 5),
    )


class LayerNorm2d(nn.Module):
    """Written by hand, as in ConvNeXt: mean and variance over dim 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = parameter(channels), parameter(channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@case({"a": (6, 1)}, mixed=["a"])
def layer_norm_by_hand() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    return net(forward, a=conv(3, 6), norm=LayerNorm2d(6), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def root_mean_square_by_hand() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y * torch.rsqrt(y.pow(2).mean(dim=1, keepdim=True) + 1e-6) * self.weight.view(1, -1, 1, 1)
        return self.out(F.rms_norm(y.movedim(1, -1), (6,), self.weight).movedim(-1, 1))

    return net(forward, a=conv(3, 6), weight=parameter(6), out=conv(6, 5))


@case({"a": (6, 2)})
def bare_parameters() -> nn.Module:
    """Parameters in arithmetic with one another before they meet the channels."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.u.exp() * self.v.view(6, 1, 1)
        shift = torch.cat([self.w, -self.w.tanh()]).reshape(6, 1, 1)
        return self.out(self.a(x) * scale.abs() + shift.expand(6, 8, 8))

    return net(forward, a=conv(3, 6), u=parameter(6, 1, 1), v=parameter(6), w=parameter(3), out=conv(6, 5))


class Standardised(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1, as normaliser-free networks have them."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@case({"a": (8, 1), "b": (12, 3), "c": (6, 3)}, mixed=["a", "b"])
def standardised_kernels() -> nn.Module:
    """The variance is taken over what a kernel reads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.c(self.b(self.a(x)).relu()))

    return net(forward, a=conv(3, 8), b=Standardised(8, 12, 3), c=Standardised(12, 6, 1, groups=3), out=conv(6, 5))


@case({"a": (6, 1), "b": (7, 1)}, mixed=["a"])
def weights_of_bounded_norm() -> nn.Module:
    """EEGNet: each filter is scaled down to a largest norm."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.renorm(self.b.weight, p=2, dim=0, maxnorm=0.5)
        return self.out(F.conv2d(self.a(x), weight, self.b.bias))

    return net(forward, a=conv(3, 6), b=conv(6, 7), out=conv(7, 5))
