"""Recurrent layers and embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.cases import LINEAR, case, conv, net, parameter


def _reader(layer: nn.Module, width: int) -> nn.Module:
    """Columns of the image as steps of time."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).mean(2)
        y = y.permute(0, 2, 1) if self.layer.batch_first else y.permute(2, 0, 1)
        states, _ = self.layer(y)
        return self.out(states[:, -1] if self.layer.batch_first else states[-1])

    return net(forward, a=conv(3, 6), layer=layer, out=nn.Linear(width, 5))


@case({"a": (6, 1)})
def lstm() -> nn.Module:
    """The first layer reads the channels in both directions; the hidden size is the user's."""
    return _reader(nn.LSTM(6, 7, 2, bidirectional=True, batch_first=True), 14)


@case({"a": (6, 1)})
def gru() -> nn.Module:
    return _reader(nn.GRU(6, 7, bias=False), 7)


@case({"a": (6, 1)})
def plain_recurrence() -> nn.Module:
    return _reader(nn.RNN(6, 7, nonlinearity="relu"), 7)


@case({"a": (6, 1)})
def cells() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).mean((2, 3))
        hidden, cell = self.lstm(y)
        hidden, _ = self.lstm(y, (hidden, cell))
        return self.out(hidden + self.gru(y) + self.rnn(y))

    return net(
        forward, a=conv(3, 6), lstm=nn.LSTMCell(6, 7), gru=nn.GRUCell(6, 7), rnn=nn.RNNCell(6, 7), out=nn.Linear(7, 5)
    )


@case({}, {"a": "is the state of a recurrent layer"})
def state_from_the_image() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x.mean(2).permute(2, 0, 1), self.a(x).mean((2, 3))[None])
        return self.out(states[-1])

    return net(forward, a=conv(3, 7), gru=nn.GRU(3, 7), out=nn.Linear(7, 5))


@case({"a": (6, 1)})
def embedding() -> nn.Module:
    """A class embedding added to the maps: its width is theirs."""

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] > 0).long()
        return self.out(self.a(x) + self.e(label)[:, :, None, None])

    return net(forward, a=conv(3, 6), e=nn.Embedding(3, 6), out=conv(6, 5))


@case({}, {"e": LINEAR})
def embedding_alone() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.e((x[:, 0, 0, 0] > 0).long()))

    return net(forward, e=nn.Embedding(3, 6, max_norm=1.0), out=nn.Linear(6, 5))


@case({"a": (6, 1)})
def functional_embedding() -> nn.Module:
    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] > 0).long()
        return self.out(F.relu(self.a(x) + F.embedding(label, self.table)[:, :, None, None]))

    return net(forward, a=conv(3, 6), table=parameter(3, 6), out=conv(6, 5))


@case({"a": (6, 1)})
def packed_numbers() -> nn.Module:
    """One-hot codes of a fixed number of classes, beside the channels."""

    def forward(self, x: Tensor) -> Tensor:
        code = F.one_hot((x[:, 0, 0, 0] > 0).long(), 4).to(x.dtype)
        return self.out(torch.cat([self.a(x).mean((2, 3)), code], 1))

    return net(forward, a=conv(3, 6), out=nn.Linear(10, 5))
