"""Weights that the graph computes or takes from elsewhere: functional convolutions, parametrizations."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.passes.cases import case, conv, net, parameter


@case({"a": (6, 1), "w": (8, 1)})
def functional_transposed() -> nn.Module:
    """The weight of a transposed convolution is [in, out, *kernel]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv_transpose2d(self.a(x), self.w, self.b, stride=2))

    return net(forward, a=conv(3, 6), w=parameter(6, 8, 2, 2), b=parameter(8), out=conv(8, 5))


@case({"a": (6, 1), "w1": (4, 1)}, shapes=[(2, 3, 6)])
def functional_transposed_in_one_dim() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(F.conv_transpose1d(self.a(x), self.w1, padding=1)))

    return net(forward, a=nn.Conv1d(3, 6, 1), w1=parameter(6, 4, 3), out=nn.Conv1d(4, 5, 1))


@case({"a": (6, 1), "w3": (4, 1)}, shapes=[(2, 3, 4, 4, 4)])
def functional_transposed_in_three_dims() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(F.conv_transpose3d(self.a(x), self.w3, stride=2)))

    return net(forward, a=nn.Conv3d(3, 6, 1), w3=parameter(6, 4, 2, 2, 2), out=nn.Conv3d(4, 5, 1))


@case({"a": (6, 2), "w": (8, 2)})
def functional_grouped() -> nn.Module:
    """All groups share the second axis of the weight: equal places of both come and go together."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv2d(F.relu(self.a(x)), self.w, self.b, groups=2))

    return net(forward, a=conv(3, 6), w=parameter(8, 3, 2, 2), b=parameter(8), out=conv(8, 5))


@case({"a": (6, 2), "w": (8, 2)})
def functional_grouped_transposed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv_transpose2d(F.relu(self.a(x)), self.w, self.b, stride=2, groups=2))

    return net(forward, a=conv(3, 6), w=parameter(6, 4, 2, 2), b=parameter(8), out=conv(8, 5))


@case({"a": (6, 1)})
def functional_depthwise_transposed() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(F.conv_transpose2d(y, self.w, stride=2, groups=y.shape[1]))

    return net(forward, a=conv(3, 6), w=parameter(6, 2, 2, 2), out=conv(12, 5))


@case({"a": (12, 1), "b": (8, 1)})
def weight_norm() -> nn.Module:
    """g and v are parameters of the graph; zeros in v at a new input leave the norm as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))

    return net(
        forward,
        a=parametrizations.weight_norm(conv(3, 12, 3)),
        b=parametrizations.weight_norm(conv(12, 8, 3)),
        out=parametrizations.weight_norm(nn.Linear(8, 5)),
    )


@case({"a": (12, 1), "b": (8, 1)}, mixed=["b"])
def weight_norm_transposed() -> nn.Module:
    """The norm of each input goes over all outputs, so a new output of ``b`` changes it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))

    b = parametrizations.weight_norm(nn.ConvTranspose2d(12, 8, 3))
    return net(forward, a=parametrizations.weight_norm(conv(3, 12, 3)), b=b, out=conv(8, 5))


@case({"a": (12, 1), "b": (8, 1)}, mixed=["a", "b"])
def weight_norm_over_all() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))

    a, b = (parametrizations.weight_norm(layer, dim=None) for layer in (conv(3, 12, 3), conv(12, 8, 3)))
    return net(forward, a=a, b=b, out=conv(8, 5))


@case({"a": (8, 1), "s": (12, 1), "t": (6, 1), "f": (10, 1)}, mixed=["a", "f", "s", "t"], resize_linear=True)
def spectral_norm() -> nn.Module:
    """Its singular vectors are buffers that follow the weight; train mode improves them, as in the model."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.t(F.relu(self.s(F.relu(self.a(x))))))
        return self.out(F.relu(self.f(y.mean((2, 3)))))

    return net(
        forward,
        a=conv(3, 8),
        s=parametrizations.spectral_norm(conv(8, 12, 3), n_power_iterations=2),
        t=parametrizations.spectral_norm(nn.ConvTranspose2d(12, 6, 3)),
        f=parametrizations.spectral_norm(nn.Linear(6, 10)),
        out=parametrizations.spectral_norm(nn.Linear(10, 5)),
    )


@case({"a": (8, 1), "b": (12, 1), "c.0": (6, 1)})
def functional_call() -> nn.Module:
    """Layers that are called with computed weights in the place of their own."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        weights = {name: tensor * 0.5 for name, tensor in self.b.named_parameters()}
        y = torch.func.functional_call(self.b, weights, (y,))
        return self.out(torch.func.functional_call(self.c, {"0.bias": self.c[0].bias * 2.0}, F.relu(y)))

    return net(forward, a=conv(3, 8), b=conv(8, 12, 3), c=nn.Sequential(conv(12, 6), nn.ReLU()), out=conv(6, 5))


@case({}, {"a": "meets channels of a fixed number"})
def orthogonal() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.s(F.relu(self.a(x)))))

    return net(forward, a=conv(3, 8), s=parametrizations.orthogonal(conv(8, 12, 3)), out=conv(12, 5))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


@case({"a": (12, 1), "b": (8, 1), "c": (6, 1)}, mixed=["b"])
def own_parametrizations() -> nn.Module:
    """Both are looked into. Half of zero is zero; softplus of zero is not, so ``c`` cannot ignore a new channel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.c(F.relu(self.b(self.a(x))))))

    b, c = conv(12, 8, 3), conv(8, 6)
    parametrize.register_parametrization(b, "weight", Halved())
    parametrize.register_parametrization(c, "weight", Positive())
    return net(forward, a=conv(3, 12), b=b, c=c, out=conv(6, 5))


