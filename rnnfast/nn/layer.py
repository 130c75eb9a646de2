"""One layer of `RNN`, without autograd: the product of its input over all steps and the recurrence.

Where both directions run in one call, the matrices of both are joined; by turns, each direction is
a layer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rnnfast import backends
from rnnfast.autograd import run_backward
from rnnfast.backends import Backend, Recurrence
from rnnfast.backends.reference_recurrence import gather, scatter_add


class Call(NamedTuple):
    """What a layer is called with besides the tensors that may want a gradient."""

    backend: Backend
    cell: str
    D: int = 1  # the number of directions
    batch_sizes: Tensor | None = None  # [T]
    resets: Tensor | None = None  # [T, B]: where an episode begins, which no state enters
    # Before the activation: [T, B, D * H], packed [N, D * H], or drawn by the backend from a seed.
    noise: Tensor | None = None
    deviation: float = 0.0
    seed: int = 0
    reverse: bool = False  # of one direction: time runs backwards


class Wanted(NamedTuple):
    """Which gradients of a layer are wanted."""

    x: bool
    h0: bool
    leak: bool
    W_ih: bool
    W_hh: bool
    b: bool | None  # None: there are no biases


class Adjoint(NamedTuple):
    """One call of a layer's backward pass: what was saved, what arrives, and what is wanted."""

    x: Tensor  # [T, B, I], packed [N, I]; ids without I
    h0: Tensor  # [D, B, H]
    leak: Tensor | None  # [H], of both directions [2, H]
    matrices: Sequence[Tensor]  # W_ih [H, I] and W_hh [H, H], D times
    hs: Tensor  # [T, B, D * H], packed [N, D * H]
    activity: Tensor | None  # act(z) of a leaky cell, like hs
    grad_hs: Tensor | None
    grad_h_last: Tensor | None
    grad_activity: Tensor | None  # by a second derivative alone
    wanted: Wanted


# The gradients of x, h0 and leak, and of W_ih, W_hh and where there are any b_ih and b_hh, D times.
_Gradients = tuple[Any, Any, Any, list[Any]]


def forward(
    call: Call,
    saves: bool,
    x: Tensor,  # [T, B, I], packed [N, I]; ids without I
    h0: Tensor,  # [D, B, H]; of a direction that has its turn [B, H]
    leak: Tensor | None,  # [H], of both directions [2, H]
    weights: Sequence[Tensor],  # W_ih [H, I], W_hh [H, H], b_ih [H] and b_hh [H] or none; D times
) -> tuple[Tensor, Tensor, Tensor | None]:
    """hs, the last states in their own storage, and act(z) of a leaky cell."""
    if call.D == 2 and _runs_by_turns(call, x, weights[1]):
        return _forward_by_turns(call, saves, x, h0, leak, weights)
    W_ih, W_hh, *b = weights if call.D == 1 else _joined(weights)
    if _reads_table(call, x):
        u, ids = W_ih.T, x
    else:
        u, ids = gather(W_ih.T, x) if x.dtype == torch.int64 else functional.linear(x, W_ih), None
        if u.dtype != W_hh.dtype:  # under autocast
            u = u.to(W_hh.dtype)
        u = u if call.noise is None else u + call.noise
    r = _recurrence(call, u, ids, W_hh, b[0] + b[1] if b else None, h0, leak)
    return call.backend.rnn_forward(r, saves)


def backward(call: Call, a: Adjoint) -> _Gradients:
    """The adjoint of `forward`; None for what is not wanted."""
    if call.D == 2 and _runs_by_turns(call, a.x, a.matrices[1]):
        return _backward_by_turns(call, a)
    W_ih, W_hh = a.matrices if call.D == 1 else _joined(a.matrices)
    wanted, is_table = a.wanted, _reads_table(call, a.x)
    r = _recurrence(call, a.hs, a.x if is_table else None, W_hh, None, a.h0, a.leak)
    needs = backends.Needs(wanted.W_hh, bool(wanted.b), wanted.h0, wanted.leak)
    args = (W_ih.shape[1], a.hs, a.activity, a.grad_hs, a.grad_h_last, needs, a.grad_activity)
    made = run_backward(call.backend, backends.Adjoint(r, *args))
    grad_W_ih = _product_gradient(made.x, a.x, is_table, W_ih.shape[1]) if wanted.W_ih else None
    weights = [grad_W_ih, made.W_hh if wanted.W_hh else None]
    if wanted.b is not None:
        # Both biases get memory of their own: whoever clips gradients in place scales each once.
        weights += [made.b_h, made.b_h.clone()] if wanted.b else [None, None]
    if call.D == 2:
        weights[0] = None if grad_W_ih is None else grad_W_ih.reshape(2, -1, W_ih.shape[1])
        weights = [_row(grad, d) for d in range(2) for grad in weights]
    grad_x = made.x @ W_ih if wanted.x else None
    return grad_x, made.h0 if wanted.h0 else None, made.leak, weights


