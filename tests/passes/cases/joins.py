"""Where values meet: sums, concatenations, broadcasts, stacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, OUTPUT, case, conv, net, parameter


@case({"a": (8, 1), "b": (8, 1)})
def residual() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(x + self.c(F.relu(self.b(x))))

    return net(forward, a=conv(3, 8), b=conv(8, 8, 3), c=conv(8, 8, 3), out=conv(8, 5))


@case({"a": (8, 1), "b": (6, 1)})
def in_place() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu_()
        x += self.c(F.relu(self.b(x), inplace=True))
        x = x.mul_(2).add_(1)
        return self.out(x)

    return net(forward, a=conv(3, 8), b=conv(8, 6, 3), c=conv(6, 8, 3), out=conv(8, 5))


@case({"a": (12, 1), "b": (4, 1)})
def cat() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(torch.cat([self.a(x), self.b(x)], dim=1)))

    return net(forward, a=conv(3, 12), b=conv(3, 4), norm=nn.BatchNorm2d(16), out=conv(16, 5))


@case({"a": (12, 1)})
def cat_with_itself() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y, F.relu(y), y], 1))

    return net(forward, a=conv(3, 12), out=conv(36, 5))


@case({"a": (12, 1)})
def cat_with_the_image() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.a(x), x], 1))

    return net(forward, a=conv(3, 12), out=conv(18, 5))


@case({"a": (6, 1), "b": (10, 1)})
def cat_of_cats() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        return self.out(torch.cat([y, x, F.relu(y)], 1))

    return net(forward, a=conv(3, 6), b=conv(3, 10), out=conv(35, 5))


@case({"a": (12, 1), "b": (4, 1)})
def cat_plus_conv() -> nn.Module:
    """The depth of ``c`` becomes the sum of the parts (paper, Algorithm 1, line 8)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    return net(forward, a=conv(3, 12), b=conv(3, 4), c=conv(3, 16), out=conv(16, 5))


@case({"c": (12, 1), "c#2": (4, 1)})
def conv_before_cat() -> nn.Module:
    """The same, with the convolution first: it writes both groups and is the first writer of each."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        z = self.d(F.relu(y))
        return self.out(y + torch.cat([self.a(x), self.b(x)], 1) + z)

    return net(forward, c=conv(3, 16), d=conv(16, 16, 3), a=conv(3, 12), b=conv(3, 4), out=conv(16, 5))


@case({"a": (12, 3)}, tie_concat=True)
def cat_in_proportion() -> nn.Module:
    """tie_concat: 12 and 4 stay 3 to 1 where they meet one convolution of 16."""
    return cat_plus_conv()


@case({"a": (12, 1), "b": (4, 1)}, tie_concat=True)
def cat_that_meets_nothing() -> nn.Module:
    """tie_concat: what only layers read stays independent."""
    return cat()


@case({"a": (4, 1), "a#2": (4, 1), "b": (4, 1)})
def cats_with_other_boundaries() -> nn.Module:
    """8 + 4 meets 4 + 8: both longer parts are cut, so that 4 + 4 + 4 are left."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(x), self.b(x)], 1) + torch.cat([self.c(x), self.d(x)], 1))

    return net(forward, a=conv(3, 8), b=conv(3, 4), c=conv(3, 4), d=conv(3, 8), out=conv(12, 5))


@case({"a": (5, 1)})
def cat_over_the_batch() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 0)
        return self.out(y)

    return net(forward, a=conv(3, 5), b=conv(3, 5), out=conv(5, 5))


@case({"a": (6, 1), "b": (10, 1)})
def cat_over_space() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), F.relu(self.a(x))], 2)
        return self.out(self.b(y))

    return net(forward, a=conv(3, 6), b=conv(6, 10), out=conv(10, 5))


