"""The specification: plain torch loops, any floating dtype, any device, differentiated by torch.

Every other backend must agree with this file. It is also what runs where no other backend can.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHECKS_ARGUMENTS = False  # plain torch operations would broadcast some of what does not fit
FUSED_READOUT = 0


def rnn_forward(
    x: Tensor,  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None,  # [T, B]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H]
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """All hidden states of a plain recurrent network.

    h_t = act(u_t + h_{t-1} @ W_hh + b_h), with u_t = x[ids_t] when ids are given and x_t otherwise;
    act is tanh, or relu. The sum is taken in the notebook's order, so that on one machine the
    result is bit-equal to its loop over one-hot vectors.

    Returns hs [T, B, H] and h_last [B, H], which owns its storage.
    """
    act = torch.relu if relu else torch.tanh
    u = x if ids is None else _gather(x, ids)
    h, hs = h0, []
    for u_t in u.unbind(0):
        z = u_t + h @ W_hh
        h = act(z if b_h is None else z + b_h)
        hs.append(h)
    return torch.stack(hs), h


rnn_inference = rnn_forward  # other backends may round more where no gradient is recorded


def rnn_backward(
    grad_hs: Tensor | None,  # [T, B, H]
    grad_h_last: Tensor | None,  # [B, H]
    hs: Tensor,  # [T, B, H]
    ids: Tensor | None,  # [T, B]
    V: int,
    W_hh: Tensor,  # [H, H]
    h0: Tensor,  # [B, H]
    relu: bool,
    need_W_hh: bool,
    need_b_h: bool,
    need_h0: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint of `rnn_forward`, itself differentiable (this is the double backward).

    dz_t = (grad_hs_t + dz_{t+1} @ W_hh^T) * act'(h_t), with grad_h_last added at the last step;
    act'(h) is 1 - h^2 for tanh and h > 0 for relu, so that no pre-activation is kept.

    Returns (grad_x, grad_W_hh, grad_b_h, grad_h0): grad_x = dz [T, B, H], or its sum by id [V, H];
    grad_W_hh = sum_t h_{t-1}^T dz_t; grad_b_h = sum dz; grad_h0 = dz_0 @ W_hh^T. What is not needed
    is an empty tensor.
    """
    slope = (hs > 0).to(hs.dtype) if relu else 1 - hs * hs
    carry = grad_h_last
    dz: list[Tensor] = []
    for t in range(hs.shape[0] - 1, -1, -1):
        dh = _add(None if grad_hs is None else grad_hs[t], carry)
        dz.append(torch.zeros_like(hs[t]) if dh is None else dh * slope[t])
        carry = dz[-1] @ W_hh.T
    dzs = torch.stack(dz[::-1])
    empty = hs.new_empty(0)
    h_prev = torch.cat((h0.unsqueeze(0), hs[:-1]))
    return (
        dzs if ids is None else _scatter_add(dzs, ids, V),
        h_prev.flatten(0, 1).T @ dzs.flatten(0, 1) if need_W_hh else empty,
        dzs.sum((0, 1)) if need_b_h else empty,
        dz[-1] @ W_hh.T if need_h0 else empty,
    )


