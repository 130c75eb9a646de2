"""The recurrence over all steps in one launch, forward and backward.

A program has a few rows of the batch and all of W_hh, in registers: rows are independent, so no
program waits for another. T, B and the strides are runtime arguments: a compiled kernel serves all.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnfast.backends import Recurrence
from rnnfast.backends.triton.activation import activate, times
from rnnfast.backends.triton.launch import dot_precision, launch, padded, shared_memory

# (how products are made, padded H): rows per program, warps, KiB of shared memory. Compiled for
# sm_80, sm_90 and sm_100 without spills; what is missing here does not fit a program.
#   fma   float32 products of one row
#   tf32  float32 rounded to TF32, 16 rows on tensor cores
#   half  bfloat16 or float16, 16 rows on tensor cores, float32 sums and state
TILINGS = {
    ("fma", 16): (1, 1, 1),
    ("fma", 32): (1, 2, 1),  # with one warp 160 shuffles a step instead of 12
    ("fma", 64): (1, 4, 1),
    ("fma", 128): (1, 8, 4),
    ("tf32", 16): (16, 1, 1),
    ("tf32", 32): (16, 4, 6),
    ("tf32", 64): (16, 4, 20),
    ("tf32", 128): (16, 8, 72),
    ("half", 16): (16, 1, 1),
    ("half", 32): (16, 2, 4),
    ("half", 64): (16, 4, 12),
    ("half", 128): (16, 8, 40),
    ("half", 256): (16, 8, 140),
}
# Up to here each row has half an SM of the largest GPUs to itself, and 16 rows on the tensor cores
# of one SM take longer than one on its FMA units (modelled, not measured).
TF32_FROM_ROWS = 257


@dataclass(frozen=True)
class Tiling:
    """How programs divide the batch: the constants of both kernels."""

    H: int
    relu: bool
    width: int  # H padded
    rows: int
    warps: int
    precision: str

    def options(self) -> dict[str, object]:
        return {
            "H": self.H,
            "HP": self.width,
            "ROWS": self.rows,
            "RELU": self.relu,
            "PRECISION": self.precision,
            "num_warps": self.warps,
        }


def tiling(h0: Tensor, relu: bool) -> Tiling | None:
    """The tiling for a state [B, H] like this one; None where W_hh does not fit one program."""
    (B, H), dtype = h0.shape, h0.dtype
    precision = dot_precision(dtype)
    if dtype != torch.float32:
        how = "half"
    else:
        how = "tf32" if precision == "tf32" and B >= TF32_FROM_ROWS else "fma"
    size = padded(H)
    rows, warps, shared = TILINGS.get((how, size), (0, 0, 0))
    if not rows or shared > shared_memory(h0.device):
        return None
    return Tiling(H, relu, size, rows, warps, precision)


def explain(device: torch.device, dtype: torch.dtype, H: int | None) -> list[str]:
    """Where W_hh lies, for people."""
    how = "fma" if dtype == torch.float32 else "half"
    limit = shared_memory(device)
    most = max(size for (name, size), (*_, kib) in TILINGS.items() if name == how and kib <= limit)
    rows = TILINGS[how, most][0]
    kept = f"W_hh in registers for the whole sequence, {rows} row(s) of the batch per program"
    streamed = "a matrix product for each step"
    if H is None:
        return [f"H to {most}: {kept}", f"H above {most}: {streamed}"]
    return [f"H={H}: {kept}" if most >= H else f"H={H}: {streamed}, since {most} fit a program"]


def forward(
    r: Recurrence,  # contiguous
    hs: Tensor,  # [T, B, H], or [T + 1, B, H] to have h0 first
    h_last: Tensor,  # [B, H], may be h0
    how: Tiling,
) -> None:
    """Fills hs and h_last."""
    T, B = (r.x if r.ids is None else r.ids).shape[:2]
    steps = (0, 0) if r.ids is None else r.ids.stride()
    keeps_h0 = hs.shape[0] > T
    grid = (triton.cdiv(B, how.rows),)
    args = (r.x, r.ids, *steps, r.W_hh, r.b_h, r.h0, hs, h_last, T, B, r.x.shape[0])
    launch(forward_kernel, grid, *args, KEEP_H0=keeps_h0, **how.options())


def backward(
    grad_hs: Tensor | None,  # [T, B, H]
    grad_h_last: Tensor | None,  # [B, H]
    hs: Tensor,  # [T, B, H]
    W_hh: Tensor,  # [H, H]
    dz: Tensor,  # [T, B, H]
    grad_h0: Tensor | None,  # [B, H]
    how: Tiling,
) -> None:
    """Fills dz and, where it is given, grad_h0.

    The kernel reads W_hh^T row by row as the forward pass does W_hh: a read by columns would cost
    it 9 us at H=128 (modelled), a transposed copy costs one small launch.
    """
    T, B, _ = hs.shape
    grid = (triton.cdiv(B, how.rows),)
    args = (grad_hs, grad_h_last, hs, W_hh.T.contiguous(), dz, grad_h0, T, B)
    launch(backward_kernel, grid, *args, **how.options())


@triton.jit
def _places(B, H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr):
    """The program's rows of the batch, its columns, which of them exist, and where in [B, H]."""
    rows = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, HP)
    inside = (rows < B)[:, None] & (cols < H)[None, :]
    return rows, cols, inside, rows[:, None] * H + cols[None, :]