@case({"a": (12, 1)}, {"m": "broadcasts one channel"})
def one_channel_map() -> nn.Module:
    """A map of one channel broadcasts: it ties nothing, and must keep its one channel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) * torch.sigmoid(self.m(x)))

    return net(forward, a=conv(3, 12), m=conv(3, 1), out=conv(12, 5))


@case({"a": (12, 1)}, {"f1": LINEAR})
def squeeze_excite_linear() -> nn.Module:
    """The last linear layer follows the convolution that it scales; the hidden one is a linear layer like others."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        scale = torch.sigmoid(self.f2(F.relu(self.f1(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        return self.out(x * scale.view(x.size(0), x.size(1), 1, 1))

    return net(forward, a=conv(3, 12), f1=nn.Linear(12, 4), f2=nn.Linear(4, 12), out=conv(12, 5))


@case({"a": (12, 1), "f1": (4, 1)})
def squeeze_excite_conv() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        scale = torch.sigmoid(self.f2(F.relu(self.f1(x.mean((2, 3), keepdim=True)))))
        return self.out(x * scale.expand_as(x))

    return net(forward, a=conv(3, 12), f1=conv(12, 4), f2=conv(4, 12), out=conv(12, 5))


@case({"a": (8, 1), "s": (3, 1)})
def stacked_branches() -> nn.Module:
    """SKNet: branches are stacked, weighted by a softmax over the branches, and added."""

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.a(x), self.b(x)], dim=1)
        pooled = branches.sum(1).mean((2, 3), keepdim=True)
        weights = self.w(F.relu(self.s(pooled))).view(x.size(0), 2, -1, 1, 1).softmax(1)
        return self.out((branches * weights).sum(1))

    return net(forward, a=conv(3, 8), b=conv(3, 8), s=conv(8, 3), w=conv(3, 16), out=conv(8, 5))


@case({"a": (8, 1)})
def stacked_with_a_created_tensor() -> nn.Module:
    """The lengths of the created tensor hold depths until they meet the fixed ones of the batch and the image."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.stack([y, y + y.new_zeros(y.shape)], dim=1).sum(1))

    return net(forward, a=conv(3, 8), out=conv(8, 5))


@case({"a": (6, 1), "b": (6, 1)}, shapes=[(2, 3, 8, 8), (2, 3, 8, 8)])
def siamese() -> nn.Module:
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        u, v = self.b(F.relu(self.a(left))), self.b(F.relu(self.a(right)))
        return self.out(torch.cat([u, v, (u - v).abs()], 1))

    return net(forward, a=conv(3, 6), b=conv(6, 6, 3), out=conv(18, 5))


@case({"a": (6, 1)}, out="mask box")
def two_outputs() -> nn.Module:
    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        y = self.a(x)
        return {"mask": self.mask(y), "boxes": [self.box(y), y.shape[2]]}

    return net(forward, a=conv(3, 6), mask=conv(6, 2), box=conv(6, 4))


@case({"a": (6, 1)}, {"b": OUTPUT})
def features_as_output() -> nn.Module:
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(F.relu(self.a(x)))
        return y, self.out(F.relu(y))

    return net(forward, a=conv(3, 6), b=conv(6, 4), out=conv(4, 5))


@case({"a": (6, 1)})
def elementwise_functions() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.where(y > 0, y, y.exp() - 1)
        y = torch.maximum(y, torch.clamp(-y, min=0.1)) * (y != 0).float()
        y = torch.lerp(y, y.tanh(), 0.5) ** 2 / (1 + y.abs()).sqrt()
        y = y.masked_fill(y > 3, 3.0)
        return self.out(1 - y + torch.zeros_like(y).fill_(0.5))

    return net(forward, a=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def sum_in_python() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(sum([y, self.b(y), self.c(F.relu(self.b(y)))]))

    return net(forward, a=conv(3, 6), b=conv(6, 6), c=conv(6, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def zeros_as_padding() -> nn.Module:
    """ResNet shortcut A: the missing channels are zeros."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        shortcut = torch.cat([y, torch.zeros_like(y)], 1)
        return self.out(shortcut + torch.cat([self.b(y), self.b(F.relu(y))], 1))

    return net(forward, a=conv(3, 6), b=conv(6, 6), out=conv(12, 5))


