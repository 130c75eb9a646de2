"""Generation in one launch: a program has one sequence and all of its steps.

It serves bfloat16 and float16 on a GPU, which the CUDA backend does not, and float32 where that
backend cannot be loaded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnfast.backends.reference import probabilities
from rnnfast.backends.triton.activation import activate, times
from rnnfast.backends.triton.launch import launch, padded

RESIDENT_H = 128  # W_hh stays in registers up to this H,
RESIDENT_W_HQ = 128 * 32  # and W_hq up to so many padded elements
TILE = 8192  # elements of a matrix that a program reads at a time
LARGEST = 4096  # padded H or V: with more, a row's sums need more registers than there are


def fits(H: int, V: int) -> bool:
    """Whether one program can hold a state and the logits of a sequence."""
    return padded(H) <= LARGEST and padded(V) <= LARGEST


def decode(
    first: Tensor,  # [B]
    params: list[Tensor],  # W_xh, W_hh, b_h, W_hq, b_q
    h0: Tensor,  # [B, H]
    temperature: float,
    uniforms: Tensor | None,  # [steps, B]
    relu: bool,
    ids: Tensor,  # [steps, B]
    h_last: Tensor,  # [B, H]
) -> None:
    """Fills ids and h_last. A first id outside [0, V) makes the state NaN and every choice 0."""
    (steps, B), H, V = ids.shape, h0.shape[1], params[0].shape[0]
    wide_H, wide_V = padded(H), padded(V)
    resident = wide_H <= RESIDENT_H
    args = (first, *params, h0, ids, h_last, uniforms, 1.0 / temperature, steps, B, V)
    scratch = torch.empty((B, H), dtype=torch.float32, device=h0.device)
    launch(
        decode_kernel,
        (B,),
        *args,
        scratch,
        H=H,
        HP=wide_H,
        VP=wide_V,
        RELU=relu,
        RESIDENT=resident,
        RESIDENT_W_HQ=resident and wide_H * wide_V <= RESIDENT_W_HQ,
        UNITS_H=TILE // wide_H,
        UNITS_V=TILE // wide_V,
        num_warps=max(1, min(8, wide_H // 16)),
    )


def decode_by_steps(
    first: Tensor,
    params: list[Tensor],
    h0: Tensor,
    temperature: float,
    uniforms: Tensor | None,
    relu: bool,
    ids: Tensor,
    h_last: Tensor,
) -> None:
    """The same with a few launches for each step, where `fits` says no."""
    W_xh, W_hh, b_h, W_hq, b_q = params
    V = len(b_q)
    id, h = first, h0
    for step in range(ids.shape[0]):
        known = ((id >= 0) & (id < V)).unsqueeze(1)
        u = torch.where(known, W_xh[id.clamp(0, V - 1)] + b_h, float("nan"))
        z = torch.addmm(u, h, W_hh)
        h = torch.relu(z) if relu else torch.tanh(z)
        logits = torch.addmm(b_q, h, W_hq)
        if uniforms is None:
            id = logits.argmax(1)
        else:
            p = probabilities(logits.float(), temperature)
            above = (p.cumsum(1) > uniforms[step].unsqueeze(1)) & (p > 0)
            last = torch.where(p > 0, torch.arange(V, device=p.device), 0).amax(1)
            id = torch.where(above.any(1), above.int().argmax(1), last)
        ids[step] = id
    h_last.copy_(h)


@triton.jit
def _largest(logits, v, VP: tl.constexpr):
    """First index of the largest; a NaN counts as larger than anything, as in torch.argmax."""
    nan = tl.min(tl.where(logits != logits, v, VP), axis=0)
    equal = tl.min(tl.where(logits == tl.max(logits, axis=0), v, VP), axis=0)
    return tl.where(nan < VP, nan, equal)


@triton.jit
def _sampled(logits, v, slope, u, VP: tl.constexpr):
    """First index with a probability whose cumulative one exceeds u; 0 where they are NaN."""
    weights = tl.exp((logits - tl.max(logits, axis=0)) * slope)
    total = tl.sum(weights, axis=0)
    positive = weights > 0
    above = (tl.cumsum(weights, axis=0) > u * total) & positive
    chosen = tl.min(tl.where(above, v, VP), axis=0)
    last = tl.max(tl.where(positive, v, 0), axis=0)  # rounding may leave none above u
    return tl.where(total != total, 0, tl.minimum(chosen, last))


@triton.jit
def _streamed(z, h, W, columns, H, N, UNITS: tl.constexpr):
    """z [1, N padded] + h @ W, some rows of W [H, N] at a time; h [H] is in memory."""
    for start in range(0, H, UNITS):
        units = start + tl.arange(0, UNITS)
        part = tl.load(h + units, mask=units < H, other=0.0)
        inside = (units < H)[:, None] & (columns < N)[None, :]
        at = tl.cast(units, tl.int64)[:, None] * N + columns[None, :]
        w = tl.load(W + at, mask=inside, other=0.0).to(tl.float32)
        z += tl.sum(part[:, None] * w, axis=0, keep_dims=True)
    return z


@triton.jit(do_not_specialize=["steps", "B", "V"])
def decode_kernel(
    first,
    W_xh,
    W_hh,
    b_h,
    W_hq,
    b_q,
    h0,
    ids,
    h_last,
    uniforms,
    slope,
    steps,
    B,
    V,
    scratch,
    H: tl.constexpr,
    HP: tl.constexpr,
    VP: tl.constexpr,
    RELU: tl.constexpr,
    RESIDENT: tl.constexpr,
    RESIDENT_W_HQ: tl.constexpr,
    UNITS_H: tl.constexpr,
    UNITS_V: tl.constexpr,
):
    row = tl.cast(tl.program_id(0), tl.int64)
    unit, v = tl.arange(0, HP), tl.arange(0, VP)
    real = (unit < H)[None, :]
    bias = tl.load(b_h + unit, mask=unit < H, other=0.0).to(tl.float32)[None, :]
    bias_q = tl.load(b_q + v, mask=v < V, other=0.0).to(tl.float32)
    h = tl.load(h0 + row * H + unit[None, :], mask=real, other=0.0).to(tl.float32)
    state = scratch + row * H
    if RESIDENT:
        inside = (unit < H)[:, None] & real
        W = tl.load(W_hh + unit[:, None] * H + unit[None, :], mask=inside, other=0.0)
        W = W.to(tl.float32)
    if RESIDENT_W_HQ:
        inside = (unit < H)[:, None] & (v < V)[None, :]
        Q = tl.load(W_hq + unit[:, None] * V + v[None, :], mask=inside, other=0.0)
        Q = Q.to(tl.float32)
    else:
        tl.store(state + unit[None, :], h, mask=real)
        tl.debug_barrier()
    id = tl.load(first + row)
    known = (id >= 0) & (id < V)
    id = tl.where(known, id, 0)
    bias += tl.where(known, 0.0, float("nan"))
    for step in range(steps):
        z = tl.load(W_xh + id * H + unit[None, :], mask=real, other=0.0).to(tl.float32) + bias
        if RESIDENT:
            z += times(h, W, "ieee")
        else:
            z = _streamed(z, state, W_hh, unit, H, H, UNITS_H)
        h = activate(z, RELU)
        if H < HP:  # in padding, infinity times its weights, 0, is NaN
            h = tl.where(real, h, 0.0)
        if RESIDENT_W_HQ:
            logits = tl.sum(tl.reshape(h, (HP, 1)) * Q, axis=0)
        else:
            tl.debug_barrier()  # every thread has read the state that is now overwritten
            tl.store(state + unit[None, :], h, mask=real)
            tl.debug_barrier()
            logits = tl.zeros((1, VP), tl.float32)
            logits = tl.sum(_streamed(logits, state, W_hq, v, H, V, UNITS_V), axis=0)
        logits = tl.where(v < V, logits + bias_q, float("-inf"))
        at = tl.cast(step, tl.int64) * B + row
        if uniforms is None:
            chosen = _largest(logits, v, VP)
        else:
            chosen = _sampled(logits, v, slope, tl.load(uniforms + at).to(tl.float32), VP)
        id = tl.cast(chosen, tl.int64)
        tl.store(ids + at, id)
    tl.store(h_last + row * H + unit[None, :], h, mask=real)
