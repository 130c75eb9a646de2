"""The truth that every peer is held against: the equations in float64, in numpy alone.

h_t = tanh(W_xh[x_t] + h_{t-1} W_hh + b_h),  logits_t = h_t W_hq + b_q,  mean cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.cases import CLIP, LEARNING_RATE, Floats, Ints, Problem


def first_step(problem: Problem) -> tuple[float, list[Floats]]:
    """Loss of the first minibatch, and what clipping and SGD subtract from each parameter."""
    params = [p.astype(np.float64) for p in problem.params]
    X, Y = (ids.T for ids in problem.batches[0])  # [T,B]
    hs, loss, d_logits = _forward(params, X, Y)
    grads = _backward(params, X, hs, d_logits)
    norm = np.sqrt(sum((g**2).sum() for g in grads))
    return loss, [LEARNING_RATE * min(1.0, CLIP / norm) * g for g in grads]


def generate(problem: Problem, first: int, count: int) -> tuple[list[int], list[float]]:
    """Greedy characters after `first`, and for each the logit's lead over the second best."""
    W_xh, W_hh, b_h, W_hq, b_q = (p.astype(np.float64) for p in problem.params)
    h = np.zeros(W_hh.shape[0])
    ids, leads = [first], []
    for _ in range(count):
        h = np.tanh(W_xh[ids[-1]] + h @ W_hh + b_h)
        logits = h @ W_hq + b_q
        second, best = np.sort(logits)[-2:]
        ids.append(int(logits.argmax()))
        leads.append(float(best - second))
    return ids[1:], leads


def _forward(params: Sequence[Floats], X: Ints, Y: Ints) -> tuple[Floats, float, Floats]:
    """hs [T+1,B,H] with the zero state first, mean loss, and its gradient by the logits [T,B,V]."""
    W_xh, W_hh, b_h, W_hq, b_q = params
    T, B = X.shape
    hs = np.zeros((T + 1, B, W_hh.shape[0]))
    for t in range(T):
        hs[t + 1] = np.tanh(W_xh[X[t]] + hs[t] @ W_hh + b_h)
    logits = hs[1:] @ W_hq + b_q
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, Y[..., None], -1)
    one_hot = np.arange(len(b_q)) == Y[..., None]
    return hs, float(-picked.mean()), (np.exp(log_p) - one_hot) / Y.size


def _backward(params: Sequence[Floats], X: Ints, hs: Floats, d_logits: Floats) -> list[Floats]:
    """Backpropagation through time; gradients in the order of the parameters."""
    W_xh, W_hh, _, W_hq, _ = params
    d_hs = d_logits @ W_hq.T
    dz = np.zeros_like(d_hs)
    carried = np.zeros_like(d_hs[0])
    for t in reversed(range(len(dz))):
        dz[t] = (d_hs[t] + carried) * (1 - hs[t + 1] ** 2)
        carried = dz[t] @ W_hh.T
    d_table = np.zeros_like(W_xh)
    np.add.at(d_table, X, dz)
    over_steps = ((0, 1), (0, 1))
    return [
        d_table,
        np.tensordot(hs[:-1], dz, over_steps),
        dz.sum((0, 1)),
        np.tensordot(hs[1:], d_logits, over_steps),
        d_logits.sum((0, 1)),
    ]
