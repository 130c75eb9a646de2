"""A network's loss, gradients and training steps by any backend, held against the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64


def make(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """ids and targets, strided as a transposed minibatch is; parameters and, last, the state."""
    T, B, H, V = shape
    sizes = [(V, H), (H, H), (H,), (H, V), (V,), (B, H)]
    values = [(torch.randn(s, dtype=torch.float64) * 0.9 / s[0] ** 0.5).to(dtype) for s in sizes]
    ids, targets = torch.randint(V, (2, B, T)).transpose(1, 2)
    return ids, targets, values


def reordered(values: list[Tensor], order: Tensor) -> list[Tensor]:
    """Parameters and state of the same network, its hidden units in another order.

    It sums in another order: its distance from the original is what rounding alone does, in
    float64 too, in which the reference would otherwise be its own truth.
    """
    W_xh, W_hh, b_h, W_hq, b_q, h = values
    return [W_xh[:, order], W_hh[order][:, order], b_h[order], W_hq[order], b_q, h[:, order]]


def loss_and_gradients(
    backend: object, ids: Tensor, targets: Tensor, values: list[Tensor], relu: bool
) -> list[Tensor]:
    """Loss, then the gradients by parameters and state; last the new state."""
    loss, h_last, *grads = untyped.rnn_cross_entropy(
        backend, ids, targets, *values, relu, True, True
    )  # type: ignore[attr-defined]
    return [*grads, h_last, loss]


def whole_step(
    backend: object, ids: Tensor, targets: Tensor, values: list[Tensor], max_norm: float
) -> list[Tensor]:
    """Parameters and state after the step, the gradients, the loss."""
    *params, h = [v.clone() for v in values]
    grads = [torch.full_like(p, float("nan")) for p in params]
    loss = untyped.train_step_(backend, ids, targets, params, grads, h, 0.5, max_norm, False)  # type: ignore[attr-defined]
    return [*params, h, *grads, h, loss]


def check(
    run, argument, shape: tuple[int, ...], dtype: torch.dtype, backend: object = native
) -> list[Tensor]:
    """Every result of `run` is as near to float64 as the reference's; the backend's results."""
    ids, targets, values = make(shape, dtype)
    order = torch.randperm(shape[2])
    got = run(backend, ids, targets, values, argument)
    truth = run(reference, ids, targets, [v.double() for v in values], argument)
    same = run(reference, ids, targets, reordered(values, order), argument)
    back = order.argsort()
    for i in range(0, len(got) - 2, 6):
        same[i : i + 6] = reordered(same[i : i + 6], back)
    if run is loss_and_gradients:
        same[6] = same[6][:, back]  # the new state
    for i, (a, b, c) in enumerate(zip(got, same, truth, strict=True)):
        assert_close_to_f64(f"result {i}", a, b, c)
    for a, b in zip(got, run(backend, ids, targets, values, argument), strict=True):
        assert torch.equal(a, b), "other bits on the second run"
    return got
