"""One autograd Function per operator, for backends that torch cannot differentiate by itself.

They keep tensors by save_for_backward, so torch raises its own errors when one is changed in place
or the graph is used twice. Where the backward pass is itself differentiated, the reference takes
over, since torch can differentiate it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor

from rnnfast import dispatch
from rnnfast.backends import (
    Adjoint,
    Backend,
    CrossEntropy,
    Gradients,
    Needs,
    Params,
    Recurrence,
)
from rnnfast.backends.reference import reference
from rnnfast.backends.reference_recurrence import gather


def recur(backend: Backend, r: Recurrence) -> tuple[Tensor, Tensor]:
    """hs and h_last of a call, differentiable where a gradient may be wanted."""
    if not needs_grad(r):
        hs, h_last, _ = backend.rnn_forward(r, False)
    elif backend.is_differentiable:
        own = r._replace(ids=_copy(r.ids), resets=_copy(r.resets))
        hs, h_last, _ = backend.rnn_forward(own, True)
    else:
        hs, h_last, *_ = RNN.apply(r, backend, *tensors_of(r))  # type: ignore[no-untyped-call]
    return hs, h_last


def recur_with_noise(
    noise: float | Tensor, generator: torch.Generator | None, backend: Backend, r: Recurrence
) -> tuple[Tensor, Tensor]:
    """`recur` with noise in the inputs' projection, which the backend draws if it can."""
    seed = None if isinstance(noise, Tensor) else backend.seed_of_noise(generator)
    if seed is not None:
        return recur(backend, Recurrence(*r[:12], float(noise), seed))
    x = r.x if r.ids is None else gather(r.x, r.ids)
    drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return recur(backend, r._replace(x=x + noise * drawn, ids=None))


def needs_grad(r: Recurrence) -> bool:
    """Whether a gradient of a call may be wanted."""
    return torch.is_grad_enabled() and (
        r.x.requires_grad
        or r.W_hh.requires_grad
        or r.h0.requires_grad
        or (r.b_h is not None and r.b_h.requires_grad)
        or (r.leak is not None and r.leak.requires_grad)
    )


def _copy(tensor: Tensor | None) -> Tensor | None:
    """Of ids and resets: the caller may change them before the backward pass needs them."""
    return None if tensor is None else tensor.clone()


def tensors_of(r: Recurrence) -> tuple[Tensor | None, ...]:
    """What a gradient may be wanted of, as a Function must be shown it besides the call itself.

    Each argument of a Function takes torch 1 us; to hand over all fields took a small call 1.25
    times as long.
    """
    return r.x, r.W_hh, r.b_h, r.h0, r.leak


