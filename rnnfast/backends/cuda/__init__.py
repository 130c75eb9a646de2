"""The kernels of `csrc/cuda/`, compiled at first use and launched by the library of `csrc/`.

Nothing here waits for the GPU. Ids are checked by the kernels that read them: an id out of range is
clamped, and the next call, or `check_errors` after a synchronisation, raises.

The launcher and what stands below it are imported at first use: 20 ms that a CPU never needs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnfast.backends.cuda import precision

if TYPE_CHECKING:
    from rnnfast.backends.cuda.bridge import Plan, Question

CHECKS_ARGUMENTS = False  # what a check costs is hidden behind the device's work
FUSED_READOUT = 0
# What `explain` shows.
USUAL_H, USUAL_B, USUAL_V = (64, 128, 256, 512, 1024), (1, 32, 256), 28


def load_error() -> str:
    """Why this backend cannot be used here, or an empty string; starts it otherwise."""
    return _start(is_emulated())


def is_emulated() -> bool:
    """Whether a driver that runs kernels on the CPU stands in for the real one."""
    return bool(os.environ.get("RNNFAST_CUDA_DRIVER"))


@functools.cache
def _start(emulated: bool) -> str:
    from rnnfast.backends.cuda import bridge, nvrtc

    if not emulated:
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if reason := nvrtc.load_error():
            return reason
    try:
        limits = bridge.limits(_current(emulated))
    except bridge.DriverError as error:
        return str(error)
    if limits.compute_capability < 80:
        return (
            f"the device has compute capability {limits.compute_capability / 10}, not 8.0 or more"
        )
    bridge.start(plan_for)
    if emulated:
        bridge.emulate()
    return ""


def _current(emulated: bool) -> int:
    return 0 if emulated else torch.cuda.current_device()


def check_errors(device: torch.device) -> None:
    """Raise what earlier calls had to complain about; see `bridge.check`."""
    from rnnfast.backends.cuda import bridge

    bridge.check(device.index or 0)


def plan_for(question: Question) -> Plan | None:
    """The kernel for a call, its clusters as the device says; None: step by step."""
    from rnnfast.backends.cuda import bridge, choose_decode, choose_recurrence

    if question.operation == "decode":
        limits = bridge.limits(question.device)
        return choose_decode.decide(
            question, limits, lambda plan: bridge.resident(plan, question.device)
        )
    choice = choose_recurrence.chosen(question)
    return choice.plan if choice else None


def explain(device: torch.device, dtype: torch.dtype, H: int | None) -> list[str]:
    """What serves the forward pass of a net of H hidden units (None: some usual ones), in lines.

    The device is asked as a call asks it, so kernels may be compiled.
    """
    from rnnfast.backends.cuda import choose_recurrence
    from rnnfast.backends.cuda.bridge import Question

    index = device.index if device.index is not None else _current(is_emulated())
    bits = torch.finfo(dtype).bits
    least_exact = precision.least_exact()
    setting = torch.get_float32_matmul_precision()
    lines = [f"{least_exact} products or more exact ones, as torch's precision {setting!r} allows"]
    for h, B in [(H, B) for B in USUAL_B] if H else [(h, 32) for h in USUAL_H]:
        question = Question("rnn_forward", B, h, USUAL_V, bits, 0, index, least_exact)
        lines.append(f"H={h} B={B}: {choose_recurrence.explain(question)}")
    return lines


def rnn_forward(
    x: Tensor,  # [V, H] table when ids are given, else [T, B, H]
    ids: Tensor | None,  # [T, B]
    W_hh: Tensor,  # [H, H]
    b_h: Tensor | None,  # [H]
    h0: Tensor,  # [B, H]
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """`reference.rnn_forward` in one launch where W_hh fits on the chip. float32 and float64."""
    out: tuple[Tensor, Tensor] = _ops(x).rnn.default(x, ids, W_hh, b_h, h0, relu)
    return out


rnn_inference = rnn_forward


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
    """`reference.rnn_backward`; not differentiable."""
    out: tuple[Tensor, Tensor, Tensor, Tensor] = _ops(hs).rnn_backward.default(
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
    """`reference.rnn_cross_entropy`; not differentiable."""
    out: tuple[Tensor, ...] = _ops(W_xh).rnn_cross_entropy.default(
        ids, targets, W_xh, W_hh, b_h, W_hq, b_q, h0, relu, need_grads, need_h0
    )
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
    """`reference.train_step_`, without a synchronisation."""
    loss: Tensor = _ops(h).train_step_.default(
        ids, targets, params, grads, h, lr, max_norm, relu, keep_grads
    )
    torch.autograd.graph.increment_version((*params, *grads, h))
    return loss


def clip_grads_(grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
    """`reference.clip_grads_` in two launches."""
    norm: Tensor = _ops(grads[0]).clip_grads_.default(grads, max_norm, d2l)
    torch.autograd.graph.increment_version(grads)  # torch's own in-place operations do the same
    return norm


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
    """`reference.decode` on the device: the host sees only finished ids."""
    out: tuple[Tensor, Tensor] = _ops(W_xh).decode.default(
        first, W_xh, W_hh, b_h, W_hq, b_q, h0, steps, temperature, uniforms, relu
    )
    return out


_least_exact = "FFMA"  # the product that the library allows


def _ops(tensor: Tensor) -> Any:
    """The operators for tensors like this one."""
    _allow_products()
    return torch.ops.rnnfast if tensor.is_cuda else torch.ops.rnnfast_emulated


def _allow_products() -> None:
    """Have the operators take products as exact as torch is set to now."""
    global _least_exact
    least_exact = precision.least_exact()
    if least_exact != _least_exact:
        from rnnfast.backends.cuda import bridge

        bridge.set_least_exact(least_exact)
        _least_exact = least_exact


# torch.compile does so once, while tracing; see dispatch.py.
_allow_products._dynamo_marked_constant = True  # type: ignore[attr-defined]
