"""The chapter's concise model: a torch recurrent layer under a linear readout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RNNModel(nn.Module):
    """A recurrent layer of torch and a linear readout over all its outputs.

    Args:
        rnn_layer: nn.RNN, nn.GRU or nn.LSTM (any depth, one or both directions), or a module with
            their attributes hidden_size, num_layers and bidirectional.
        vocab_size: V, the width of the one-hot input and of the readout.

    Source: the second notebook's class of that name.
    """

    def __init__(self, rnn_layer: Any, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rnn = rnn_layer
        self.vocab_size = vocab_size
        self.num_hiddens = rnn_layer.hidden_size
        self.num_directions = 2 if rnn_layer.bidirectional else 1
        self.linear = nn.Linear(self.num_directions * self.num_hiddens, vocab_size)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits [T * B, V] and the new state, for token ids [B, T]."""
        X = nn.functional.one_hot(inputs.T.long(), self.vocab_size).to(torch.float32)
        Y, state = self.rnn(X, state)
        return self.linear(Y.reshape(-1, Y.shape[-1])), state

    def begin_state(self, device: Any, batch_size: int = 1) -> Any:
        """A zero state [layers * directions, B, H]; two of them, (h, c), for an LSTM."""
        shape = (self.num_directions * self.rnn.num_layers, batch_size, self.num_hiddens)
        if isinstance(self.rnn, nn.LSTM):
            return torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        return torch.zeros(shape, device=device)
