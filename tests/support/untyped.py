"""The backends' methods for tests that have their arguments one by one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rnnfast.backends import (
    Adjoint,
    Backend,
    CrossEntropy,
    Decoding,
    Needs,
    Params,
    Recurrence,
    TrainSteps,
)

CELLS = ("tanh", "relu")  # by `relu`


def rnn_forward(backend: Backend, *args: Any, saves: bool = True) -> tuple[Tensor, Tensor]:
    """x, ids, W_hh, b_h, h0, relu."""
    *tensors, relu = args
    return backend.rnn_forward(Recurrence(CELLS[relu], *tensors), saves)[:2]


def rnn_backward(
    backend: Backend,
    grad_hs: Tensor | None,
    grad_h_last: Tensor | None,
    hs: Tensor,
    ids: Tensor | None,
    V: int,
    W_hh: Tensor,
    h0: Tensor,
    relu: bool,
    *needs: bool,
) -> tuple[Tensor, ...]:
    r = Recurrence(CELLS[relu], hs, ids, W_hh, None, h0)
    call = Adjoint(r, V, hs, None, grad_hs, grad_h_last, Needs(*needs))
    made = backend.rnn_backward(call)
    return made[:4]  # that of leak is for leaky cells


def rnn_logits(backend: Backend, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """x, ids, W_hh, b_h, W_hq, b_q, h0, relu."""
    x, ids, W_hh, b_h, W_hq, b_q, h0, relu = args
    r = Recurrence(CELLS[relu], x, ids, W_hh, b_h, h0)
    return backend.rnn_logits(r, W_hq, b_q, True)


def rnn_logits_backward(backend: Backend, *args: Any) -> tuple[Tensor, ...]:
    """The gradients of logits, h_last and hs; hs, ids, V, W_hh, W_hq, h0, relu, three needs."""
    grad_logits, grad_h_last, grad_hs, hs, ids, V, W_hh, W_hq, h0, relu, *needs = args
    r = Recurrence(CELLS[relu], hs, ids, W_hh, None, h0)
    call = Adjoint(r, V, hs, None, grad_hs, grad_h_last, Needs(*needs))
    grads, *readout = backend.rnn_logits_backward(call, W_hq, grad_logits)
    return *grads[:4], *readout


def rnn_cross_entropy(backend: Backend, *args: Any) -> tuple[Tensor, ...]:
    """ids, targets, five parameters, h0, relu, need_grads, need_h0."""
    ids, targets, *params, h0, relu, need_grads, need_h0 = args
    model = (Params(*params), h0, need_grads, need_h0)
    return backend.rnn_cross_entropy(CrossEntropy(CELLS[relu], ids, targets, *model))


def train_step_(
    backend: Backend, ids: Tensor, targets: Tensor, *rest: Any, keep_grads: bool = True
) -> Tensor:
    """ids and targets [T, B], then params, grads, h, lr, max_norm, relu."""
    *rest, relu = rest
    steps = TrainSteps(CELLS[relu], [ids], [targets], *rest, keep_grads, steps_first=True)
    return backend.train_steps_(steps)[0]


def decode(backend: Backend, first: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """first, five parameters, h0, steps, temperature, uniforms, relu."""
    *params, h0, steps, temperature, uniforms, relu = args
    args = (steps, temperature, uniforms)
    return backend.decode(Decoding(CELLS[relu], first, Params(*params), h0, *args))


def rnn_cross_entropy_grads_(
    backend: Backend, ids: Tensor, targets: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    """ids, targets, params, grads, h0, relu. The gradients are added to."""
    params, grads, h0, relu = rest
    call = CrossEntropy(CELLS[relu], ids, targets, Params(*params), h0, grads=grads)
    loss, h_last, *_ = backend.rnn_cross_entropy(call)
    return loss, h_last


def train_steps_(backend: Backend, *args: Any, keep_grads: bool = True) -> Tensor:
    """ids and targets [B, T] each, params, grads, h, lr, max_norm, relu."""
    *rest, relu = args
    return backend.train_steps_(TrainSteps(CELLS[relu], *rest, keep_grads))
