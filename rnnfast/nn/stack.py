"""All layers of `RNN`, one above the other, as a single node of autograd.

With a node for each layer, and more that take the states apart and put them together, a small call
takes a third longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnfast.nn import layer
from rnnfast.nn.layer import Adjoint, Call, Wanted


def run(
    calls: Sequence[Call],  # one for each layer
    x: Tensor,  # [T, B, I], packed [N, I]; ids without I
    hx: Tensor,  # [layers * D, B, H], or [D, B, H], from which all layers start
    leak: Tensor | None,  # [H], of both directions [2, H]
    weights: Sequence[Tensor],  # of each layer as `layer.forward` takes them
) -> tuple[Tensor, Tensor]:
    """hs of the last layer [T, B, D * H] (packed [N, D * H]), and the last states like hx."""
    wants_grad = torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (x, hx, leak, *weights)
    )
    if wants_grad and x.dtype == torch.int64:
        x = x.clone()  # the caller may change the ids
    if wants_grad and not calls[0].backend.is_differentiable:
        h_n, *hs = _Stack.apply(calls, x, hx, leak, *weights)  # type: ignore[no-untyped-call]
    else:
        h_n, hs, _ = _forward(calls, wants_grad, x, hx, leak, weights)
    return hs[len(calls) - 1], h_n


class _Stack(torch.autograd.Function):
    """What the layers save is a result, so that it can be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any,
        calls: Sequence[Call],
        x: Tensor,
        hx: Tensor,
        leak: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        h_n, hs, activities = _forward(calls, True, x, hx, leak, weights)
        k = len(weights) // (len(calls) * calls[0].D)  # weights of a direction
        matrices = [each for i, each in enumerate(weights) if i % k < 2]
        ctx.save_for_backward(x, hx, leak, *matrices, *hs, *activities)
        ctx.set_materialize_grads(False)
        ctx.calls = calls
        return h_n, *hs, *activities

    @staticmethod
    def backward(
        ctx: Any,
        grad_h_n: Tensor | None,
        *grads: Tensor | None,  # of hs, and by a second derivative alone of the activities
    ) -> tuple[Tensor | None, ...]:
        calls, needed = ctx.calls, ctx.needs_input_grad
        L, D = len(calls), calls[0].D
        x, hx, leak, *saved = ctx.saved_tensors
        matrices, hs, activities = (
            saved[: 2 * L * D],
            saved[2 * L * D :][:L],
            saved[2 * L * D + L :],
        )
        h0, grad_h_last = _apart(calls, hx), _apart(calls, grad_h_n)
        of_layer = (len(needed) - 4) // L
        grad, grad_leak = None, None
        grad_h0: list[Tensor | None] = [None] * L
        grad_weights: list[Tensor | None] = [None] * (len(needed) - 4)
        for i in reversed(range(L)):
            begin, end = i * of_layer, (i + 1) * of_layer
            is_lowest = not any(needed[1 : 4 + begin]) if i > 0 else not needed[1]
            wanted = _wanted(not is_lowest, needed[2], needed[3], needed[4 + begin : 4 + end], D)
            grad = _sum(grad, grads[i])
            adjoint = Adjoint(
                hs[i - 1] if i > 0 else x,
                h0[i],
                leak,
                matrices[2 * D * i : 2 * D * (i + 1)],
                hs[i],
                activities[i] if activities else None,
                grad,
                grad_h_last[i],
                grads[L + i] if activities else None,
                wanted,
            )
            grad, grad_h0[i], of_leak, grad_weights[begin:end] = layer.backward(calls[i], adjoint)
            grad_leak = _sum(grad_leak, of_leak)
            if is_lowest:
                break
        grad_hx = _together(grad_h0) if needed[2] else None
        return None, grad, grad_hx, grad_leak, *grad_weights


def _forward(
    calls: Sequence[Call],
    saves: bool,
    x: Tensor,
    hx: Tensor,
    leak: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The last states of all layers, and their hs and, where the cell is leaky, act(z)."""
    last, all_hs, activities = [], [], []
    of_layer = len(weights) // len(calls)
    for i, (call, h0) in enumerate(zip(calls, _apart(calls, hx), strict=True)):
        own = weights[i * of_layer : (i + 1) * of_layer]
        x, h_last, activity = layer.forward(call, saves, x, h0, leak, own)
        last.append(h_last)
        all_hs.append(x)
        if activity is not None:
            activities.append(activity)
    return _together(last), all_hs, activities


def _wanted(x: bool, h0: bool, leak: bool, weights: tuple[bool, ...], D: int) -> Wanted:
    """weights: which of a layer's are wanted."""
    k = len(weights) // D
    b = any(weights[2::k] + weights[3::k]) if k == 4 else None
    return Wanted(x, h0, leak, any(weights[::k]), any(weights[1::k]), b)


def _apart(calls: Sequence[Call], states: Tensor | None) -> Sequence[Any]:
    """Of [layers * D, B, H] each layer's [D, B, H]."""
    if states is None or len(states) == calls[0].D:
        return [states] * len(calls)
    return states.chunk(len(calls))


def _together(states: list[Any]) -> Tensor:
    """The inverse of `_apart`. A single layer's are taken as they are, without a copy."""
    return torch.cat(states) if len(states) > 1 else states[0]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
