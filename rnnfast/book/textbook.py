"""The textbook's own loop, one small torch call after another: what rnnfast is measured against.

Source of every function: the notebook "RNN from scratch" of Dive into Deep Learning, chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Tensor]
Batch = tuple[Tensor, Tensor]


def rnn(inputs: Tensor, state: State, params: Sequence[Tensor]) -> tuple[Tensor, State]:
    """h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h), y_t = h_t W_hq + b_q, one step at a time.

    inputs: one-hot [T, B, V]. Returns the logits [T * B, V] and the last state.
    """
    W_xh, W_hh, b_h, W_hq, b_q = params
    (H,) = state
    outputs = []
    for X in inputs:
        H = torch.tanh(torch.mm(X, W_xh) + torch.mm(H, W_hh) + b_h)
        outputs.append(torch.mm(H, W_hq) + b_q)
    return torch.cat(outputs, dim=0), (H,)


class Model:
    """The notebook's RNNModelScratch around ready parameters: ids [B, T] become one-hot vectors."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params

    def __call__(self, X: Tensor, state: State) -> tuple[Tensor, State]:
        W_xh = self.params[0]
        one_hot = nn.functional.one_hot(X.T, W_xh.shape[0]).type(W_xh.dtype)
        return rnn(one_hot, state, self.params)

    def begin_state(self, batch_size: int, device: Any = None) -> State:
        W_hh = self.params[1]
        return (torch.zeros((batch_size, W_hh.shape[0]), device=device, dtype=W_hh.dtype),)


def clip(params: Sequence[Tensor], theta: float) -> None:
    """Scale the gradients by theta / norm where their common norm exceeds theta."""
    squares: list[Any] = [torch.sum(_grad(p) ** 2) for p in params]
    norm = torch.sqrt(sum(squares))
    if norm > theta:
        for p in params:
            _grad(p)[:] *= theta / norm


def sgd(params: Sequence[Tensor], lr: float, batch_size: int) -> None:
    """One step of minibatch stochastic gradient descent."""
    with torch.no_grad():
        for p in params:
            p -= lr * _grad(p) / batch_size
            _grad(p).zero_()


def train_epoch(
    net: Any,
    batches: Iterable[Batch],
    state: tuple[Tensor, ...],
    clip: Callable[[], None],
    update: Callable[[], None],
) -> float:
    """One epoch of the notebook's loop over `net(X, state)`; returns the mean loss per token."""
    loss = nn.CrossEntropyLoss()
    total, count = 0.0, 0
    for X, Y in batches:
        for s in state:
            s.detach_()
        y = Y.T.reshape(-1)
        y_hat, state = net(X, state)
        mean_loss = loss(y_hat, y.long()).mean()
        mean_loss.backward()
        clip()
        update()
        total += float((mean_loss * y.numel()).detach())
        count += y.numel()
    return total / count


def predict(first: int, count: int, net: Any, state: State) -> list[int]:
    """The `count` most probable ids after `first`, each the next one's input."""
    ids = [first]
    for _ in range(count):
        logits, state = net(torch.tensor([ids[-1]]).reshape((1, 1)), state)
        ids.append(int(logits.argmax(dim=1).reshape(1)))
    return ids[1:]


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None, "backward() was not called"
    return p.grad
