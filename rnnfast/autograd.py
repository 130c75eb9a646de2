"""The autograd Functions over backends that torch cannot differentiate by itself: one per operator.

Their saved tensors carry version counters and are freed by the backward pass, so that eager's
errors about both come free. Where the backward pass is itself differentiated, the reference, which
torch can differentiate, takes over.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rnnfast import dispatch
from rnnfast.backends import reference


class RNN(torch.autograd.Function):
    """The recurrence over a backend that torch cannot differentiate by itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        ids: Tensor | None,
        W_hh: Tensor,
        b_h: Tensor | None,
        h0: Tensor,
        relu: bool,
        backend: ModuleType,
    ) -> tuple[Tensor, Tensor]:
        hs, h_last = backend.rnn_forward(x, ids, W_hh, b_h, h0, relu)
        ctx.save_for_backward(hs, ids, W_hh, h0)
        ctx.set_materialize_grads(False)
        ctx.V, ctx.relu, ctx.backend = x.shape[0], relu, backend
        return hs, h_last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hs, ids, W_hh, h0 = ctx.saved_tensors
        backend = ctx.backend
        if _is_differentiated():
            backend = reference
        need_x, _, need_W_hh, need_b_h, need_h0, _, _ = ctx.needs_input_grad
        grad_x, grad_W_hh, grad_b_h, grad_h0 = backend.rnn_backward(
            *grads, hs, ids, ctx.V, W_hh, h0, ctx.relu, need_W_hh, need_b_h, need_h0
        )
        return (
            grad_x if need_x else None,
            None,
            grad_W_hh if need_W_hh else None,
            grad_b_h if need_b_h else None,
            grad_h0 if need_h0 else None,
            None,
            None,
        )


class RNNLogits(torch.autograd.Function):
    """The recurrence with its readout. hs is a result, so that it can be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        ids: Tensor | None,
        W_hh: Tensor,
        b_h: Tensor | None,
        W_hq: Tensor,
        b_q: Tensor,
        h0: Tensor,
        relu: bool,
        backend: ModuleType,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, h_last, hs = backend.rnn_logits(x, ids, W_hh, b_h, W_hq, b_q, h0, relu)
        ctx.save_for_backward(hs, ids, W_hh, W_hq, h0)
        ctx.set_materialize_grads(False)
        ctx.V, ctx.relu, ctx.backend = x.shape[0], relu, backend
        return logits, h_last, hs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hs, ids, W_hh, W_hq, h0 = ctx.saved_tensors
        backend = ctx.backend
        if _is_differentiated():
            backend = reference
        grad_logits, grad_h_last, grad_hs = grads
        needed = ctx.needs_input_grad
        needs = (ctx.relu, needed[2], needed[3], needed[6])
        if grad_logits is None:
            made = backend.rnn_backward(grad_hs, grad_h_last, hs, ids, ctx.V, W_hh, h0, *needs)
            grad_W_hq = grad_b_q = None
        else:
            *made, grad_W_hq, grad_b_q = backend.rnn_logits_backward(
                *grads, hs, ids, ctx.V, W_hh, W_hq, h0, *needs
            )
        grad_x, grad_W_hh, grad_b_h, grad_h0 = made
        kept = (grad_x, None, grad_W_hh, grad_b_h, grad_W_hq, grad_b_q, grad_h0)
        wanted = (grad if need else None for grad, need in zip(kept, needed[:7], strict=True))
        return (*wanted, None, None)


class RNNCrossEntropy(torch.autograd.Function):
    """The loss of a minibatch; its gradients are made by the forward pass and handed out once."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *inputs, relu, backend = args  # ids, targets, the five parameters, h0
        loss, h_last, *grads = backend.rnn_cross_entropy(
            *inputs, relu, True, ctx.needs_input_grad[7]
        )
        ctx.save_for_backward(*inputs)
        # not among the saved tensors: autograd then takes them as .grad without a copy
        ctx.grads, ctx.relu, ctx.backend = grads, relu, backend
        ctx.mark_non_differentiable(h_last)
        return loss, h_last

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, scale, needed = ctx.saved_tensors, grad_outputs[0], ctx.needs_input_grad[2:8]
        if _is_differentiated():
            grads = _differentiable_grads(inputs, ctx.relu, needed)
        elif ctx.grads is not None:
            grads, ctx.grads = ctx.grads, None
        else:  # a second pass over a retained graph
            _, _, *grads = ctx.backend.rnn_cross_entropy(*inputs, ctx.relu, True, needed[-1])
        if torch.compiler.is_compiling() or scale.device.type != "cpu" or scale != 1:
            grads = [grad * scale for grad in grads]
        kept = (grad if need else None for grad, need in zip(grads, needed, strict=True))
        return (None, None, *kept, None, None)


def _differentiable_grads(
    inputs: tuple[Tensor, ...], relu: bool, needed: tuple[bool, ...]
) -> list[Tensor]:
    ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0 = inputs
    loss, *_ = reference.rnn_cross_entropy(
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0, relu, False, False
    )
    wanted = [tensor for tensor, need in zip(inputs[2:], needed, strict=True) if need]
    grads = iter(torch.autograd.grad(loss, wanted, create_graph=True))
    return [next(grads) if need else loss for need in needed]


def _is_differentiated() -> bool:
    """Whether this backward pass runs under create_graph=True; warns of the fallback, once.

    A kernel's result would be a constant to the second derivative: silently wrong.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    dispatch.warn_fallback("the backward pass is itself being differentiated")
    return True
