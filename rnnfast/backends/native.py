"""The compiled kernels of `csrc/`: loads them, gives torch.compile their shapes, calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHECKS_ARGUMENTS = True
# Beyond this W_hq would leave the L2 cache between two steps, each of which reads all of it.
FUSED_READOUT = 2**17

LIBRARY = Path(__file__).parents[1] / "_C.so"


@functools.cache
def load_error() -> str:
    """Load the library once; why it cannot be used, or an empty string."""
    if not LIBRARY.exists():
        return "the kernels were not built when rnnfast was installed (no C++ compiler?)"
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} does not load into torch {torch.__version__}: {error}"
    _register_fakes()
    return ""


def build_info() -> str:
    """Compiler, instruction sets compiled in, and the one that this machine runs."""
    return str(torch.ops.rnnfast._build_info())


def rnn_forward(
    x: Tensor,  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None,  # [T, B]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H]
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """`reference.rnn_forward`, as one call. float32 and float64 on the CPU."""
    out: tuple[Tensor, Tensor] = torch.ops.rnnfast.rnn.default(x, ids, W_hh, b_h, h0, relu)
    return out


def rnn_inference(
    x: Tensor,  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None,  # [T, B]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H]
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """`rnn_forward` where no gradient is recorded.

    Under torch.set_float32_matmul_precision("medium"), and where the CPU multiplies bfloat16, h and
    W_hh are rounded to it for their product, which is summed in float32: 1.8 times as fast from
    H = 256 on. Without the instruction it would take 1.4 times as long, so nothing is rounded then;
    nor for fewer than 8 rows in all, which do not pay for rounding W_hh.
    """
    ops = torch.ops.rnnfast
    op = ops.rnn_bf16 if rounds(x, ids) else ops.rnn
    out: tuple[Tensor, Tensor] = op.default(x, ids, W_hh, b_h, h0, relu)
    return out


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
    """`reference.rnn_logits`, as one call that reads the states out while they are in cache."""
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.rnnfast.rnn_logits.default(
        x, ids, W_hh, b_h, W_hq, b_q, h0, relu
    )
    return out


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
    """`reference.rnn_logits_backward`, as one call; not differentiable."""
    out: tuple[Tensor, ...] = torch.ops.rnnfast.rnn_logits_backward.default(
        grad_logits,
        grad_h_last,
        grad_hs,
        hs,
        ids,
        V,
        W_hh,
        W_hq,
        h0,
        relu,
        need_W_hh,
        need_b_h,
        need_h0,
    )
    return out


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
    """`reference.rnn_backward`, as one call; not differentiable."""
    out: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.rnnfast.rnn_backward.default(
        grad_hs, grad_h_last, hs, ids, V, W_hh, h0, relu, need_W_hh, need_b_h, need_h0
    )
    return out


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
    """`reference.rnn_cross_entropy`, as one call that keeps no logits; not differentiable."""
    out: tuple[Tensor, ...] = torch.ops.rnnfast.rnn_cross_entropy.default(
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0, relu, need_grads, need_h0
    )
    return out


def rnn_cross_entropy_grads_(
    ids: Tensor,  # [T, B]
    targets: Tensor,  # [T, B]
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V]
    grads: Sequence[Tensor],  # of the same shapes: added to
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """`reference.rnn_cross_entropy`, its gradients added to `grads`. Returns loss and h_last."""
    out: tuple[Tensor, Tensor] = torch.ops.rnnfast.rnn_cross_entropy_grads_.default(
        ids, targets, params, grads, h0, relu
    )
    torch.autograd.graph.increment_version(grads)
    return out


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
    """`reference.train_step_`, as one call."""
    loss: Tensor = torch.ops.rnnfast.train_step_.default(
        ids, targets, params, grads, h, lr, max_norm, relu, keep_grads
    )
    torch.autograd.graph.increment_version((*params, *grads, h))
    return loss


def train_steps_(
    ids: Sequence[Tensor],  # [B, T] each
    targets: Sequence[Tensor],  # [B, T] each
    params: Sequence[Tensor],  # W_xh [V, H], W_hh [H, H], b_h [H], W_hq [H, V], b_q [V]
    grads: Sequence[Tensor],  # of the same shapes: overwritten
    h: Tensor,  # [B, H]: the state before and after
    lr: float,
    max_norm: float,
    relu: bool,
    keep_grads: bool = True,
) -> Tensor:
    """`reference.train_steps_`, as one call."""
    losses: Tensor = torch.ops.rnnfast.train_steps_.default(
        ids, targets, params, grads, h, lr, max_norm, relu, keep_grads
    )
    torch.autograd.graph.increment_version((*params, *grads, h))
    return losses


def clip_grads_(grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
    """`reference.clip_grads_`: one pass for the norm over all gradients, one for the scale."""
    norm: Tensor = torch.ops.rnnfast.clip_grads_.default(grads, max_norm, d2l)
    torch.autograd.graph.increment_version(grads)  # torch's own in-place operations do the same
    return norm


def sgd_(params: Sequence[Tensor], grads: Sequence[Tensor], step: float) -> None:
    """param -= step * grad, then grad = 0, in order and in one pass. All of them contiguous."""
    torch.ops.rnnfast.sgd_.default(params, grads, step)
    torch.autograd.graph.increment_version((*params, *grads))


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
    """`reference.decode`, as one call: the loop over steps never returns to Python.

    Rounds h and W_hh as `rnn_inference` does, on any CPU: a step waits for its weights, of which
    there is half to read (H = 512: twice as fast with the instruction, 1.7 times without).
    """
    ops = torch.ops.rnnfast
    rounds = W_xh.dtype == torch.float32 and _allows_bf16()
    op = ops.decode_bf16 if rounds else ops.decode
    out: tuple[Tensor, Tensor] = op.default(
        first, W_xh, W_hh, b_h, W_hq, b_q, h0, steps, temperature, uniforms, relu
    )
    return out


def rounds(x: Tensor, ids: Tensor | None) -> bool:
    """Whether inference rounds for its products."""
    if x.dtype != torch.float32 or not _gains_by_bf16():
        return False  # before any shape is asked for: most calls end here
    T, B = (x if ids is None else ids).shape[:2]
    return T * B >= 8


def _allows_bf16() -> bool:
    """torch's "medium": products of float32 may be of bfloat16."""
    return torch.get_float32_matmul_precision() == "medium"


