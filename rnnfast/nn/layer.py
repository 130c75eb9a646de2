"""One layer of `RNN`: the product of its input over all steps and one call of the recurrence.

Both are a single node of autograd, which takes a third less time than one for each where a call is
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rnnfast.autograd import run_backward
from rnnfast.backends import Adjoint, Backend, Needs, Recurrence
from rnnfast.backends.reference_recurrence import gather, scatter_add


class Call(NamedTuple):
    """What a layer is called with besides the tensors that may want a gradient."""

    backend: Backend
    cell: str
    D: int = 1  # the number of directions
    batch_sizes: Tensor | None = None  # [T]
    resets: Tensor | None = None  # [T, B]: where an episode begins, which no state enters
    noise: Tensor | None = None  # [T, B, D * H], packed [N, D * H]: added before the activation
    reverse: bool = False  # of one direction: time runs backwards


def run(
    call: Call,
    x: Tensor,  # [T, B, I], packed [N, I]; ids without I
    h0: Tensor,  # [B, H], of both directions [2, B, H]
    leak: Tensor | None,  # [H], of both directions [2, H]
    weights: Sequence[Tensor],  # W_ih [H, I], W_hh [H, H], b_ih [H] and b_hh [H] or none; D times
) -> tuple[Tensor, Tensor]:
    """hs [T, B, D * H] (packed [N, D * H]) and the last states like h0, differentiable."""
    if call.D == 2 and (call.resets is not None or _is_short(x, weights[1])):
        return _run_by_turns(call, x, h0, leak, weights)
    tensors = (*weights, x, h0) if leak is None else (*weights, x, h0, leak)
    wants_grad = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    if wants_grad and x.dtype == torch.int64:
        x = x.clone()  # the caller may change the ids
    if wants_grad and not call.backend.is_differentiable:
        hs, h_last, _ = _Layer.apply(call, x, h0, leak, *weights)  # type: ignore[no-untyped-call]
    else:
        hs, h_last, _ = _forward(call, wants_grad, x, h0, leak, weights)
    return hs, h_last


def _run_by_turns(
    call: Call, x: Tensor, h0: Tensor, leak: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `run`, one direction after the other: the masks differ, and no weights are joined."""
    half, results = len(weights) // 2, []
    for d, own in enumerate((weights[:half], weights[half:])):
        resets = call.resets if d == 0 else _resets_backwards(call.resets, call.batch_sizes)
        noise = None if call.noise is None else call.noise.chunk(2, -1)[d]
        one = call._replace(D=1, resets=resets, noise=noise, reverse=d == 1)
        results.append(run(one, x, h0[d], None if leak is None else leak[d], own))
    hs, h_last = zip(*results, strict=True)
    return torch.cat(hs, -1), torch.stack(h_last)


def _is_short(x: Tensor, W_hh: Tensor) -> bool:
    """Whether to join the weights of both directions takes longer than what a joint call saves.

    For 8 rows of 1024 units two calls take 0.6 times as long, for 64 units 1.3 times. A traced call
    is one for any number of rows.
    """
    if W_hh.numel() < 2**16 or torch.compiler.is_compiling():
        return False
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    return rows.numel() <= 8


def _resets_backwards(resets: Tensor | None, batch_sizes: Tensor | None) -> Tensor | None:
    """The mask [T, B] of the direction whose step t follows t + 1, where an episode may begin."""
    if resets is None:
        return None
    begins = resets[1:]
    if batch_sizes is not None:  # beyond the end of a row its mask says nothing
        rows = torch.arange(resets.shape[1], device=resets.device)
        begins = begins & (rows < batch_sizes[1:, None].to(resets.device))
    return torch.cat((begins, torch.zeros_like(resets[:1])))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: Call, x: Tensor, h0: Tensor, leak: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        hs, h_last, activity = _forward(call, True, x, h0, leak, weights)
        of_direction = len(weights) // call.D
        ctx.save_for_backward(
            x, h0, leak, hs, activity, *weights[::of_direction], *weights[1::of_direction]
        )
        ctx.set_materialize_grads(False)
        ctx.call = call
        return hs, h_last, activity

    @staticmethod
    def backward(
        ctx: Any,
        grad_hs: Tensor | None,
        grad_h_last: Tensor | None,
        grad_activity: Tensor | None,  # by a second derivative alone
    ) -> tuple[Tensor | None, ...]:
        call, needed = ctx.call, ctx.needs_input_grad
        x, h0, leak, hs, activity, *matrices = ctx.saved_tensors
        D, of_direction = call.D, (len(needed) - 4) // call.D
        W_ih, W_hh = matrices if D == 1 else _merged(matrices[::2] + matrices[1::2])
        is_table = _reads_table(call, x)
        r = _recurrence(call, hs, x if is_table else None, W_hh, None, h0, leak)
        needs = Needs(any(needed[5::of_direction]), of_direction == 4, needed[2])
        args = (W_ih.shape[1], hs, activity, grad_hs, grad_h_last, needs, grad_activity)
        made = run_backward(call.backend, Adjoint(r, *args))
        dz = made.x.reshape(-1, made.x.shape[-1])
        if is_table:
            grad_W_ih = dz.T
        elif x.dtype == torch.int64:
            grad_W_ih = scatter_add(dz, x, W_ih.shape[1]).T
        else:
            grad_W_ih = dz.T @ x.flatten(0, -2) if any(needed[4::of_direction]) else W_ih
        grad_x = made.x @ W_ih if needed[1] else None
        # Both biases get memory of their own: whoever clips gradients in place scales each once.
        grads = [grad_W_ih, made.W_hh, made.b_h, made.b_h.clone()][:of_direction]
        if D == 2:
            grads[0] = grad_W_ih.reshape(2, -1, W_ih.shape[1])
            grads = [grad[d] for d in range(2) for grad in grads]
        every = (None, grad_x, made.h0, made.leak, *grads)
        return tuple(g if need else None for g, need in zip(every, needed, strict=True))


def _forward(
    call: Call,
    saves: bool,
    x: Tensor,
    h0: Tensor,
    leak: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """hs, the last states in their own storage, and act(z) of a leaky cell."""
    W_ih, W_hh, *b = weights if call.D == 1 else _merged(weights)
    if _reads_table(call, x):
        u, ids = W_ih.T, x
    else:
        u, ids = gather(W_ih.T, x) if x.dtype == torch.int64 else functional.linear(x, W_ih), None
        if u.dtype != W_hh.dtype:  # under autocast
            u = u.to(W_hh.dtype)
        u = u if call.noise is None else u + call.noise
    r = _recurrence(call, u, ids, W_hh, b[0] + b[1] if b else None, h0, leak)
    return call.backend.rnn_forward(r, saves)


def _reads_table(call: Call, x: Tensor) -> bool:
    """Whether the recurrence looks the ids up by itself."""
    return x.dtype == torch.int64 and call.D == 1 and call.noise is None


def _merged(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
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
    rest = (W_hh, b_h, h0, True, call.reverse, call.batch_sizes, call.resets, False, leak)
    return Recurrence(call.cell, u, ids, *rest)