@case({"a": (4, 1), "b": (4, 1)})
def zeros_in_other_spellings() -> nn.Module:
    """The zeros of a shortcut are as many as the literal says, so the depth of ``b`` has a part of its own there."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        one = torch.cat([y, y.new_zeros(2, 4, 8, 8)], 1)
        two = torch.cat([y, torch.zeros(2, 4, 8, 8, dtype=y.dtype)], 1)
        return self.out(self.b(y) + one + two)

    return net(forward, a=conv(3, 4), b=conv(4, 8), out=conv(8, 5))


@case({"a": (4, 1)})
def cat_with_a_constant() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([self.label.expand(2, -1, 8, 8), y, x, y], 1))

    module = net(forward, a=conv(3, 4), out=conv(13, 5))
    module.register_buffer("label", torch.rand(1, 2, 1, 1))
    return module


@case({"a": (6, 1)})
def stack_with_a_position() -> nn.Module:
    """A position embedding has a depth along the image, which the image freezes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        zeros = torch.zeros(2, 6, 1, 1, dtype=y.dtype)
        return self.out(torch.stack([y, y + self.position, y + zeros], 1).sum(1))

    return net(forward, a=conv(3, 6), position=parameter(1, 6, 8, 8), out=conv(6, 5))


@case({"a": (6, 1)}, {"m": "broadcasts one channel"})
def gate_at_one_channel() -> nn.Module:
    """At one channel ``a`` looks like the gate, which must not be taken for it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = self.m(x).sigmoid()
        return self.out(y * gate + gate.expand(-1, 6, -1, -1))

    return net(forward, a=conv(3, 6), m=conv(3, 1), out=conv(6, 5))


@case({"a": (6, 1)}, mixed=["a"])
def distances() -> nn.Module:
    """A codebook: the code that is nearest to the features at each place, and how far it is."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        rows = y.flatten(2).transpose(1, 2)
        far = torch.cdist(rows, self.b(x).flatten(2).transpose(1, 2))
        return self.out(y * far.min(2).values.view(2, 1, 8, 8)) + F.mse_loss(y, self.b(x))

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 5))


@case({"a": (6, 1)}, {"out": "compares channels with numbers of classes"})
def loss_inside() -> nn.Module:
    """A network that returns its loss: of the classes that each place is nearest to."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.out(self.a(x))
        return F.cross_entropy(scores, scores.detach().argmax(1)) + self.loss(scores, scores.detach().argmax(1))

    return net(forward, a=conv(3, 6), out=conv(6, 5), loss=nn.NLLLoss())


@case({"a": (6, 1)}, mixed=["a"])
def losses() -> nn.Module:
    """Features that are drawn towards those of another layer, with and without a mean over all."""

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        return self.out(F.smooth_l1_loss(y, z, reduction="none")) + self.loss(y, z)

    return net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 5), loss=nn.MSELoss())


@case({"a": (6, 1)}, mixed=["a"])
def similarities() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        across = F.cosine_similarity(y, z, dim=1).unsqueeze(1)
        down = self.cosine(y, z).unsqueeze(2)
        return self.out(y * across + down + F.pairwise_distance(y, z, keepdim=True))

    return net(forward, a=conv(3, 6), b=conv(3, 6), cosine=nn.CosineSimilarity(dim=2), out=conv(6, 5))


@case({"a": (6, 1)})
def in_place_spellings() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clamp_(min=0.1).add_(1).sub_(0.5).mul_(2).div_(3).neg_()
        y = F.elu_(y) + y.clone().fill_(0.25).masked_fill_(x[:, :1] > 0, 1.0)
        y = y.abs().pow(2).clone().erf_().lerp_(y, 0.5)
        y -= y.tanh()
        return self.out(y)

    return net(forward, a=conv(3, 6), out=conv(6, 5))