def _product_gradient(dz: Tensor, x: Tensor, is_table: bool, inputs: int) -> Tensor:
    """That of W_ih [H, I], or of both [2 H, I]. With a table, dz are its sums by id."""
    rows = dz.reshape(-1, dz.shape[-1])
    if is_table:
        return rows.T
    if x.dtype == torch.int64:
        return scatter_add(rows, x, inputs).T
    return rows.T @ x.flatten(0, -2)


def _runs_by_turns(call: Call, x: Tensor, W_hh: Tensor) -> bool:
    """Whether a direction runs after the other: where the masks differ, or where it is faster.

    To join the weights of both costs a copy of them, and a joint call saves the same for each row:
    by turns, 18 rows of 1024 units take 0.7 times as long, but 8 of 256 units 1.3 times. A traced
    call is one for any number of rows.
    """
    if call.resets is not None:
        return True
    if torch.compiler.is_compiling():
        return False
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    return rows.numel() * 2**15 <= W_hh.numel()


def _forward_by_turns(
    call: Call,
    saves: bool,
    x: Tensor,
    h0: Tensor,
    leak: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    half, results = len(weights) // 2, []
    for d in range(2):
        own = weights[d * half : (d + 1) * half]
        results.append(forward(_direction(call, d), saves, x, h0[d], _row(leak, d), own))
    hs, h_last, activities = zip(*results, strict=True)
    activity = None if activities[0] is None else torch.cat(activities, -1)
    return torch.cat(hs, -1), torch.stack(h_last), activity


def _backward_by_turns(call: Call, a: Adjoint) -> _Gradients:
    results = []
    for d in range(2):
        own = a._replace(
            h0=a.h0[d],
            leak=_row(a.leak, d),
            matrices=a.matrices[2 * d : 2 * d + 2],
            hs=_half(a.hs, d),
            activity=_half(a.activity, d),
            grad_hs=_half(a.grad_hs, d),
            grad_h_last=_row(a.grad_h_last, d),
            grad_activity=_half(a.grad_activity, d),
        )
        results.append(backward(_direction(call, d), own))
    xs, h0s, leaks, weights = zip(*results, strict=True)
    return (
        xs[0] + xs[1] if a.wanted.x else None,
        torch.stack(h0s) if a.wanted.h0 else None,
        torch.stack(leaks) if a.wanted.leak else None,
        weights[0] + weights[1],
    )


def _direction(call: Call, d: int) -> Call:
    """That of one of both directions."""
    resets = _resets_backwards(call.resets, call.batch_sizes) if d == 1 else call.resets
    return call._replace(D=1, resets=resets, noise=_half(call.noise, d), reverse=d == 1)


def _resets_backwards(resets: Tensor | None, batch_sizes: Tensor | None) -> Tensor | None:
    """The mask [T, B] of the direction whose step t follows t + 1, where an episode may begin."""
    if resets is None:
        return None
    begins = resets[1:]
    if batch_sizes is not None:  # beyond the end of a row its mask says nothing
        rows = torch.arange(resets.shape[1], device=resets.device)
        begins = begins & (rows < batch_sizes[1:, None].to(resets.device))
    return torch.cat((begins, torch.zeros_like(resets[:1])))


def _row(both: Tensor | None, d: int) -> Any:
    """A direction's part [...] of what is [2, ...]."""
    return None if both is None else both[d]


def _half(both: Tensor | None, d: int) -> Any:
    """A direction's part [..., H] of what is [..., 2 H], in one piece, as kernels read it."""
    return None if both is None else both.chunk(2, -1)[d].contiguous()


def _reads_table(call: Call, x: Tensor) -> bool:
    """Whether the recurrence looks the ids up by itself."""
    return x.dtype == torch.int64 and call.D == 1 and call.noise is None


def _joined(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of both directions W_ih [2 H, I], W_hh [2, H, H] and biases [2, H]."""
    half = len(weights) // 2
    pairs = zip(weights[:half], weights[half:], strict=True)
    W_ih, *rest = [torch.stack(pair) for pair in pairs]
    return W_ih.flatten(0, 1), *rest


def _recurrence(
    call: Call,
    u: Tensor,
    ids: Tensor | None,
    W_hh: Tensor,
    b_h: Tensor | None,
    h0: Tensor,
    leak: Tensor | None,
) -> Recurrence:
    options = (True, call.reverse, call.batch_sizes, call.resets, False, leak)
    noise = (call.deviation, call.seed)
    return Recurrence(call.cell, u, ids, W_hh, b_h, h0, *options, *noise)