class RNN(torch.autograd.Function):
    """The recurrence over a backend that torch cannot differentiate by itself.

    What a leaky cell saves is a result, too, so that it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, r: Recurrence, backend: Backend, *tensors: Any) -> tuple[Tensor, ...]:
        hs, h_last, saved = backend.rnn_forward(r, True)
        ctx.save_for_backward(hs, saved, _copy(r.ids), r.W_hh, r.h0, r.leak)
        ctx.set_materialize_grads(False)
        options = (*r[6:9], _copy(r.resets), r.resets_to_h0)
        ctx.rest = (r.cell, options, r.x.shape[0], backend)
        return (hs, h_last) if saved is None else (hs, h_last, saved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hs, saved, ids, W_hh, h0, leak = ctx.saved_tensors
        cell, options, V, backend = ctx.rest
        fields = (cell, hs, ids, W_hh, None, h0, *options, leak)
        r = Recurrence(*fields)
        grad_hs, grad_h_last, *of_saved = grads
        needs = Needs(*ctx.needs_input_grad[3:])
        args = (V, hs, saved, grad_hs, grad_h_last, needs, *of_saved)
        x, W_hh, b_h, h0, leak = run_backward(backend, Adjoint(r, *args))
        # torch drops what is not wanted, but takes nothing for a tensor that was not there.
        return None, None, x, W_hh, b_h if needs.b_h else None, h0, leak


def run_backward(backend: Backend, a: Adjoint) -> Gradients:
    """`Backend.rnn_backward`, by the reference where no kernel can serve."""
    if needs_reference(a.grad_hs, a.grad_h_last) or a.grad_saved is not None:
        backend = reference
    return backend.rnn_backward(a)


class RNNLogits(torch.autograd.Function):
    """The recurrence with its readout. hs is a result, so that second derivatives pass it."""

    @staticmethod
    def forward(
        ctx: Any,
        r: Recurrence,
        backend: Backend,
        W_hq: Tensor,
        b_q: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, h_last, hs = backend.rnn_logits(r, W_hq, b_q, True)
        ctx.save_for_backward(hs, _copy(r.ids), r.W_hh, W_hq, r.h0)
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.V, ctx.backend = r.cell, r.x.shape[0], backend
        return logits, h_last, hs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hs, ids, W_hh, W_hq, h0 = ctx.saved_tensors
        backend = reference if needs_reference(*grads) else ctx.backend
        grad_logits, grad_h_last, grad_hs = grads
        r = Recurrence(ctx.cell, hs, ids, W_hh, None, h0)
        needs = Needs(*ctx.needs_input_grad[5:])
        call = Adjoint(r, ctx.V, hs, None, grad_hs, grad_h_last, needs)
        if grad_logits is None:
            made = backend.rnn_backward(call)
            grad_W_hq = grad_b_q = None
        else:
            made, grad_W_hq, grad_b_q = backend.rnn_logits_backward(call, W_hq, grad_logits)
        x, W_hh, b_h, h0, leak = made
        return None, None, grad_W_hq, grad_b_q, x, W_hh, b_h if needs.b_h else None, h0, leak


class RNNCrossEntropy(torch.autograd.Function):
    """The loss of a minibatch. The forward pass makes its gradients; they are handed out once."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        ids, targets, *params, h0, cell, backend = args
        need_h0 = ctx.needs_input_grad[7]
        call = CrossEntropy(cell, ids, targets, Params(*params), h0, need_h0=need_h0)
        loss, h_last, *grads = backend.rnn_cross_entropy(call)
        ctx.save_for_backward(ids, targets, *params, h0)
        # These are no saved tensors, so that autograd can take them as .grad without a copy.
        ctx.grads, ctx.cell, ctx.backend = grads, cell, backend
        ctx.mark_non_differentiable(h_last)
        return loss, h_last

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, scale, needed = ctx.saved_tensors, grad_outputs[0], ctx.needs_input_grad[2:8]
        if is_differentiated():
            grads = _differentiable_grads(inputs, ctx.cell, needed)
        elif ctx.grads is not None:
            grads, ctx.grads = ctx.grads, None
        else:  # a second pass over a retained graph
            ids, targets, *params, h0 = inputs
            need_h0 = needed[-1]
            call = CrossEntropy(ctx.cell, ids, targets, Params(*params), h0, need_h0=need_h0)
            _, _, *grads = ctx.backend.rnn_cross_entropy(call)
        if torch.compiler.is_compiling() or scale.device.type != "cpu" or scale != 1:
            grads = [grad * scale for grad in grads]
        kept = (grad if need else None for grad, need in zip(grads, needed, strict=True))
        return (None, None, *kept, None, None)


def _differentiable_grads(
    inputs: tuple[Tensor, ...], cell: str, needed: tuple[bool, ...]
) -> list[Tensor]:
    ids, targets, *params, h0 = inputs
    call = CrossEntropy(cell, ids, targets, Params(*params), h0, need_grads=False)
    loss, *_ = reference.rnn_cross_entropy(call)
    wanted = [tensor for tensor, need in zip(inputs[2:], needed, strict=True) if need]
    grads = iter(torch.autograd.grad(loss, wanted, create_graph=True))
    return [next(grads) if need else loss for need in needed]


def needs_reference(*grads: Tensor | None) -> bool:
    """Whether a backward pass is one for torch's own operations; warns of the fallback, once.

    Several vectors go through it at once under torch.func.vmap and with is_grads_batched=True, as
    torch.autograd.functional.jacobian has with vectorize=True.
    """
    if torch.compiler.is_compiling():
        return False
    for grad in grads:
        if grad is not None and (is_batchedtensor(grad) or is_legacy_batchedtensor(grad)):
            dispatch.warn_fallback("several vectors go through the backward pass at once")
            return True
    return is_differentiated()


def is_differentiated() -> bool:
    """Whether this backward pass runs under create_graph=True; warns of the fallback, once.

    To a second derivative a kernel's result is a constant, which would be silently wrong.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    dispatch.warn_fallback("the backward pass is itself being differentiated")
    return True
