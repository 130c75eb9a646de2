"""The clip by the common norm of many gradients, alone or with SGD: two launches, no waiting.

The first sums squares: every program those of its chunks, in a fixed order, in float64. The second
adds up these parts, each program for itself and in the same order, and scales its chunks.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnfast.backends.triton.addresses import CHUNK, Addresses, addresses
from rnnfast.backends.triton.launch import launch, padded

PROGRAMS = 1024  # at most, since every program of the second launch reads a part of each
WARPS = 8


def clip_(grads: Sequence[Tensor], max_norm: float, d2l: bool) -> Tensor:
    """`reference.clip_grads_` for gradients of one device, none of them expanded."""
    filled = [g for g in grads if g.numel()]
    if not filled:
        return grads[0].new_zeros(())
    norm = grads[0].new_empty(())
    flat = [g if is_dense(g) else g.contiguous() for g in filled]
    groups = [[g for g in flat if g.dtype == dtype] for dtype in {g.dtype: 0 for g in flat}]
    tables = [addresses(group) for group in groups]
    parts = _norm_parts(groups, tables)
    if are_disjoint(filled):
        for group, table in zip(groups, tables, strict=True):
            _scale(table, group[0], parts, norm, max_norm, 0.0, d2l, True)
        for g, scaled in zip(filled, flat, strict=True):
            if g is not scaled:
                g.copy_(scaled)
    else:  # shared memory is scaled once for each time it is listed, one after the other
        for g in filled:
            scaled = g if is_dense(g) else g.contiguous()
            _scale(addresses([scaled]), scaled, parts, norm, max_norm, 0.0, d2l, True)
            if g is not scaled:
                g.copy_(scaled)
    return norm


def sgd_(params: Sequence[Tensor], grads: Sequence[Tensor], lr: float, max_norm: float) -> None:
    """d2l's clip, then param -= lr * grad; an infinite max_norm clips nothing (one launch).

    Dense tensors of one dtype, none overlapping another; params laid out as grads.
    """
    pairs = [(g, p) for g, p in zip(grads, params, strict=True) if g.numel()]
    if not pairs:
        return
    filled, partners = [g for g, _ in pairs], [p for _, p in pairs]
    table = addresses(filled, partners)
    clips = max_norm != math.inf
    parts = _norm_parts([filled], [table]) if clips else None
    _scale(table, filled[0], parts, None, max_norm, lr, True, clips)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def are_disjoint(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor reaches into the memory of another."""
    spans = sorted((t.data_ptr(), t.data_ptr() + _reach(t)) for t in tensors if t.numel())
    return all(end <= start for (_, end), (start, _) in pairwise(spans))


def _reach(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    steps = (
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return (sum(steps) + 1) * tensor.element_size()


def _norm_parts(groups: list[list[Tensor]], tables: list[Addresses]) -> Tensor:
    """Sums of squares of all groups, one per program, float64."""
    programs = [min(table.chunks, PROGRAMS) for table in tables]
    parts = tables[0].rows.new_empty(sum(programs), dtype=torch.float64)
    for group, table, mine in zip(groups, tables, parts.split(programs), strict=True):
        args = (table.rows, group[0], mine, table.chunks)
        launch(norm_kernel, (len(mine),), *args, COUNT=table.count, CHUNK=CHUNK, num_warps=WARPS)
    return parts


def _scale(
    table: Addresses,
    like: Tensor,
    parts: Tensor | None,
    norm: Tensor | None,
    max_norm: float,
    lr: float,
    d2l: bool,
    clips: bool,
) -> None:
    count = 0 if parts is None else len(parts)
    args = (table.rows, like, parts, count, norm, float(max_norm), float(lr), table.chunks)
    launch(
        scale_kernel,
        (min(table.chunks, PROGRAMS),),
        *args,
        COUNT=table.count,
        CHUNK=CHUNK,
        PARTS=padded(count),
        CLIP=clips,
        D2L=d2l,
        SGD=norm is None,
        num_warps=WARPS,
    )


@triton.jit
def _chunk(table, starts, chunk, COUNT: tl.constexpr, CHUNK: tl.constexpr):
    """Which tensor a chunk belongs to, its offsets there, and which of them are inside."""
    owner = tl.sum((starts <= chunk).to(tl.int32), axis=0) - 1
    first = tl.load(table + 3 * COUNT + owner)
    offsets = (chunk - first) * CHUNK + tl.arange(0, CHUNK)
    return owner, offsets, offsets < tl.load(table + 2 * COUNT + owner)


@triton.jit(do_not_specialize=["chunks"])
def norm_kernel(table, like, parts, chunks, COUNT: tl.constexpr, CHUNK: tl.constexpr):
    starts = tl.load(table + 3 * COUNT + tl.arange(0, COUNT))
    squares = tl.zeros((CHUNK,), tl.float64)
    for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
        owner, offsets, inside = _chunk(table, starts, chunk, COUNT, CHUNK)
        grad = tl.load(table + owner).to(like.dtype)
        g = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
        squares += g * g
    tl.store(parts + tl.program_id(0), tl.sum(squares, axis=0))


@triton.jit(do_not_specialize=["count", "chunks"])
def scale_kernel(
    table,
    like,
    parts,
    count,
    norm,
    max_norm,
    lr,
    chunks,
    COUNT: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    CLIP: tl.constexpr,
    D2L: tl.constexpr,
    SGD: tl.constexpr,
):
    factor = tl.cast(1.0, tl.float32)
    if CLIP:
        part = tl.arange(0, PARTS)
        total = tl.sqrt(tl.sum(tl.load(parts + part, mask=part < count, other=0.0), axis=0))
        limit = tl.cast(max_norm, tl.float64)
        if D2L:
            wide = tl.where(total > limit, limit / total, 1.0)
        else:
            wide = limit / (total + 1e-6)
            wide = tl.where(wide > 1, 1.0, wide)  # NaN stays NaN
        factor = wide.to(tl.float32)
        if norm is not None and tl.program_id(0) == 0:
            tl.store(norm, total)
    if SGD or factor != 1:
        starts = tl.load(table + 3 * COUNT + tl.arange(0, COUNT))
        for chunk in range(tl.program_id(0), chunks, tl.num_programs(0)):
            owner, offsets, inside = _chunk(table, starts, chunk, COUNT, CHUNK)
            grad = tl.load(table + owner).to(like.dtype) + offsets
            g = tl.load(grad, mask=inside, other=0.0)
            if CLIP:
                g = (g.to(tl.float32) * factor).to(g.dtype)
                tl.store(grad, g, mask=inside)
            if SGD:
                param = tl.load(table + COUNT + owner).to(like.dtype) + offsets
                p = tl.load(param, mask=inside, other=0.0).to(tl.float32)
                tl.store(param, p - lr * g.to(tl.float32), mask=inside)
