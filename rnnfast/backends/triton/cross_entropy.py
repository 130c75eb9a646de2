"""The readout, the mean cross-entropy and its gradients by logits and states, in one launch.

A program has some rows of hs and goes over the vocabulary in blocks: once for the logarithm of the
sum of exponentials, and, where gradients are wanted and there are several blocks, once more. The
logits stay in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnfast.backends.triton.launch import dot_precision, launch, padded

ROWS = 16  # the fewest that tl.dot takes: most programs for the few rows of a minibatch
# Classes of one block: hidden units multiplied at a time, warps. More units for the most classes,
# and the float32 products need more registers than there are.
BLOCKS = {16: (32, 4), 32: (32, 4), 64: (16, 8)}


def mean(
    hs: Tensor,  # [N, H]
    targets: Tensor,  # [T, B], N = T * B
    W_hq: Tensor,  # [H, V]
    b_q: Tensor,  # [V]
    dlogits: Tensor | None,  # [N, V]
    grad_hs: Tensor | None,  # [N, H]
) -> Tensor:
    """The loss (0-dim), NaN for a target outside [0, V); fills dlogits and grad_hs if given."""
    N, H = hs.shape
    V = W_hq.shape[1]
    if not N:
        return hs.new_full((), float("nan"))
    block = min(padded(V), max(BLOCKS))
    depth, warps = BLOCKS[block]
    programs = triton.cdiv(N, ROWS)
    parts = hs.new_empty(programs, dtype=torch.float32)
    one_block = block >= V
    fused = grad_hs if one_block else None
    args = (hs, targets, *targets.stride(), W_hq, b_q, parts, dlogits, fused)
    launch(
        cross_entropy_kernel,
        (programs,),
        *args,
        N,
        targets.shape[1],
        H,
        V,
        PRECISION=dot_precision(hs.dtype),
        ONE_BLOCK=one_block,
        ROWS=ROWS,
        CLASSES=block,
        DEPTH=depth,
        num_warps=warps,
    )
    if grad_hs is not None and dlogits is not None and not one_block:
        torch.mm(dlogits, W_hq.T, out=grad_hs)
    return parts.sum().to(hs.dtype)


@triton.jit
def _logits(hs, W_hq, b_q, rows, classes, N, H, V, PRECISION: tl.constexpr, DEPTH: tl.constexpr):
    """[ROWS, CLASSES] in float32; minus infinity beyond the vocabulary."""
    sums = tl.zeros((rows.shape[0], classes.shape[0]), tl.float32)
    for start in range(0, H, DEPTH):
        units = start + tl.arange(0, DEPTH)
        inside = (rows < N)[:, None] & (units < H)[None, :]
        h = tl.load(hs + rows[:, None] * H + units[None, :], mask=inside, other=0.0)
        inside = (units < H)[:, None] & (classes < V)[None, :]
        at = tl.cast(units, tl.int64)[:, None] * V + classes[None, :]
        w = tl.load(W_hq + at, mask=inside, other=0.0)
        sums = tl.dot(h, w, sums, input_precision=PRECISION)
    bias = tl.load(b_q + classes, mask=classes < V, other=0.0).to(tl.float32)
    return tl.where((classes < V)[None, :], sums + bias[None, :], float("-inf"))


@triton.jit(do_not_specialize=["targets_step", "targets_row", "N", "B", "V"])
def cross_entropy_kernel(
    hs,
    targets,
    targets_step,
    targets_row,
    W_hq,
    b_q,
    parts,
    dlogits,
    grad_hs,
    N,
    B,
    H,
    V,
    PRECISION: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    rows = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)
    target = tl.load(
        targets + rows // B * targets_step + rows % B * targets_row, mask=rows < N, other=0
    )
    classes = tl.arange(0, CLASSES)
    logits = _logits(hs, W_hq, b_q, rows, classes, N, H, V, PRECISION, DEPTH)
    largest = tl.max(logits, axis=1)
    total = tl.sum(tl.exp(logits - largest[:, None]), axis=1)
    chosen = tl.sum(tl.where(classes[None, :] == target[:, None], logits, 0.0), axis=1)
    if not ONE_BLOCK:
        for first in range(CLASSES, V, CLASSES):
            classes = first + tl.arange(0, CLASSES)
            logits = _logits(hs, W_hq, b_q, rows, classes, N, H, V, PRECISION, DEPTH)
            before, largest = largest, tl.maximum(largest, tl.max(logits, axis=1))
            total *= tl.exp(before - largest)
            total += tl.sum(tl.exp(logits - largest[:, None]), axis=1)
            chosen += tl.sum(tl.where(classes[None, :] == target[:, None], logits, 0.0), axis=1)
    known = (target >= 0) & (target < V)
    # The difference is taken first, since a sum would round away what a small loss is made of.
    # The logarithm is float64's, since the one of float32 is approximate: 1e-7 off near 1.
    log_total = tl.log(total.to(tl.float64)).to(tl.float32)
    nll = tl.where(known, (largest - chosen) + log_total, float("nan"))
    share = 1.0 / tl.cast(N, tl.float32)
    tl.store(parts + tl.program_id(0), tl.sum(tl.where(rows < N, nll, 0.0), axis=0) * share)

    if dlogits is not None:
        scale = tl.where(known, share, float("nan"))
        for first in range(0, V, CLASSES):
            classes = first + tl.arange(0, CLASSES)
            if not ONE_BLOCK:
                logits = _logits(hs, W_hq, b_q, rows, classes, N, H, V, PRECISION, DEPTH)
            d = tl.exp(logits - largest[:, None]) / total[:, None]
            d -= tl.where(classes[None, :] == target[:, None], 1.0, 0.0)
            d *= scale[:, None]
            inside = (rows < N)[:, None] & (classes < V)[None, :]
            tl.store(dlogits + rows[:, None] * V + classes[None, :], d, mask=inside)
            if grad_hs is not None:
                d = tl.where(inside, d, 0.0).to(W_hq.dtype.element_ty)
                for start in range(0, H, DEPTH):
                    units = start + tl.arange(0, DEPTH)
                    w_inside = (classes < V)[:, None] & (units < H)[None, :]
                    at = tl.cast(units, tl.int64)[None, :] * V + classes[:, None]
                    w = tl.load(W_hq + at, mask=w_inside, other=0.0)
                    g = tl.dot(d, w, input_precision=PRECISION)
                    g_inside = (rows < N)[:, None] & (units < H)[None, :]
                    tl.store(grad_hs + rows[:, None] * H + units[None, :], g, mask=g_inside)