@case({}, {"a": "is not in the table"})
def parametrized_norm() -> nn.Module:
    """Only convolutions and linear layers are looked into."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))

    norm = nn.BatchNorm2d(12)
    parametrize.register_parametrization(norm, "weight", Halved())
    return net(forward, a=conv(3, 12), norm=norm, out=conv(12, 5))


class Octave(nn.Conv2d):
    """Octave convolution: slices of one weight work between the high and the low frequencies of a map."""

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert self.bias is not None
        to_high = F.conv2d(high, self.weight[:4, :2], self.bias[:4], padding=1)
        to_high = to_high + F.interpolate(F.conv2d(low, self.weight[:4, 2:], padding=1), scale_factor=2.0)
        to_low = F.conv2d(F.avg_pool2d(high, 2), self.weight[4:, :2], padding=1)
        return to_high, to_low + F.conv2d(low, self.weight[4:, 2:], self.bias[4:], padding=1)


@case({"a": (2, 1), "b": (3, 1), "octave": (4, 1), "octave#2": (6, 1)}, shapes=[(2, 3, 8, 8)])
def octave_convolution() -> nn.Module:
    """Each slice along the output channels is a group of its own."""

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.octave(self.a(x), self.b(F.avg_pool2d(x, 2)))
        return self.out(high) + F.interpolate(self.low(low), scale_factor=2.0)

    octave = Octave(5, 10, 3)
    return net(forward, a=conv(3, 2), b=conv(3, 3), octave=octave, out=conv(4, 5), low=conv(6, 5))


@case({"a": (6, 1), "slim": (4, 1)})
def slimmable_convolution() -> nn.Module:
    """Only the part of a weight that is used writes a group."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(self.a(x), self.slim.weight[:4, :6], self.slim.bias[:4])
        return self.out(y)

    return net(forward, a=conv(3, 6), slim=conv(9, 8), out=conv(4, 5))


def hooked(module: nn.Module) -> nn.Module:
    """A network that has run without gradients: what its hooks computed has none, so that torch can copy it."""
    with torch.no_grad():
        module(torch.randn(2, 3, 4, 4))
    return module


def in_a_row(a: nn.Module, b: nn.Module) -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))  # type: ignore[operator]

    return hooked(net(forward, a=a, b=b, out=conv(8, 5)))


@case({"a": (6, 1), "b": (8, 1)})
def weight_norm_by_a_hook() -> nn.Module:
    """torch.nn.utils.weight_norm computes the weight before each call, and keeps it as an attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm = nn.utils.weight_norm
        return in_a_row(weight_norm(conv(3, 6, 3)), weight_norm(nn.ConvTranspose2d(6, 8, 3), dim=1))


@case({"a": (6, 1), "b": (8, 1)}, mixed=["a", "b"])
def spectral_norm_by_a_hook() -> nn.Module:
    """Its singular vectors are buffers that follow the weight; a call in train mode improves them."""
    return in_a_row(nn.utils.spectral_norm(conv(3, 6, 3)), nn.utils.spectral_norm(conv(6, 8))).eval()


@case({"a": (6, 1), "b": (8, 1)})
def masks_by_a_hook() -> nn.Module:
    """torch.nn.utils.prune multiplies with a mask that is a buffer."""
    a = prune.l1_unstructured(conv(3, 6, 3), "weight", amount=0.3)  # type: ignore[no-untyped-call]
    b = prune.random_structured(conv(6, 8), "weight", amount=2, dim=1)  # type: ignore[no-untyped-call]
    return in_a_row(a, prune.l1_unstructured(b, "bias", amount=1))  # type: ignore[no-untyped-call]


@case({"a": (6, 1), "b": (7, 1)})
def functions_with_one_output() -> nn.Module:
    """What they read is matched though their results hold no channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(F.relu(self.a(x)), self.w)
        return self.out(y + F.linear(F.relu(self.b(x)).mean((2, 3)), self.v)[:, :, None, None])

    return net(forward, a=conv(3, 6), w=parameter(1, 6, 1, 1), b=conv(3, 7), v=parameter(1, 7), out=conv(1, 5))


@case({"a": (6, 1), "w": (8, 1)})
def fourier_layer() -> nn.Module:
    """Complex weights mix the channels of the lowest frequencies, as Fourier neural operators do."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        low = torch.fft.rfft2(x)
        spectrum = torch.zeros(x.shape[0], 8, *low.shape[2:], dtype=low.dtype, device=x.device)
        mixed = torch.einsum("bixy,ioxy->boxy", low[:, :, :3, :2], self.w.to(low.dtype))
        spectrum[:, :, :3, :2] = mixed
        return self.out(F.gelu(torch.fft.irfft2(spectrum, s=x.shape[2:]) + self.b(x)))

    w = nn.Parameter(torch.randn(6, 8, 3, 2, dtype=torch.complex64) / 6)
    return net(forward, a=conv(3, 6), b=conv(6, 8), w=w, out=conv(8, 5))