def rnn_logits(
    x: Tensor,  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None,  # [T, B]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H]
    W_hq: Tensor,  # [H, V]
    b_q: Tensor,  # [V]
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`rnn_forward` and its readout: logits = h_t @ W_hq + b_q [T * B, V], h_last, hs."""
    hs, h_last = rnn_forward(x, ids, W_hh, b_h, h0, relu)
    return hs.flatten(0, 1) @ W_hq + b_q, h_last, hs


def rnn_logits_backward(
    grad_logits: Tensor,  # [T * B, V]
    grad_h_last: Tensor | None,  # [B, H]
    grad_hs: Tensor | None,  # [T, B, H]
    hs: Tensor,  # [T, B, H]
    ids: Tensor | None,  # [T, B]
    V: int,
    W_hh: Tensor,  # [H, H]
    W_hq: Tensor,  # [H, V]
    h0: Tensor,  # [B, H]
    relu: bool,
    need_W_hh: bool,
    need_b_h: bool,
    need_h0: bool,
) -> tuple[Tensor, ...]:
    """The adjoint of `rnn_logits`, itself differentiable: what `rnn_backward` returns, then

    grad_W_hq = sum h_t^T grad_logits_t [H, V] and grad_b_q = sum grad_logits_t [V].
    """
    through = _add(grad_hs, (grad_logits @ W_hq.T).view_as(hs))
    grads = rnn_backward(
        through, grad_h_last, hs, ids, V, W_hh, h0, relu, need_W_hh, need_b_h, need_h0
    )
    return *grads, hs.flatten(0, 1).T @ grad_logits, grad_logits.sum(0)


def rnn_cross_entropy(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    W_xh: Tensor,  # [V, H]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor,  # [H]
    W_hq: Tensor,  # [H, V]
    b_q: Tensor,  # [V]
    h0: Tensor,  # [B, H]
    relu: bool,
    need_grads: bool,
    need_h0: bool,
) -> tuple[Tensor, ...]:
    """The recurrence, its readout and the mean cross-entropy, with the gradients of the mean.

    loss = mean over T * B of -log softmax(h_t @ W_hq + b_q)[target]; its derivative by the logits
    is (softmax - one_hot(target)) / (T * B), and from there on `rnn_backward`.

    Returns loss (0-dim), h_last [B, H], and the gradients of W_xh, W_hh, b_h, W_hq, b_q and h0;
    those not needed are empty tensors.
    """
    hs, h_last = rnn_forward(W_xh, ids, W_hh, b_h, h0, relu)
    h = hs.flatten(0, 1)
    logits, y = h @ W_hq + b_q, targets.reshape(-1)
    loss = torch.nn.functional.cross_entropy(logits, y)
    empty = hs.new_empty(0)
    if not need_grads:
        return loss, h_last, empty, empty, empty, empty, empty, empty
    dlogits = torch.softmax(logits, 1)
    dlogits[torch.arange(len(y), device=y.device), y] -= 1
    dlogits /= len(y)
    grad_hs = (dlogits @ W_hq.T).view_as(hs)
    grad_W_xh, grad_W_hh, grad_b_h, grad_h0 = rnn_backward(
        grad_hs, None, hs, ids, W_xh.shape[0], W_hh, h0, relu, True, True, need_h0
    )
    return loss, h_last, grad_W_xh, grad_W_hh, grad_b_h, h.T @ dlogits, dlogits.sum(0), grad_h0


def train_step_(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V]
    grads: Sequence[Tensor],  # of the same shapes: overwritten
    h: Tensor,  # [B, H]: the state before and after
    lr: float,
    max_norm: float,
    relu: bool,
    keep_grads: bool = True,
) -> Tensor:
    """One step of training, in place: loss, gradients, d2l's clip, SGD.

    The gradients of `rnn_cross_entropy` go to `grads`, are scaled as `clip_grads_` does by d2l's
    rule, and param -= lr * grad. An infinite max_norm clips nothing. Without keep_grads, a backend
    may leave anything in `grads`; this one keeps them.

    Returns the loss before the step (0-dim).
    """
    W_xh, W_hh, b_h, W_hq, b_q = params
    loss, h_last, *new, _ = rnn_cross_entropy(
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h, relu, True, False
    )
    for grad, value in zip(grads, new, strict=True):
        grad.copy_(value)
    if max_norm != float("inf"):
        clip_grads_(grads, max_norm, True)
    for param, grad in zip(params, grads, strict=True):
        param.sub_(lr * grad)
    h.copy_(h_last)
    return loss


def train_steps_(
    ids: Sequence[Tensor],  # [B, T] each, as data loaders give them; T may differ
    targets: Sequence[Tensor],  # of the same shapes
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V]
    grads: Sequence[Tensor],  # of the same shapes: overwritten
    h: Tensor,  # [B, H]: the state before and after
    lr: float,
    max_norm: float,
    relu: bool,
    keep_grads: bool = True,
) -> Tensor:
    """`train_step_` for one minibatch after another. keep_grads: those of the last.

    Returns the losses [n]. A backend refuses what does not fit before the first of the steps.
    """
    rest = (params, grads, h, lr, max_norm, relu, keep_grads)
    losses = [train_step_(X.T, Y.T, *rest) for X, Y in zip(ids, targets, strict=True)]
    return torch.stack(losses)


def clip_grads_(grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
    """Scale gradients in place by their common 2-norm, without a host synchronisation.

    norm = sqrt(sum g^2), summed in float64, so that squares do not overflow float32.
    d2l's rule: multiply by max_norm / norm where norm > max_norm (a NaN norm changes nothing).
    torch's rule: always multiply by min(1, max_norm / (norm + 1e-6)).

    Returns the norm before the scaling, a 0-dim tensor of the first gradient's dtype.
    """
    # Apple's GPUs have no float64
    wide = torch.float32 if grads[0].device.type == "mps" else torch.float64
    norms = [torch.linalg.vector_norm(g, dtype=wide).to(grads[0].device) for g in grads]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    if d2l:
        scale = torch.where(norm > max_norm, max_norm / norm, torch.ones_like(norm))
    else:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.to(g.device, g.dtype))
    return norm.to(grads[0].dtype)


def decode(
    first: Tensor,  # [B]
    W_xh: Tensor,  # [V, H]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor,  # [H]
    W_hq: Tensor,  # [H, V]
    b_q: Tensor,  # [V]
    h0: Tensor,  # [B, H]
    steps: int,
    temperature: float,
    uniforms: Tensor | None,  # [steps, B]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Feed each step's output back as the next input, `steps` times.

    h = act(W_xh[id] + h @ W_hh + b_h); logits = h @ W_hq + b_q; the next id is argmax(logits), or,
    when uniforms are given, the first index whose cumulative probability under
    softmax(logits / temperature) exceeds the step's uniform number.

    Returns ids [steps, B] (int64) and h_last [B, H].
    """
    act = torch.relu if relu else torch.tanh
    ids, h, out = first, h0.clone(), []
    for step in range(steps):
        h = act(_gather(W_xh, ids) + h @ W_hh + b_h)
        logits = h @ W_hq + b_q
        if uniforms is None:
            ids = logits.argmax(1)
        else:
            ids = _inverse_cdf(torch.softmax(logits / temperature, 1), uniforms[step])
        out.append(ids)
    return (torch.stack(out) if out else first.new_empty((0, first.shape[0]))), h


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """First index whose cumulative probability exceeds u; rounding never picks a zero one."""
    cumulative = probabilities.cumsum(1)
    chosen = (cumulative <= uniforms.to(cumulative.dtype).unsqueeze(1)).sum(1)
    positive = torch.arange(probabilities.shape[1], device=probabilities.device)
    last = torch.where(probabilities > 0, positive, 0).amax(1)
    return torch.minimum(chosen, last)


def _gather(table: Tensor, ids: Tensor) -> Tensor:
    """table[ids], bit-equal to one-hot times table. On a GPU torch's kernel asserts the range."""
    try:
        return torch.nn.functional.embedding(ids, table)
    except IndexError:
        if ids.min() < 0:
            what, rule = ids.min().item(), "non-negative."
        else:
            what, rule = ids.max().item(), "smaller than num_classes."
        raise RuntimeError(
            f"Class values must be {rule} An id is {what}, num_classes is {table.shape[0]}."
        ) from None


def _scatter_add(dz: Tensor, ids: Tensor, V: int) -> Tensor:
    table = dz.new_zeros((V, dz.shape[-1]))
    return table.index_add(0, ids.reshape(-1), dz.flatten(0, 1))


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