def _gains_by_bf16() -> bool:
    """Allowed, and the CPU has an instruction for it."""
    return _allows_bf16() and _multiplies_bf16()


@functools.cache
def _multiplies_bf16() -> bool:
    return build_info().endswith("bf16")


# torch.compile asks once and keeps the answer; see dispatch.py.
_allows_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]
_gains_by_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _register_fakes() -> None:
    """Output shapes for torch.compile and torch.export, which run no kernel while tracing.

    A call with one tensor on "meta" comes here as well, whatever the device of the others.
    """

    def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(shapes: Callable[..., Any]) -> Callable[..., Any]:
            def checked(*args: Any) -> Any:
                devices = {str(each.device) for each in args if isinstance(each, Tensor)}
                if len(devices) > 1:
                    raise RuntimeError(f"{name}: the tensors are on {' and '.join(devices)}")
                return shapes(*args)

            torch.library.register_fake(name)(checked)
            return shapes

        return register

    @fake("rnnfast::rnn")
    @fake("rnnfast::rnn_bf16")
    def _(x, ids, W_hh, b_h, h0, relu):  # type: ignore[no-untyped-def]
        T, B = (x if ids is None else ids).shape[:2]
        return x.new_empty((T, B, h0.shape[1])), x.new_empty((B, h0.shape[1]))

    @fake("rnnfast::rnn_logits")
    def _(x, ids, W_hh, b_h, W_hq, b_q, h0, relu):  # type: ignore[no-untyped-def]
        T, B = (x if ids is None else ids).shape[:2]
        H, V = W_hq.shape
        return x.new_empty((T * B, V)), x.new_empty((B, H)), x.new_empty((T, B, H))

    @fake("rnnfast::rnn_backward")
    def backward_shapes(  # type: ignore[no-untyped-def]
        grad_hs, grad_h_last, hs, ids, V, W_hh, h0, relu, need_W_hh, need_b_h, need_h0
    ):
        _, B, H = hs.shape
        return (
            hs.new_empty(hs.shape if ids is None else (V, H)),
            hs.new_empty((H, H) if need_W_hh else (0,)),
            hs.new_empty((H,) if need_b_h else (0,)),
            hs.new_empty((B, H) if need_h0 else (0,)),
        )

    @fake("rnnfast::rnn_logits_backward")
    def _(grad_logits, grad_h_last, grad_hs, hs, ids, V, W_hh, W_hq, *rest):  # type: ignore[no-untyped-def]
        grads = backward_shapes(grad_hs, grad_h_last, hs, ids, V, W_hh, *rest)
        return *grads, hs.new_empty(W_hq.shape), hs.new_empty(W_hq.shape[1:])

    @fake("rnnfast::rnn_cross_entropy")
    def _(  # type: ignore[no-untyped-def]
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0, relu, need_grads, need_h0
    ):
        inputs = (W_xh, W_hh, b_h, W_hq, b_q, h0)
        needed = [need_grads] * 5 + [need_grads and need_h0]
        grads = (t.new_empty(t.shape if n else (0,)) for t, n in zip(inputs, needed, strict=True))
        return h0.new_empty(()), h0.new_empty(h0.shape), *grads

    @fake("rnnfast::rnn_cross_entropy_grads_")
    def _(ids, targets, params, grads, h0, relu):  # type: ignore[no-untyped-def]
        return h0.new_empty(()), h0.new_empty(h0.shape)

    @fake("rnnfast::train_step_")
    def _(  # type: ignore[no-untyped-def]
        ids, targets, params, grads, h, lr, max_norm, relu, keep_grads
    ):
        return h.new_empty(())

    @fake("rnnfast::train_steps_")
    def _(  # type: ignore[no-untyped-def]
        ids, targets, params, grads, h, lr, max_norm, relu, keep_grads
    ):
        return h.new_empty((len(ids),))

    @fake("rnnfast::clip_grads_")
    def _(grads, max_norm, d2l):  # type: ignore[no-untyped-def]
        return grads[0].new_empty(()) if grads else torch.empty(())

    @fake("rnnfast::sgd_")
    def _(params, grads, step):  # type: ignore[no-untyped-def]
        return None

    @fake("rnnfast::decode")
    @fake("rnnfast::decode_bf16")
    def _(  # type: ignore[no-untyped-def]
        first, W_xh, W_hh, b_h, W_hq, b_q, h0, steps, temperature, uniforms, relu
    ):
        return first.new_empty((steps, first.shape[0])), h0.new_empty(h0.shape)