@triton.jit
def _weights(W, cols, H: tl.constexpr, ROWS: tl.constexpr):
    """All of W [H, H]; where they are not for the tensor cores, in float32."""
    square = (cols < H)[:, None] & (cols < H)[None, :]
    W = tl.load(W + cols[:, None] * H + cols[None, :], mask=square, other=0.0)
    if ROWS == 1:
        W = W.to(tl.float32)
    return W


@triton.jit
def _input(x, ids, ids_step, ids_row, t, at, rows, cols, inside, B, V, H: tl.constexpr):
    """x_t [ROWS, HP] in float32; NaN for an id that is none: no read is ever out of bounds."""
    if ids is None:
        return tl.load(x + t * B * H + at, mask=inside, other=0.0).to(tl.float32)
    else:
        id = tl.load(ids + t * ids_step + rows * ids_row, mask=rows < B, other=0)
        known = ((id >= 0) & (id < V))[:, None]
        from_row = x + tl.where((id >= 0) & (id < V), id, 0)[:, None] * H + cols[None, :]
        u = tl.load(from_row, mask=inside & known, other=0.0).to(tl.float32)
        return tl.where(inside & (known == 0), float("nan"), u)


@triton.jit(do_not_specialize=["ids_step", "ids_row", "T", "B", "V"])
def forward_kernel(
    x,
    ids,
    ids_step,
    ids_row,
    W_hh,
    b_h,
    h0,
    hs,
    h_last,
    T,
    B,
    V,
    H: tl.constexpr,
    HP: tl.constexpr,
    ROWS: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP_H0: tl.constexpr,
):
    rows, cols, inside, at = _places(B, H, HP, ROWS)
    W = _weights(W_hh, cols, H, ROWS)
    h = tl.load(h0 + at, mask=inside, other=0.0).to(tl.float32)
    wide_B = tl.cast(B, tl.int64)
    if KEEP_H0:
        tl.store(hs + at, h, mask=inside)
        hs += wide_B * H
    bias = tl.zeros((1, HP), tl.float32)
    if b_h is not None:
        bias += tl.load(b_h + cols, mask=cols < H, other=0.0).to(tl.float32)[None, :]
    first = tl.cast(0, tl.int64)
    u = _input(x, ids, ids_step, ids_row, first, at, rows, cols, inside, wide_B, V, H)
    for step in range(T):
        t = tl.cast(step, tl.int64)
        # The next step's input is read now, so that this step's product hides the wait.
        ahead = tl.minimum(t + 1, T - 1)
        u_ahead = _input(x, ids, ids_step, ids_row, ahead, at, rows, cols, inside, wide_B, V, H)
        h = activate(times(h, W, PRECISION) + u + bias, RELU)
        if H < HP:  # in padding, infinity times its weights, 0, is NaN
            h = tl.where((cols < H)[None, :], h, 0.0)
        tl.store(hs + t * wide_B * H + at, h, mask=inside)
        u = u_ahead
    tl.store(h_last + at, h, mask=inside)


@triton.jit
def _or_zeros(pointer, offset, at, inside):
    if pointer is None:
        return tl.zeros(at.shape, tl.float32)
    else:
        return tl.load(pointer + offset + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["T", "B"])
def backward_kernel(
    grad_hs,
    grad_h_last,
    hs,
    W_hh_T,
    dz,
    grad_h0,
    T,
    B,
    H: tl.constexpr,
    HP: tl.constexpr,
    ROWS: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    _, cols, inside, at = _places(B, H, HP, ROWS)
    W = _weights(W_hh_T, cols, H, ROWS)
    step_size = tl.cast(B, tl.int64) * H
    last = (tl.cast(T, tl.int64) - 1) * step_size
    carry = _or_zeros(grad_h_last, 0, at, inside)
    h = _or_zeros(hs, last, at, inside)
    g = _or_zeros(grad_hs, last, at, inside)
    for step in range(T):
        offset = last - tl.cast(step, tl.int64) * step_size
        # What the next pass needs is read now, so that this step's product hides the wait.
        before = tl.maximum(offset - step_size, 0)
        h_before = _or_zeros(hs, before, at, inside)
        g_before = _or_zeros(grad_hs, before, at, inside)
        d = g + carry
        d = tl.where(h > 0, d, 0.0) if RELU else d * (1 - h * h)
        if H < HP:  # as in the forward pass
            d = tl.where((cols < H)[None, :], d, 0.0)
        tl.store(dz + offset + at, d, mask=inside)
        carry = times(d, W, PRECISION)
        h, g = h_before, g_before
    if grad_h0 is not None:
        tl.store(grad_h0 + at, carry, mask=inside)
