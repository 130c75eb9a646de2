"""The operators of `csrc/ops/` as backends: the CPU's, and what CUDA's shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from rnnfast.backends import (
    WIDE,
    Adjoint,
    Backend,
    CrossEntropy,
    Decoding,
    Gradients,
    Recurrence,
    TrainSteps,
    library,
)
from rnnfast.backends.reference import added_to
from rnnfast.cells import CELLS


class Compiled(Backend):
    """Each method calls an operator, which torch dispatches by device and cannot differentiate."""

    dtypes = WIDE
    features = frozenset((*Recurrence._field_defaults, "both_directions")) - {"noise", "seed"}

    def ops(self, tensor: Tensor) -> Any:
        """The operators for tensors like this one."""
        return torch.ops.rnnfast

    def rnn_forward(self, r: Recurrence, saves: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `Reference.rnn_forward`, by one operator."""
        code = CELLS[r.cell].code
        if r.is_plain:  # the overload for it takes 1.5 us less
            hs, h_last = self.ops(r.x).rnn.plain(*r[1:6], code, r.transposed)
            return hs, h_last, None
        hs, h_last, saved = self.ops(r.x).rnn.default(*r[1:6], code, *r[6:], saves)
        return hs, h_last, saved if saves and r.leak is not None else None

    def rnn_backward(self, a: Adjoint) -> Gradients:
        """As `Reference.rnn_backward`, by one operator."""
        r, op = a.call, self.ops(a.hs).rnn_backward
        args = (a.grad_hs, a.grad_h_last, a.hs, r.ids, a.V, r.W_hh, r.h0, CELLS[r.cell].code)
        if r.is_plain:
            return Gradients(*op.plain(*args, *a.needs[:3], r.transposed))
        needs_leak = a.needs.leak and r.leak is not None
        x, W_hh, b_h, h0, leak = op.default(*args, *a.needs[:3], *r[6:12], a.saved, needs_leak)
        return Gradients(x, W_hh, b_h, h0, leak if needs_leak else None)

    def rnn_cross_entropy(self, c: CrossEntropy) -> tuple[Tensor, ...]:
        """As `Reference.rnn_cross_entropy`, by one operator that keeps no logits."""
        code = CELLS[c.cell].code
        made: tuple[Tensor, ...] = self.ops(c.h0).rnn_cross_entropy.default(
            c.ids, c.targets, *c.params, c.h0, code, c.need_grads, c.need_h0
        )
        return made if c.grads is None else (*made[:2], *added_to(c.grads, made[2:7]), made[7])

    def train_steps_(self, s: TrainSteps) -> Tensor:
        """As `Reference.train_steps_`, by one operator.

        A list of tensors takes torch 1 us less to read than a named tuple.
        """
        cell, ids, targets, params, *rest, keep_grads, steps_first = s
        losses: Tensor = self.ops(s.h).train_steps_.default(
            ids, targets, list(params), *rest, CELLS[cell].code, keep_grads, steps_first
        )
        torch.autograd.graph.increment_version((*s.params, *s.grads, s.h))
        return losses

    def clip_grads_(self, grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
        """As `Reference.clip_grads_`, one pass for the norm of all gradients, one to scale."""
        norm: Tensor = self.ops(grads[0]).clip_grads_.default(grads, max_norm, d2l)
        torch.autograd.graph.increment_version(grads)  # as torch's own in-place operations do
        return norm

    def decode(self, d: Decoding) -> tuple[Tensor, Tensor]:
        """As `Reference.decode`, by one operator: its loop over steps never returns to Python."""
        ids, h_last = self.decoder(d.h0).default(
            d.first, *d.params, d.h0, d.steps, d.temperature, d.uniforms, CELLS[d.cell].code
        )
        return ids, h_last

    def decoder(self, h0: Tensor) -> Any:
        """The operator that generates for a state like this one."""
        return self.ops(h0).decode


class Native(Compiled):
    """C++ for AVX-512, AVX2 or any other CPU, chosen when it runs.

    Where torch.set_float32_matmul_precision("medium") allows it, h and W_hh are rounded to bfloat16
    for products from which no gradient is taken; their sums are in float32.
    """

    name = "native"
    device = "cpu"
    checks_arguments = True
    # Beyond this W_hq would leave the L2 cache between two steps, each of which reads all of it.
    fused_readout = 2**17
    trains_in_groups = True

    def load_error(self) -> str:
        return library.load_error()

    def rnn_forward(self, r: Recurrence, saves: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `Compiled.rnn_forward`; products of a plain call may be rounded.

        Rounded products are 1.8 times as fast from H = 256 on where the CPU's instruction for them
        gains; elsewhere they take 1.2 to 1.6 times as long, so nothing is rounded there. Fewer than
        8 rows in all do not pay for rounding W_hh.
        """
        if not r.is_plain:
            return super().rnn_forward(r, saves)
        code = CELLS[r.cell].code
        # dynamo knows operators, and not what they call
        op = torch.ops.rnnfast.rnn.plain if is_dynamo_compiling() else library.plain_rnn
        if not saves and _allows_bf16() and _rounds(r):
            op = torch.ops.rnnfast.rnn_bf16.default
        if r.transposed:
            hs, h_last = op(r.x, r.ids, r.W_hh, r.b_h, r.h0, code, True)
        else:  # one argument less takes 0.4 us less, and names 0.15 less than a slice
            hs, h_last = op(r.x, r.ids, r.W_hh, r.b_h, r.h0, code)
        return hs, h_last, None

    def rnn_logits(
        self, r: Recurrence, W_hq: Tensor, b_q: Tensor, saves: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Reference.rnn_logits`, by one operator, which finds the states in cache."""
        if not saves and _allows_bf16() and _rounds(r):
            hs, h_last, _ = self.rnn_forward(r, saves)
            return torch.addmm(b_q, hs.flatten(0, 1), W_hq), h_last, hs
        code = CELLS[r.cell].code
        logits, h_last, hs = torch.ops.rnnfast.rnn_logits.default(
            r.x, r.ids, r.W_hh, r.b_h, W_hq, b_q, r.h0, code
        )
        return logits, h_last, hs

    def rnn_logits_backward(
        self, a: Adjoint, W_hq: Tensor, grad_logits: Tensor
    ) -> tuple[Gradients, Tensor, Tensor]:
        """As `Reference.rnn_logits_backward`, by one operator."""
        r, code = a.call, CELLS[a.call.cell].code
        grads = (grad_logits, a.grad_h_last, a.grad_hs)
        *made, grad_W_hq, grad_b_q = torch.ops.rnnfast.rnn_logits_backward.default(
            *grads, a.hs, r.ids, a.V, r.W_hh, W_hq, r.h0, code, *a.needs[:3]
        )
        return Gradients(*made), grad_W_hq, grad_b_q

    def rnn_cross_entropy(self, c: CrossEntropy) -> tuple[Tensor, ...]:
        """As `Reference.rnn_cross_entropy`, by one operator that keeps no logits.

        It adds to `grads` in place, which saves 5 % of a small step, and gives none of h0 then.
        """
        grads = c.grads
        if grads is None:
            return super().rnn_cross_entropy(c)
        loss, h_last = torch.ops.rnnfast.rnn_cross_entropy_grads_.default(
            c.ids, c.targets, list(c.params), grads, c.h0, CELLS[c.cell].code
        )
        torch.autograd.graph.increment_version(grads)
        return loss, h_last, *grads

    def sgd_(self, params: Sequence[Tensor], grads: Sequence[Tensor], rate: float) -> None:
        """As `Backend.sgd_`, in one pass where all tensors are contiguous."""
        if not all(t.is_contiguous() for t in (*params, *grads)):
            super().sgd_(params, grads, rate)
            return
        torch.ops.rnnfast.sgd_.default(params, grads, rate)
        torch.autograd.graph.increment_version((*params, *grads))

    def seed_of_noise(self, generator: torch.Generator | None) -> int | None:
        """Drawn from the generator; none where a call is recorded or its tensors are fake.

        One seed would then be that of all calls. The kernel draws a number in 0.5 to 1 ns,
        torch.randn in 2.3, which takes two passes over [T, B, H] besides.
        """
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return None
        if get_proxy_mode() is not None:  # make_fx records
            return None
        drawn = torch.randint(2**63 - 1, (), generator=generator, device="cpu")
        return int(drawn) if type(drawn) is Tensor else None

    def decoder(self, h0: Tensor) -> Any:
        """The operator that rounds h and W_hh where that is allowed and the CPU has AVX2.

        A step waits for its weights, and rounded ones are half as much to read: at H = 512 it is
        1.4 to 2 times as fast with the instruction, and 1.1 to 1.7 times without.
        """
        ops = torch.ops.rnnfast
        rounds = h0.dtype == torch.float32 and _allows_bf16()
        return ops.decode_bf16 if rounds else ops.decode


native = Native()


def _allows_bf16() -> bool:
    """Whether torch is set to "medium", which allows products of bfloat16."""
    return torch.get_float32_matmul_precision() == "medium"


def _rounds(r: Recurrence) -> bool:
    """Whether a plain call is one for rounded products, where they are allowed."""
    if r.transposed or r.x.dtype != torch.float32 or r.W_hh.dim() == 3:
        return False
    T, B = (r.x if r.ids is None else r.ids).shape[:2]
    return T * B >= 8 and _multiplies_bf16()


def _multiplies_bf16() -> bool:
    return library.build_info().endswith("bf16")


# torch.compile asks once and keeps the answer; see dispatch.py.
_allows_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]
_multiplies_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]
