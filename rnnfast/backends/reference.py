"""The specification: plain torch loops, any floating dtype, any device, differentiated by torch.

Every other backend must agree with this file. It is also what runs where no other backend can.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnfast.backends import (
    Adjoint,
    Backend,
    Call,
    CrossEntropy,
    Decoding,
    Gradients,
    Needs,
    Params,
    Recurrence,
    TrainSteps,
    reference_recurrence,
)
from rnnfast.backends.reference_recurrence import gather
from rnnfast.cells import CELLS


class Reference(Backend):
    """Plain torch operations, which would broadcast some arguments that do not fit."""

    name = "reference"
    is_differentiable = True

    def why_not(self, call: Call) -> list[str]:
        if not call.dtype.is_floating_point:
            return [f"the dtype is {call.dtype}, not a floating point one"]
        return []

    def rnn_forward(
        self, r: Recurrence, saves: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `reference_recurrence`."""
        return reference_recurrence.forward(r)

    def rnn_backward(self, a: Adjoint) -> Gradients:
        """See `reference_recurrence`; it is itself differentiable, for the double backward."""
        return reference_recurrence.backward(*a)

    def rnn_logits(
        self, r: Recurrence, W_hq: Tensor, b_q: Tensor, saves: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`rnn_forward` and its readout, one product over all steps."""
        hs, h_last, _ = self.rnn_forward(r, saves)
        return hs.flatten(0, 1) @ W_hq + b_q, h_last, hs

    def rnn_logits_backward(
        self, a: Adjoint, W_hq: Tensor, grad_logits: Tensor
    ) -> tuple[Gradients, Tensor, Tensor]:
        """The adjoint of `rnn_logits`, itself differentiable.

        Returns the gradients that `rnn_backward` makes, grad_W_hq = sum h_t^T grad_logits_t [H, V],
        and grad_b_q = sum grad_logits_t [V].
        """
        through = (grad_logits @ W_hq.T).view_as(a.hs)
        if a.grad_hs is not None:
            through = through + a.grad_hs
        grads = self.rnn_backward(a._replace(grad_hs=through))
        return grads, a.hs.flatten(0, 1).T @ grad_logits, grad_logits.sum(0)

    def rnn_cross_entropy(self, c: CrossEntropy) -> tuple[Tensor, ...]:
        """The recurrence, its readout and the mean cross-entropy, with the gradients of the mean.

        loss = mean over T * B of -log softmax(h_t @ W_hq + b_q)[target]; its derivative by the
        logits is (softmax - one_hot(target)) / (T * B), and from there on `rnn_backward`.

        Returns loss (0-dim), h_last [B, H], and the gradients of the params and of h0; those not
        needed are empty tensors.
        """
        W_xh, W_hh, b_h, W_hq, b_q = c.params
        r = Recurrence(c.cell, W_xh, c.ids, W_hh, b_h, c.h0)
        logits, h_last, hs = self.rnn_logits(r, W_hq, b_q)
        h, y = hs.flatten(0, 1), c.targets.reshape(-1)
        loss = torch.nn.functional.cross_entropy(logits, y)
        if not c.need_grads:
            return loss, h_last, *[hs.new_empty(0)] * 6
        dlogits = torch.softmax(logits, 1)
        dlogits[torch.arange(len(y), device=y.device), y] -= 1
        dlogits /= len(y)
        grad_hs = (dlogits @ W_hq.T).view_as(hs)
        needs = Needs(h0=c.need_h0)
        made = self.rnn_backward(Adjoint(r, W_xh.shape[0], hs, None, grad_hs, None, needs))
        new = [made.x, made.W_hh, made.b_h, h.T @ dlogits, dlogits.sum(0)]
        return loss, h_last, *added_to(c.grads, new), made.h0

    def train_steps_(self, s: TrainSteps) -> Tensor:
        """Steps of training, in place: loss, gradients, d2l's clip, SGD.

        The gradients of `rnn_cross_entropy` go to `grads`, are scaled as `clip_grads_` does by
        d2l's rule, and param -= lr * grad. An infinite max_norm clips nothing. Without keep_grads,
        a backend may leave anything in `grads`; this one keeps them.

        Returns the losses before each step [n]. A backend refuses what does not fit before the
        first of the steps.
        """
        losses = []
        for ids, targets in s.minibatches():
            call = CrossEntropy(s.cell, ids, targets, Params(*s.params), s.h)
            loss, h_last, *new, _ = self.rnn_cross_entropy(call)
            for grad, value in zip(s.grads, new, strict=True):
                grad.copy_(value)
            if s.max_norm != float("inf"):
                self.clip_grads_(s.grads, s.max_norm, True)
            for param, grad in zip(s.params, s.grads, strict=True):
                param.sub_(s.lr * grad)
            s.h.copy_(h_last)
            losses.append(loss)
        return torch.stack(losses)

    def clip_grads_(self, grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
        """Scale gradients in place by their common 2-norm, without a host synchronisation.

        norm = sqrt(sum g^2), summed in float64, so that squares do not overflow float32.
        d2l's rule: multiply by max_norm / norm where norm > max_norm (a NaN norm changes nothing).
        torch's rule: always multiply by min(1, max_norm / (norm + 1e-6)).

        Returns the norm before the scaling, a 0-dim tensor of the first gradient's dtype.
        """
        # Apple's GPUs have no float64.
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

    def decode(self, d: Decoding) -> tuple[Tensor, Tensor]:
        """Feed each step's output back as the next input, `steps` times.

        h = act(W_xh[id] + h @ W_hh + b_h); logits = h @ W_hq + b_q; the next id is argmax(logits),
        or, when uniforms are given, the first index whose cumulative probability under
        softmax(logits / temperature) exceeds the step's uniform number.

        Returns ids [steps, B] (int64) and h_last [B, H].
        """
        W_xh, W_hh, b_h, W_hq, b_q = d.params
        act = CELLS[d.cell].activation
        ids, h, out = d.first, d.h0.clone(), []
        for step in range(d.steps):
            h = act(gather(W_xh, ids) + h @ W_hh + b_h)
            logits = h @ W_hq + b_q
            if d.uniforms is None:
                ids = logits.argmax(1)
            else:
                ids = _inverse_cdf(probabilities(logits, d.temperature), d.uniforms[step])
            out.append(ids)
        return (torch.stack(out) if out else ids.new_empty((0, ids.shape[0]))), h


#: a temperature as low as any: below it 1 / temperature is infinite in float32, and 0 * inf a NaN
LEAST_TEMPERATURE = torch.finfo(torch.float32).tiny

reference = Reference()


def added_to(grads: Sequence[Tensor] | None, new: Sequence[Tensor]) -> Sequence[Tensor]:
    """New gradients, or `grads` with them added."""
    if grads is None:
        return new
    torch._foreach_add_(list(grads), list(new))
    return grads


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), also where that quotient would overflow."""
    below_maximum = logits - logits.amax(1, keepdim=True)
    return torch.softmax(below_maximum / max(temperature, LEAST_TEMPERATURE), 1)


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """First index whose cumulative probability exceeds u; rounding never picks a zero one."""
    cumulative = probabilities.cumsum(1)
    chosen = (cumulative <= uniforms.to(cumulative.dtype).unsqueeze(1)).sum(1)
    positive = torch.arange(probabilities.shape[1], device=probabilities.device)
    last = torch.where(probabilities > 0, positive, 0).amax(1)
    return torch.minimum(chosen, last)
