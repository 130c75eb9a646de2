"""The recurrence of the specification and its adjoint, as loops over steps.

A step has as many rows as the batch, or fewer where sequences of different lengths are packed:
they are always the first ones, so that all the rest of a state stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnfast.backends import Gradients, Needs, Recurrence
from rnnfast.cells import CELLS, leaky


def forward(r: Recurrence) -> tuple[Tensor, Tensor, Tensor | None]:
    """All hidden states hs [T, B, H] (packed: [N, H]), h_last [B, H], and what `backward` needs.

    z_t = u_t + h_{t-1} @ W_hh + b_h, with u_t = x[ids_t] when ids are given and x_t otherwise, and
    h_t = act(z_t), or for a leaky cell (1 - leak) h_{t-1} + leak act(z_t). The sum is taken in the
    notebook's order, so that on one machine the result is bit-equal to its loop over one-hot
    vectors. h_last owns its storage. The third result is act(z) of a leaky cell [T, B, H], or None.
    """
    if r.W_hh.dim() == 3:
        return _both_forward(r)
    if r.h0.dim() == 3:
        all_hs, h_last, saved = forward(r._replace(h0=r.h0[0]))
        return all_hs, torch.stack((h_last,)), saved  # a copy, which may be changed in place
    cell, W = CELLS[r.cell], _weights(r)
    u = _steps(r.x if r.ids is None else gather(r.x, r.ids), r)
    h, hs, activities = r.h0, list(u), list(u)
    for t in _order(r, len(u)):
        before = _reset(r, t, h[: u[t].shape[0]])
        z = u[t] + before @ W
        activities[t] = cell.activation(z if r.b_h is None else z + r.b_h)
        hs[t] = activities[t] if r.leak is None else leaky.mix(before, activities[t], r.leak)
        h = _with_first_rows(h, hs[t])
    return _joined(hs, r), h, None if r.leak is None else _joined(activities, r)


def backward(
    r: Recurrence,
    V: int,  # rows of the table, where there are ids
    hs: Tensor,  # [T, B, H], packed [N, H]
    saved: Tensor | None,  # the third result of `forward`
    grad_hs: Tensor | None,  # [T, B, H], packed [N, H]
    grad_h_last: Tensor | None,  # [B, H]
    needs: Needs,
    grad_saved: Tensor | None = None,  # [T, B, H], packed [N, H]: by a second derivative alone
) -> Gradients:
    """The adjoint of `forward`, itself differentiable (this is the double backward).

    dz_t = (grad_hs_t + dz_{t+1} @ W_hh^T) * act'(z_t), with grad_h_last added at a row's last step;
    grad_x = dz, or its sum by id [V, H]; grad_W_hh = sum_t h_{t-1}^T dz_t; grad_b_h = sum dz;
    grad_h0 = what the first step and all resets to h0 send back.
    """
    if r.W_hh.dim() == 3:
        return _both_backward(r, hs, saved, grad_hs, grad_h_last, needs, grad_saved)
    if r.h0.dim() == 3:
        grad_h_last = None if grad_h_last is None else grad_h_last[0]
        args = (hs, saved, grad_hs, grad_h_last, needs, grad_saved)
        made = backward(r._replace(h0=r.h0[0]), V, *args)
        return made._replace(h0=made.h0[None]) if needs.h0 else made
    cell, W = CELLS[r.cell], _weights(r)
    states = _steps(hs, r)
    activities = states if saved is None else _steps(saved, r)
    before = _states_before(r, states)
    given = [torch.zeros_like(h) for h in states] if grad_hs is None else _steps(grad_hs, r)
    beside = None if grad_saved is None else _steps(grad_saved, r)
    carry = torch.zeros_like(r.h0) if grad_h_last is None else grad_h_last
    reset_grad = torch.zeros_like(r.h0)
    dz, leak_grads = list(states), []
    for t in reversed(_order(r, len(states))):
        dh = carry[: states[t].shape[0]] + given[t]
        through = torch.zeros_like(dh)
        if r.leak is not None:
            through, dh, grad_leak = leaky.mix_backward(dh, before[t], activities[t], r.leak)
            if needs.leak:
                leak_grads.append(grad_leak)
            dh = dh if beside is None else dh + beside[t]
        dz[t] = cell.backward(dh, activities[t])
        through = through + dz[t] @ W.T
        if r.resets is not None:
            was_reset = r.resets[t, : len(through), None]
            zero = torch.zeros_like(through)
            sent = torch.where(was_reset, through, zero)
            reset_grad = reset_grad + _with_first_rows(torch.zeros_like(r.h0), sent)
            through = torch.where(was_reset, zero, through)
        carry = _with_first_rows(carry, through)
    dzs, empty = torch.cat(dz), hs.new_empty(0)
    grad_W = torch.cat(before).T @ dzs if needs.W_hh else empty
    grad_h0 = carry + reset_grad if r.resets_to_h0 else carry
    return Gradients(
        dzs.view_as(hs) if r.ids is None else scatter_add(dzs, r.ids, V),
        grad_W.T if needs.W_hh and r.transposed else grad_W,
        dzs.view_as(hs).sum(tuple(range(hs.dim() - 1))) if needs.b_h else empty,
        grad_h0 if needs.h0 else empty,
        torch.stack(leak_grads).sum(0) if leak_grads else None,
    )


def gather(table: Tensor, ids: Tensor) -> Tensor:
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


def scatter_add(dz: Tensor, ids: Tensor, V: int) -> Tensor:
    """The adjoint of `gather`: the sums of dz [N, H] by id [V, H]."""
    return dz.new_zeros((V, dz.shape[-1])).index_add(0, ids.reshape(-1), dz)


def _weights(r: Recurrence) -> Tensor:
    return r.W_hh.T if r.transposed else r.W_hh


def _order(r: Recurrence, T: int) -> range:
    """The steps as they follow each other."""
    return range(T - 1, -1, -1) if r.reverse else range(T)


def _steps(rows: Tensor, r: Recurrence) -> Sequence[Tensor]:
    """[T, B, H] or packed [N, H] as one tensor a step."""
    return rows.unbind(0) if r.batch_sizes is None else rows.split(r.batch_sizes.tolist())


def _joined(steps: list[Tensor], r: Recurrence) -> Tensor:
    return torch.stack(steps) if r.batch_sizes is None else torch.cat(steps)


def _with_first_rows(h: Tensor, rows: Tensor) -> Tensor:
    """h with its first rows replaced."""
    return rows if len(rows) == len(h) else torch.cat((rows, h[len(rows) :]))


def _reset(r: Recurrence, t: int, h: Tensor) -> Tensor:
    """The state of the rows of step t, where it is to be replaced before that step."""
    if r.resets is None:
        return h
    start = r.h0[: len(h)] if r.resets_to_h0 else torch.zeros_like(h)
    return torch.where(r.resets[t, : len(h), None], start, h)


def _states_before(r: Recurrence, states: Sequence[Tensor]) -> list[Tensor]:
    """What each step's product read: the last step's states, h0 in rows that only begin."""
    before, last = list(states), r.h0[:0]
    for t in _order(r, len(states)):
        n = len(states[t])
        follows = last[:n] if len(last) >= n else torch.cat((last, r.h0[len(last) : n]))
        before[t], last = _reset(r, t, follows), states[t]
    return before


def _directions(r: Recurrence) -> list[Recurrence]:
    """A call for both directions as one for each."""
    leaks = (None, None) if r.leak is None else r.leak
    biases = (None, None) if r.b_h is None else r.b_h
    return [
        r._replace(x=x, W_hh=W_hh, b_h=b_h, h0=h0, leak=leak, reverse=reverse)
        for x, W_hh, b_h, h0, leak, reverse in zip(
            r.x.chunk(2, -1), r.W_hh, biases, r.h0, leaks, (False, True), strict=True
        )
    ]


def _both_forward(r: Recurrence) -> tuple[Tensor, Tensor, Tensor | None]:
    results = [forward(one) for one in _directions(r)]
    hs, h_last, saved = zip(*results, strict=True)
    return torch.cat(hs, -1), torch.stack(h_last), None if r.leak is None else torch.cat(saved, -1)


def _both_backward(
    r: Recurrence,
    hs: Tensor,
    saved: Tensor | None,
    grad_hs: Tensor | None,
    grad_h_last: Tensor | None,
    needs: Needs,
    grad_saved: Tensor | None,
) -> Gradients:
    def halves(both: Tensor | None) -> Sequence[Tensor | None]:
        return (None, None) if both is None else both.chunk(2, -1)

    last = (None, None) if grad_h_last is None else grad_h_last
    cut = (_directions(r._replace(x=hs, b_h=None)), halves(hs), halves(saved), halves(grad_hs))
    made = [
        backward(one, 0, hs_, saved_, grad, grad_last, needs, beside)
        for one, hs_, saved_, grad, grad_last, beside in zip(
            *cut, last, halves(grad_saved), strict=True
        )
    ]
    x, W_hh, b_h, h0, leak = zip(*made, strict=True)
    return Gradients(
        torch.cat(x, -1),
        torch.stack(W_hh),
        torch.stack(b_h),
        torch.stack(h0),
        None if leak[0] is None else torch.stack(leak),
    )
