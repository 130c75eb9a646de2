"""Triton kernels: CUDA tensors in float32, bfloat16 or float16, or CPU tensors in its interpreter.

The portable path for GPUs. W_hh that fits one program (H to 128 in float32, to 256 in half
precision) stays in its registers for the whole sequence; a larger one costs a matrix product for
each step. Sums are float32 at least, and no result depends on the order in which programs run.

An id or target out of range is never read with: it makes the state, or the loss, NaN. To raise an
error instead would mean to wait for the device.

Triton is imported, and a kernel compiled, on first use: about half a second each, kept on disk.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from rnnfast.backends import (
    Adjoint,
    Backend,
    CrossEntropy,
    Decoding,
    Gradients,
    Params,
    Recurrence,
    TrainSteps,
)
from rnnfast.backends.reference import added_to
from rnnfast.backends.triton import checks

_PLAIN = torch.contiguous_format


def is_interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 has Triton run its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


class Triton(Backend):
    """Triton: the recurrence in few launches, H to 128 (half precision: 256) in one program."""

    name, device, dtypes = "triton", "cuda", checks.DTYPES

    def stands_in(self) -> bool:
        return is_interpreted()

    def load_error(self) -> str:
        """Does not import Triton."""
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed (a CUDA build of torch on Linux brings it)"
        if self.stands_in():
            return ""
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if torch.version.cuda:
            major, minor = torch.cuda.get_device_capability()
            if major < 8:
                return f"the GPU is of compute capability {major}.{minor}, older than 8.0"
        return ""

    def variants(
        self, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int] | None
    ) -> list[str]:
        """Where W_hh lies at this H, or at any."""
        from rnnfast.backends.triton import recurrence

        return recurrence.explain(device, dtype, sizes[0] if sizes else None)

    def rnn_forward(self, r: Recurrence, saves: bool = True) -> tuple[Tensor, Tensor, None]:
        """`Reference.rnn_forward`: one launch, or two for each step above the largest H.

        Products are rounded by torch.set_float32_matmul_precision, whether or not it saves.
        """
        T, B = checks.check_recurrence(r.x, r.ids, r.W_hh, r.b_h, r.h0)
        hs = r.h0.new_empty((T, B, r.h0.shape[1]))
        h_last = torch.empty_like(r.h0, memory_format=_PLAIN)
        _forward(r, hs, h_last)
        return hs, h_last, None

    def rnn_backward(self, a: Adjoint) -> Gradients:
        """`Reference.rnn_backward`; not differentiable."""
        r, V, hs, _, grad_hs, grad_h_last, needs = a[:7]
        ids, h0 = r.ids, r.h0
        checks.check_recurrence(hs, None, r.W_hh, None, h0)
        T, B, H = hs.shape
        checks.check(h0, grad_hs=(grad_hs, (T, B, H)), grad_h_last=(grad_h_last, (B, H)))
        checks.check_ids(h0, ids=(ids, (T, B)))
        hs, empty = hs.contiguous(), hs.new_empty(0)
        dz = torch.empty_like(hs)
        grad_h0 = h0.new_empty((B, H)) if needs.h0 else None
        _backward(grad_hs, grad_h_last, hs, r.W_hh, r.cell, dz, grad_h0)
        grad_x, grad_W_hh, grad_b_h = dz, empty, hs.new_empty(H) if needs.b_h else None
        if ids is not None:
            from rnnfast.backends.triton import embedding

            grad_x = hs.new_empty((V, H))
            embedding.sum_by_id(dz, ids, grad_x, grad_b_h)
        elif grad_b_h is not None:
            torch.sum(dz, (0, 1), out=grad_b_h)
        if needs.W_hh:
            grad_W_hh = h0.T @ dz[0]
            grad_W_hh.addmm_(hs[:-1].flatten(0, 1).T, dz[1:].flatten(0, 1))
        kept = (empty if grad is None else grad for grad in (grad_b_h, grad_h0))
        return Gradients(grad_x, grad_W_hh, *kept)

    def rnn_cross_entropy(self, c: CrossEntropy) -> tuple[Tensor, ...]:
        """`Reference.rnn_cross_entropy`; logits are never written; not differentiable."""
        ids, params, h0 = c.ids, c.params, c.h0
        checks.check_model(ids, c.targets, params, h0)
        h_last, empty = torch.empty_like(h0, memory_format=_PLAIN), h0.new_empty(0)
        if not c.need_grads:
            from rnnfast.backends.triton import cross_entropy

            hs = h0.new_empty((*ids.shape, h0.shape[1]))
            W_xh, W_hh, b_h, W_hq, b_q = params
            _forward(Recurrence(c.cell, W_xh, ids, W_hh, b_h, h0), hs, h_last)
            readout = (W_hq.contiguous(), b_q.contiguous())
            loss = cross_entropy.mean(hs.flatten(0, 1), c.targets, *readout, None, None)
            return loss, h_last, *[empty] * 6
        new = [torch.empty_like(p, memory_format=_PLAIN) for p in params]
        grad_h0 = torch.empty_like(h0, memory_format=_PLAIN) if c.need_h0 else None
        loss = _gradients(c, h_last, new, grad_h0)
        return loss, h_last, *added_to(c.grads, new), empty if grad_h0 is None else grad_h0

    def train_steps_(self, s: TrainSteps) -> Tensor:
        """`Reference.train_steps_`: eleven launches a step to the largest H, none waited for.

        Contiguous tensors are written in place; others, or a gradient that overlaps one, through
        copies. Nothing depends on values on the host: a graph may capture it.
        """
        from rnnfast.backends.triton import clip_norm

        batches = list(s.minibatches())
        params, grads, h = s.params, s.grads, s.h
        for ids, targets in batches:
            checks.check_model(ids, targets, params, h)
        for i, (grad, param) in enumerate(zip(grads, params, strict=True)):
            checks.check(h, **{f"grads[{i}]": (grad, param.shape)})
        written = [*params, *grads, h]
        plain = all(t.is_contiguous() for t in written) and clip_norm.are_disjoint(written)
        work = written if plain else [t.contiguous().clone() for t in written]
        own_params, own_grads, own_h = work[:5], work[5:10], work[10]
        losses = []
        for batch in batches:
            call = CrossEntropy(s.cell, *batch, Params(*own_params), own_h)
            losses.append(_gradients(call, own_h, own_grads, None))
            clip_norm.sgd_(own_params, own_grads, s.lr, s.max_norm)
        if not plain:
            for target, value in zip(written, work, strict=True):
                target.copy_(value)
        torch.autograd.graph.increment_version((*params, *grads, h))
        return torch.stack(losses)

    def clip_grads_(self, grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
        """`Reference.clip_grads_`: two launches for all gradients of a dtype, none waited for."""
        from rnnfast.backends.triton import clip_norm

        checks.check_gradients(grads)
        norm = clip_norm.clip_(grads, max_norm, d2l)
        torch.autograd.graph.increment_version(grads)  # as torch's own in-place operations do
        return norm

    def decode(self, d: Decoding) -> tuple[Tensor, Tensor]:
        """`Reference.decode`: one launch; above H or V of 4096 several for each step."""
        from rnnfast.backends.triton import generate as kernels

        cell, first, params, h0, steps, temperature, uniforms = d
        B = h0.shape[0]
        checks.check_params(params, h0)
        checks.check_ids(h0, first=(first, (B,)))
        if steps < 0 or not 0 < temperature < float("inf"):
            raise RuntimeError(
                f"steps is {steps} and temperature {temperature}; steps must be at least 0, "
                "temperature positive and finite"
            )
        if uniforms is not None:
            checks.check_uniforms(uniforms, (steps, B), h0.device)
            uniforms = uniforms.contiguous()
        plain = [p.contiguous() for p in params]
        ids, h_last = first.new_empty((steps, B)), torch.empty_like(h0, memory_format=_PLAIN)
        fits = kernels.fits(h0.shape[1], len(params.b_q))
        run = kernels.decode if fits else kernels.decode_by_steps
        relu = cell == "relu"
        run(first.contiguous(), plain, h0.contiguous(), temperature, uniforms, relu, ids, h_last)
        return ids, h_last


triton = Triton()


def _forward(r: Recurrence, hs: Tensor, h_last: Tensor) -> None:
    """Fills hs [T, B, H], or [T + 1, B, H] with h0 first, and h_last, which may be h0."""
    from rnnfast.backends.triton import by_steps, recurrence

    how = recurrence.tiling(r.h0, r.cell == "relu")
    bias = None if r.b_h is None else r.b_h.contiguous()
    plain = {name: getattr(r, name).contiguous() for name in ("x", "W_hh", "h0")}
    r = r._replace(**plain, b_h=bias)
    if how is None:
        by_steps.forward(r, hs, h_last)
    else:
        recurrence.forward(r, hs, h_last, how)


def _backward(
    grad_hs: Tensor | None,
    grad_h_last: Tensor | None,
    hs: Tensor,
    W_hh: Tensor,
    cell: str,
    dz: Tensor,
    grad_h0: Tensor | None,
) -> None:
    """Fills dz [T, B, H] and, where it is given, grad_h0 [B, H]."""
    from rnnfast.backends.triton import by_steps, recurrence

    relu = cell == "relu"
    how, W_hh = recurrence.tiling(hs[0], relu), W_hh.contiguous()
    if how is None:
        by_steps.backward(grad_hs, grad_h_last, hs, W_hh, relu, dz, grad_h0)
        return
    if grad_hs is not None:
        grad_hs = grad_hs.contiguous()
    if grad_h_last is not None:
        grad_h_last = grad_h_last.contiguous()
    recurrence.backward(grad_hs, grad_h_last, hs, W_hh, dz, grad_h0, how)


def _gradients(
    c: CrossEntropy,
    h_last: Tensor,  # may be h0
    grads: Sequence[Tensor],
    grad_h0: Tensor | None,
) -> Tensor:
    """The loss; fills h_last, the contiguous grads and, where it is given, grad_h0."""
    from rnnfast.backends.triton import cross_entropy, embedding

    cell, ids, targets, params, h0, *_ = c
    W_xh, W_hh, b_h, W_hq, b_q = (p.contiguous() for p in params)
    grad_W_xh, grad_W_hh, grad_b_h, grad_W_hq, grad_b_q = grads
    (T, B), (H, V) = ids.shape, W_hq.shape
    states = h0.new_empty((T + 1, B, H))  # h_t at t + 1: both h and h before are views
    _forward(Recurrence(cell, W_xh, ids, W_hh, b_h, h0), states, h_last)
    hs, before = states[1:].view(T * B, H), states[:-1].view(T * B, H)
    dlogits, grad_hs = hs.new_empty((T * B, V)), torch.empty_like(hs)
    loss = cross_entropy.mean(hs, targets, W_hq, b_q, dlogits, grad_hs)
    torch.mm(hs.T, dlogits, out=grad_W_hq)
    torch.sum(dlogits, 0, out=grad_b_q)
    dz = h0.new_empty((T, B, H))
    _backward(grad_hs.view(T, B, H), None, states[1:], W_hh, cell, dz, grad_h0)
    embedding.sum_by_id(dz, ids, grad_W_xh, grad_b_h)
    torch.mm(before.T, dz.view(T * B, H), out=grad_W_hh)
    return loss
