"""Rows of a table by id: the gather, and the sum by id that is its adjoint."""

import triton
import triton.language as tl
from torch import Tensor

from rnnfast.backends.triton.launch import launch, padded

POSITIONS = 256  # ids that a program looks at together: few round trips for the usual T * B
GATHERED = 1024  # elements that a program of the gather copies at a time


def gather(
    table: Tensor,  # [V, H]
    ids: Tensor,  # [T, B]
    bias: Tensor | None,  # [H]
    out: Tensor,  # [T, B, H]
) -> None:
    """out = table[ids] + bias; NaN where an id is none of the table's rows."""
    V, H = table.shape
    T, B = ids.shape
    args = (table, ids, *ids.stride(), bias, out, B, V, H)
    block = min(padded(H), GATHERED)
    launch(gather_kernel, (T * B,), *args, BLOCK=block, num_warps=4 if block > 128 else 1)


def sum_by_id(
    dz: Tensor,  # [T, B, H]
    ids: Tensor,  # [T, B]
    table: Tensor,  # [V, H]
    total: Tensor | None,  # [H]
) -> None:
    """table[v] = sum of dz where the id is v; total = sum of all dz. Both are overwritten.

    A program has one row of the table and adds in the order of positions, so that the result is the
    same on every run; positions of other ids are not read.
    """
    T, B, H = dz.shape
    V = table.shape[0]
    columns = min(padded(H), 32)
    grid = (V + (total is not None), triton.cdiv(H, columns))
    args = (dz, ids, *ids.stride(), table, total, T * B, B, V, H)
    launch(sum_kernel, grid, *args, POSITIONS=POSITIONS, COLUMNS=columns, num_warps=8)


@triton.jit(do_not_specialize=["ids_step", "ids_row", "B", "V"])
def gather_kernel(table, ids, ids_step, ids_row, bias, out, B, V, H, BLOCK: tl.constexpr):
    position = tl.cast(tl.program_id(0), tl.int64)
    id = tl.load(ids + position // B * ids_step + position % B * ids_row)
    known = (id >= 0) & (id < V)
    row = table + tl.where(known, id, 0) * H
    for start in range(0, H, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        u = tl.load(row + cols, mask=cols < H).to(tl.float32)
        if bias is not None:
            u += tl.load(bias + cols, mask=cols < H).to(tl.float32)
        tl.store(out + position * H + cols, tl.where(known, u, float("nan")), mask=cols < H)


@triton.jit(do_not_specialize=["ids_step", "ids_row", "count", "B", "V"])
def sum_kernel(
    dz,
    ids,
    ids_step,
    ids_row,
    table,
    total,
    count,
    B,
    V,
    H,
    POSITIONS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    v = tl.program_id(0)
    everything = tl.where(v == V, count, 0)  # positions that the program after the last row adds up
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((POSITIONS, COLUMNS), tl.float32)
    for start in range(0, count, POSITIONS):
        at = tl.cast(start, tl.int64) + tl.arange(0, POSITIONS)
        id = tl.load(ids + at // B * ids_step + at % B * ids_row, mask=at < count, other=-1)
        mine = (id == v) | (at < everything)
        wanted = mine[:, None] & (cols < H)[None, :]
        sums += tl.load(dz + at[:, None] * H + cols[None, :], mask=wanted, other=0.0).to(tl.float32)
    row = tl.sum(sums, axis=0)
    if v < V:
        tl.store(table + tl.cast(v, tl.int64) * H + cols, row, mask=cols < H)
    elif total is not None:
        tl.store(total + cols, row, mask=cols < H)
