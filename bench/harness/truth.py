"""The truth that every peer is held against, in float64: for the book's model by numpy alone.

h_t = tanh(W_xh[x_t] + h_{t-1} W_hh + b_h),  logits_t = h_t W_hq + b_q,  mean cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from bench.cases import (
    CLIP,
    FIRST,
    GENERATED,
    LEARNING_RATE,
    PARAMETERS,
    Case,
    Floats,
    Ints,
    Sequences,
    Stack,
)

Named = dict[str, Floats]


class BookTruth:
    """Results of every operation but generation by name; `generated` has the rest."""

    def __init__(self, case: Case) -> None:
        self.task = case.task()
        self._params = [p.astype(np.float64) for p in self.task.params]

    def of(self, op: str) -> Named:
        """train: the loss, and what clipping and SGD subtract from each parameter."""
        if op in ("train", "forward"):
            loss, steps = self._first_step
            taken = dict(zip(PARAMETERS, steps, strict=True)) if op == "train" else {}
            return {"loss": np.array(loss), **taken}
        if op == "clip":
            return dict(zip(PARAMETERS, _clipped(self._params), strict=True))
        hs = self._hidden_states(self._ids[0])
        if op == "states":
            return {"hs": hs[1:]}
        d_hs = self.task.grad_hs.astype(np.float64)
        grads = self._through_time(self._ids[0], hs, d_hs)
        return {"hs": hs[1:], **dict(zip(PARAMETERS[:3], grads, strict=True))}

    @cached_property
    def generated(self) -> tuple[Ints, Floats]:
        """Greedy characters, and for each the lead of its logit over the second best."""
        W_xh, W_hh, b_h, W_hq, b_q = self._params
        h = np.zeros(W_hh.shape[0])
        ids, leads = [FIRST], []
        for _ in range(GENERATED):
            h = np.tanh(W_xh[ids[-1]] + h @ W_hh + b_h)
            logits = h @ W_hq + b_q
            second, best = np.sort(logits)[-2:]
            ids.append(int(logits.argmax()))
            leads.append(float(best - second))
        return np.array(ids[1:]), np.array(leads)

    @cached_property
    def _ids(self) -> tuple[Ints, Ints]:
        """X and Y [T,B] of the first minibatch."""
        X, Y = self.task.batches[0]
        return X.T, Y.T

    @cached_property
    def _first_step(self) -> tuple[float, list[Floats]]:
        X, Y = self._ids
        _, _, _, W_hq, b_q = self._params
        hs = self._hidden_states(X)
        logits = hs[1:] @ W_hq + b_q
        logits -= logits.max(-1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        picked = np.take_along_axis(log_p, Y[..., None], -1)
        one_hot = np.arange(len(b_q)) == Y[..., None]
        d_logits = (np.exp(log_p) - one_hot) / Y.size
        grads = [
            *self._through_time(X, hs, d_logits @ W_hq.T),
            np.tensordot(hs[1:], d_logits, ((0, 1), (0, 1))),
            d_logits.sum((0, 1)),
        ]
        return float(-picked.mean()), [LEARNING_RATE * g for g in _clipped(grads)]

    def _hidden_states(self, X: Ints) -> Floats:
        """[T+1,B,H] with the zero state first."""
        W_xh, W_hh, b_h, *_ = self._params
        T, B = X.shape
        hs = np.zeros((T + 1, B, W_hh.shape[0]))
        for t in range(T):
            hs[t + 1] = np.tanh(W_xh[X[t]] + hs[t] @ W_hh + b_h)
        return hs

    def _through_time(self, X: Ints, hs: Floats, d_hs: Floats) -> list[Floats]:
        """Gradients of W_xh, W_hh and b_h."""
        W_xh, W_hh, *_ = self._params
        dz = np.zeros_like(d_hs)
        carried = np.zeros_like(d_hs[0])
        for t in reversed(range(len(dz))):
            dz[t] = (d_hs[t] + carried) * (1 - hs[t + 1] ** 2)
            carried = dz[t] @ W_hh.T
        d_table = np.zeros_like(W_xh)
        np.add.at(d_table, X, dz)
        return [d_table, np.tensordot(hs[:-1], dz, ((0, 1), (0, 1))), dz.sum((0, 1))]


class StackTruth:
    """torch.nn.RNN in float64."""

    def __init__(self, case: Stack) -> None:
        self._sequences: Sequences = case.task()

    def of(self, op: str) -> Named:
        from bench.peers import layers  # needs torch, which the book's truth does not

        stack = layers.in_float64(self._sequences)
        results: Any = getattr(stack, op)()
        names = stack.names[: len(results)]
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}


def truth_of(case: Case | Stack) -> BookTruth | StackTruth:
    return StackTruth(case) if isinstance(case, Stack) else BookTruth(case)


def _clipped(grads: Sequence[Floats]) -> list[Floats]:
    norm = np.sqrt(sum((g**2).sum() for g in grads))
    return [min(1.0, CLIP / norm) * g for g in grads]
