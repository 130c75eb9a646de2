"""One problem for the recurrence of every backend: made at random, run, held against the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from rnnfast.backends import Backend
from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64

NAMES = ("hs", "h_last", "grad_x", "grad_W_hh", "grad_b_h", "grad_h0")


@dataclass(frozen=True)
class Problem:
    """What one forward and one backward call of any backend take."""

    x: Tensor  # [V, H] with ids, else [T, B, H]
    ids: Tensor | None  # [T, B]
    W_hh: Tensor  # [H, H]
    b_h: Tensor | None  # [H]
    h0: Tensor  # [B, H]
    relu: bool
    grad_hs: Tensor | None  # [T, B, H]
    grad_h_last: Tensor | None  # [B, H]
    hs: Tensor  # [T, B, H]: states for a backward call that no forward call goes before

    def to(self, dtype: torch.dtype) -> Problem:
        changed = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **changed)


def make(
    T: int,
    B: int,
    H: int,
    V: int | None = None,
    *,
    relu: bool = False,
    dtype: torch.dtype = torch.float32,
    radius: float = 0.99,
) -> Problem:
    """A random problem: W_hh has about the given spectral radius, V is None for a dense input."""
    g = torch.Generator().manual_seed(T * 1000003 + B * 10007 + H * 101 + (V or 0))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    W_hh = normal(H, H) * (radius / H**0.5)  # the circular law
    return Problem(
        x=0.3 * (normal(T, B, H) if V is None else normal(V, H)),
        # strides as a loader has them
        ids=None if V is None else torch.randint(0, V, (T, B), generator=g).T.contiguous().T,
        W_hh=W_hh,
        b_h=0.1 * normal(H),
        h0=0.5 * normal(B, H),
        relu=relu,
        grad_hs=normal(T, B, H),
        grad_h_last=normal(B, H),
        hs=normal(T, B, H).tanh(),
    ).to(dtype)


def run(backend: Backend, p: Problem) -> dict[str, Tensor]:
    """All six results of a backend."""
    hs, h_last = untyped.rnn_forward(backend, p.x, p.ids, p.W_hh, p.b_h, p.h0, p.relu)
    V = 0 if p.ids is None else len(p.x)
    incoming, weights = (p.grad_hs, p.grad_h_last, hs, p.ids, V), (p.W_hh, p.h0, p.relu)
    grads = untyped.rnn_backward(backend, *incoming, *weights, True, True, True)
    return dict(zip(NAMES, (hs, h_last, *grads), strict=True))


def truth_of(p: Problem) -> dict[str, Tensor]:
    """The equations in numpy's long double, so that float64 has a truth better than itself."""

    def wide(t: Tensor | None) -> np.ndarray | float:
        return 0.0 if t is None else t.detach().double().numpy().astype(np.longdouble)

    x, W_hh, b_h, h0 = wide(p.x), wide(p.W_hh), wide(p.b_h), wide(p.h0)
    grad_hs, carry = wide(p.grad_hs), wide(p.grad_h_last)
    ids = None if p.ids is None else p.ids.numpy()
    u = x if ids is None else x[ids]
    states = [h0]
    for u_t in u:
        z = u_t + states[-1] @ W_hh + b_h
        states.append(np.maximum(z, 0) if p.relu else np.tanh(z))
    hs = np.stack(states[1:])
    dz = np.zeros_like(hs)
    for t in reversed(range(len(hs))):
        dh = carry + (grad_hs[t] if p.grad_hs is not None else 0)
        dz[t] = dh * ((hs[t] > 0) if p.relu else 1 - hs[t] ** 2)
        carry = dz[t] @ W_hh.T
    grad_x = dz
    if ids is not None:
        grad_x = np.zeros_like(x)
        np.add.at(grad_x, ids, dz)
    H = W_hh.shape[0]
    grad_W_hh = np.stack(states[:-1]).reshape(-1, H).T @ dz.reshape(-1, H)
    results = (hs, hs[-1], grad_x, grad_W_hh, dz.sum((0, 1)), carry)
    return {
        name: torch.from_numpy(value.astype(np.float64))
        for name, value in zip(NAMES, results, strict=True)
    }


def check_needs(backend: Backend, p: Problem) -> None:
    """A backward call gives what it is asked for, as if all were wanted, and nothing else."""
    everything = run(backend, p)
    V = 0 if p.ids is None else len(p.x)
    incoming, weights = (p.grad_hs, p.grad_h_last, everything["hs"], p.ids, V), (p.W_hh, p.h0)
    for need in product([False, True], repeat=3):
        grads = untyped.rnn_backward(backend, *incoming, *weights, p.relu, *need)
        for name, grad, wanted in zip(NAMES[2:], grads, (True, *need), strict=True):
            assert torch.equal(grad, everything[name]) if wanted else grad.numel() == 0, name


def check(backend: Backend, p: Problem) -> None:
    """Every result is as near to the truth as the reference's."""
    got, same, truth = run(backend, p), run(reference, p), truth_of(p)
    for name in NAMES:
        assert_close_to_f64(name, got[name], same[name], truth[name])
