"""Recurrent language models in plain torch, written the way people write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_sizes import VOCAB, WIDTH


class RecurrentLM(nn.Module):
    """The textbook one: Embedding, nn.LSTM / nn.GRU / nn.RNN, Linear; `forward(x, hidden) -> (logits, hidden)`."""

    def __init__(
        self,
        kind: type[nn.RNNBase],
        layers: int = 1,
        hidden: int = WIDTH,
        *,
        batch_first: bool = True,
        tied: bool = False,
        head_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden if tied else 12)
        self.dropout = nn.Dropout(0.2)
        self.rnn = kind(self.embedding.embedding_dim, hidden, layers, batch_first=batch_first, **options)
        self.head = nn.Linear(options.get("proj_size") or hidden, VOCAB, bias=head_bias)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.dropout(self.embedding(x)), hidden)
        return self.head(self.dropout(output)), hidden


class WordLanguageModel(nn.Module):
    """As PyTorch's word_language_model example writes it: (time, batch), flat log-probabilities."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(VOCAB, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.2)
        self.decoder = nn.Linear(WIDTH, VOCAB)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, input: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, VOCAB)
        return functional.log_softmax(decoded, dim=1), hidden


class StatelessLM(nn.Module):
    """Begins with zero states and forgets them; with dense layers before the head, a tied head, or the last position only."""

    def __init__(
        self, rnn: nn.RNNBase, dense: tuple[nn.Module, ...] = (), *, tied: bool = False, last: bool = False, head_bias: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, rnn.input_size)
        self.rnn = rnn
        self.dense = nn.Sequential(*dense)
        size = next((layer.out_features for layer in reversed(dense) if isinstance(layer, nn.Linear)), rnn.proj_size or rnn.hidden_size)
        self.head = nn.Linear(size, VOCAB, bias=head_bias)
        if tied:
            self.head.weight = self.embedding.weight
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.embedding(x))
        if self.last:
            output = output[:, -1]
        return self.head(self.dense(output))


class ExplicitZerosLM(nn.Module):
    """Makes its zero states by hand from the batch size, and names layers one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.first = nn.LSTM(12, WIDTH, batch_first=True)
        self.second = nn.LSTM(WIDTH, 10, batch_first=True)
        self.head = nn.Linear(10, VOCAB)

    def forward(self, x: Tensor) -> Tensor:
        h, c = (torch.zeros(1, x.size(0), WIDTH, device=x.device) for _ in range(2))
        output, _ = self.first(self.embedding(x), (h, c))
        output, _ = self.second(output)
        return self.head(output)


class SeparateStatesLM(nn.Module):
    """Deployed form: `forward(ids, h, c) -> (logits, h, c)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.lstm = nn.LSTM(12, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (h, c) = self.lstm(self.embedding(ids), (h, c))
        return self.head(output), h, c


class LastStepWithStates(nn.Module):
    """Scores for the last position only, states in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.gru = nn.GRU(12, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        output, h = self.gru(self.embedding(ids), h)
        return self.head(output[:, -1, :]), h


class CellLM(nn.Module):
    """One step a call, made of an nn.LSTMCell."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.cell = nn.LSTMCell(12, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cell(self.embedding(ids[:, -1]), (h, c))
        return self.head(h), h, c
