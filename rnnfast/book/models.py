"""Chapter 8's two character models: `RNNModelScratch` of functions, `RNNModel` of torch's layers.

With our `rnn` the first differs from the book's loop in two ways: token ids go straight to the
recurrence instead of one-hot vectors, and all steps share one readout. The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnfast import functional
from rnnfast.backends.arguments import StateError, described
from rnnfast.book.arguments import DEVICE, FUNCTION, TENSOR, Kind, integer, named
from rnnfast.nn import RNN

Device = torch.device | str | int | None
State = tuple[Tensor, ...]


@named(vocab_size=integer(0), num_hiddens=integer(0), device=DEVICE)
def get_params(vocab_size: int, num_hiddens: int, device: Device) -> list[Tensor]:
    """W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V], all requiring gradients.

    Weights are 0.01 * N(0, 1), biases zero. Draws from torch's generator in the notebook's order:
    the same seed gives the same bits.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(size=shape, device=device) * 0.01

    W_xh = normal(vocab_size, num_hiddens)
    W_hh = normal(num_hiddens, num_hiddens)
    b_h = torch.zeros(num_hiddens, device=device)
    W_hq = normal(num_hiddens, vocab_size)
    b_q = torch.zeros(vocab_size, device=device)
    return [p.requires_grad_(True) for p in (W_xh, W_hh, b_h, W_hq, b_q)]


@named(batch_size=integer(0), num_hiddens=integer(0), device=DEVICE)
def init_rnn_state(batch_size: int, num_hiddens: int, device: Device) -> tuple[Tensor]:
    """A zero hidden state [B, H], alone in a tuple."""
    return (torch.zeros((batch_size, num_hiddens), device=device),)


def rnn(inputs: Tensor, state: State, params: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
    """Run the network over a sequence: logits of every step, and the last state.

    h_t = tanh(x_t @ W_xh + h_{t-1} @ W_hh + b_h);  y_t = h_t @ W_hq + b_q

    Args:
        inputs: one-hot or dense [T, B, V], or token ids [T, B] (int64).
        state: a tuple with the hidden state [B, H].
        params: W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V].

    Returns:
        logits [T * B, V], the first step's batch first, and (h_T [B, H],).

    Raises what `functional.rnn` raises; TypeError for no state, ValueError for a state or
    parameters of another length.
    Source: the notebook's `rnn`.
    """
    logits, h_last = functional.rnn_logits(inputs, only(state), params)
    return logits, (h_last,)


class RNNModelScratch:
    """A recurrent model of three functions, as the book writes it; any `forward_fn` will do.

    Args:
        vocab_size, num_hiddens: V and H.
        device: where `get_params` makes the parameters.
        get_params: `(V, H, device) -> parameters`.
        init_state: `(B, H, device) -> state`, a tuple of tensors.
        forward_fn: `(inputs [T, B, V], state, params) -> (logits [T * B, V], state)`.

    With `rnnfast.rnn` as forward_fn no one-hot tensor is made; another one gets it as float32,
    as in the book. Source: the first notebook's class of that name.
    """

    @named(
        vocab_size=integer(0),
        num_hiddens=integer(0),
        device=DEVICE,
        get_params=FUNCTION,
        init_state=FUNCTION,
        forward_fn=FUNCTION,
    )
    def __init__(
        self,
        vocab_size: int,
        num_hiddens: int,
        device: Device,
        get_params: Callable[[int, int, Any], list[Tensor]],
        init_state: Callable[[int, int, Any], State],
        forward_fn: Callable[[Tensor, Any, Any], tuple[Tensor, Any]],
    ) -> None:
        self.vocab_size, self.num_hiddens = vocab_size, num_hiddens
        self.params = get_params(vocab_size, num_hiddens, device)
        self.init_state, self.forward_fn = init_state, forward_fn

    def __call__(self, X: Tensor, state: State) -> tuple[Tensor, Any]:
        """Logits [T * B, V] and the new state, for token ids X [B, T]."""
        try:
            ids = X.T
        except AttributeError:
            TENSOR.check("X", X)
            raise
        if self.forward_fn is rnn and self.params[0].shape[0] == self.vocab_size:
            return rnn(ids, state, self.params)
        inputs = nn.functional.one_hot(ids, self.vocab_size).type(torch.float32)
        return self.forward_fn(inputs, state, self.params)

    @named(batch_size=integer(0), device=DEVICE)
    def begin_state(self, batch_size: int, device: Device) -> State:
        """The state before the first step. (RNNModel's takes its arguments in the other order.)"""
        return self.init_state(batch_size, self.num_hiddens, device)


_LAYER = Kind(
    "a recurrent layer of torch.nn, or a module with its hidden_size, num_layers and bidirectional",
    lambda layer: all(hasattr(layer, n) for n in ("hidden_size", "num_layers", "bidirectional")),
)


class RNNModel(nn.Module):
    """A recurrent layer of torch and a linear readout over all its outputs.

    Args:
        rnn_layer: nn.RNN, nn.GRU or nn.LSTM (any depth, one or both directions), or a module with
            their attributes hidden_size, num_layers and bidirectional. With an rnnfast.nn.RNN it is
            faster, and no one-hot vectors are made; rnnfast.convert(model) makes nn.RNN one.
        vocab_size: V, the width of the one-hot input and of the readout.

    Source: the second notebook's class of that name.
    """

    @named(rnn_layer=_LAYER, vocab_size=integer(1))
    def __init__(self, rnn_layer: Any, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rnn = rnn_layer
        self.vocab_size = vocab_size
        self.num_hiddens = rnn_layer.hidden_size
        self.num_directions = 2 if rnn_layer.bidirectional else 1
        self.linear = nn.Linear(self.num_directions * self.num_hiddens, vocab_size)

    @named(inputs=TENSOR)
    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits [T * B, V] and the new state, for token ids [B, T]."""
        X = inputs.T.long()
        if not (isinstance(self.rnn, RNN) and self.rnn.input_size == self.vocab_size):
            X = nn.functional.one_hot(X, self.vocab_size).to(torch.float32)
        Y, state = self.rnn(X, state)
        return self.linear(Y.reshape(-1, Y.shape[-1])), state

    @named(device=DEVICE, batch_size=integer(0))
    def begin_state(self, device: Any, batch_size: int = 1) -> Any:
        """A zero state [layers * directions, B, H]; two of them, (h, c), for an LSTM."""
        shape = (self.num_directions * self.rnn.num_layers, batch_size, self.num_hiddens)
        if isinstance(self.rnn, nn.LSTM):
            return torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        return torch.zeros(shape, device=device)


def only(state: object) -> Tensor:
    """Take the hidden state out of its tuple. The types of error are those of the book's loop."""
    if isinstance(state, Tensor):
        raise StateError(
            f"the state is a bare tensor {tuple(state.shape)}, must be a tuple (H,) of one tensor"
        )
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"the state is {described(state)}, must be a tuple (H,) of one tensor")
    if len(state) != 1:
        raise ValueError(f"the state has {len(state)} tensors, must be a tuple (H,) of one")
    h = state[0]
    if not isinstance(h, Tensor):
        raise TypeError(f"the state holds {described(h)}, must be a tuple (H,) of one tensor")
    return h
