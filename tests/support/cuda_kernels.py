"""Calls of the CUDA kernels around the recurrence, emulated on the CPU, as the tests make them."""

import functools
import math

import torch

from rnnfast.backends import library
from rnnfast.backends.cuda import kernel_table
from support.emulator import build
from support.emulator.params import constant, params

assert library.load_error() == ""

KERNELS = {
    "clip_norm": ("clip_sums", "clip_scale"),
    "cross_entropy": ("cross_entropy",),
    "row_sums": ("row_sums",),
    "sum_parts": ("sum_parts",),
    "readout": ("readout",),
    "gradients": ("gradients",),
    "weight_product": ("weight_product",),
    "decode": ("decode",),
}


@functools.cache
def unit_of(name, options="", bug=()):
    """The emulated unit; `bug` breaks it: a file, a text in it and what stands there instead."""
    return build.Unit(name, options, *KERNELS[name], patch=bug)


def new(*shape, dtype=torch.float32):
    """Memory that a kernel must write: NaN, or -1 for integers."""
    return torch.full(shape, math.nan if dtype.is_floating_point else -1, dtype=dtype)


def real(tensor):
    return f"-DRF_REAL={'double' if tensor.dtype == torch.float64 else 'float'}"


def table_of(grads, parameters=None):
    """The gradients as the kernel takes them: whole where contiguous, else as rows."""
    entries, chunks = [], 0
    for i, grad in enumerate(grads):
        if grad.numel() == 0:
            continue
        if grad.is_contiguous():
            layout = {"row": grad.numel(), "stride": 1}
        else:
            row_stride, stride = grad.stride()
            layout = {"row": grad.shape[1], "row_stride": row_stride, "stride": stride}
        entries.append(
            params(
                "GradientRows",
                values=grad,
                parameter=parameters[i] if parameters else None,
                count=grad.numel(),
                is_double=grad.dtype == torch.float64,
                first_chunk=chunks,
                **layout,
            )
        )
        chunks += -(-grad.numel() // constant("kClipChunk"))
    return entries, chunks


def clip(grads, max_norm, d2l, parameters=None, lr=0.0, grid=3, seed=0, bug=()):
    unit = unit_of("clip_norm", bug=bug)
    geometry = {"cluster": 1, "block": constant("kClipThreads"), "shared_bytes": 64, "seed": seed}
    entries, chunks = table_of(grads, parameters)
    table = {"gradients": entries, "num_gradients": len(entries), "num_chunks": chunks}
    grid = max(1, min(grid, chunks))
    sums, norm = new(grid, dtype=torch.float64), new(dtype=grads[0].dtype)
    unit.launch("clip_sums", params("ClipSumsParams", sums=sums, **table), grid=grid, **geometry)
    out = "norm_float64" if norm.dtype == torch.float64 else "norm"
    scale = params(
        "ClipScaleParams",
        sums=sums,
        num_sums=grid,
        d2l=d2l,
        max_norm=max_norm,
        lr=lr,
        **{out: norm},
        **table,
    )
    unit.launch("clip_scale", scale, grid=grid, **geometry)
    return norm


def cross_entropy(logits, targets, bias=None, wants_gradient=True, warps=1, seed=0, bug=()):
    """(losses, error word) of logits [T*B, V] and targets [T, B]; logits become the gradient."""
    (T, B), V = targets.shape, logits.shape[1]
    losses, error = new(T * B, dtype=logits.dtype), torch.zeros(1, dtype=torch.int32)
    arguments = params(
        "CrossEntropyParams",
        N=T * B,
        V=V,
        B=B,
        targets=targets,
        targets_stride_t=targets.stride(0),
        targets_stride_b=targets.stride(1),
        bias=torch.zeros(V, dtype=logits.dtype) if bias is None else bias,
        logits=logits,
        losses=losses,
        wants_gradient=wants_gradient,
        error=error,
    )
    unit = unit_of("cross_entropy", f"{real(logits)} -DRF_ROW_WARPS={warps}", bug)
    grid = -(-T * B * warps // 8)
    unit.launch(
        "cross_entropy", arguments, grid=grid, cluster=1, block=256, shared_bytes=64, seed=seed
    )
    return losses, int(error)


def layout_of(ids):
    """What a kernel is told of ids [T, B]; nothing where there are none."""
    if ids is None:
        return {}
    strides = {"ids_stride_t": ids.stride(0), "ids_stride_b": ids.stride(1)}
    return {"ids": ids, "B": ids.shape[1], **strides}


def row_sums(jobs, warps=2, tile=1, slices=1, seed=0, bug=()):
    """For each (x [N, C], ids [T, B] or None, V): its sums [V, C], all in one launch."""
    outs, entries = [], []
    for x, ids, V in jobs:
        (N, C), job_tile = x.shape, tile if ids is not None else 1
        outs.append(new(slices, V, C, dtype=x.dtype))
        blocks = slices * -(-V // job_tile) * -(-C // 32)
        sizes = {"N": N, "C": C, "V": V, "slices": slices, "tile": job_tile, "blocks": blocks}
        entries.append(params("RowSums", x=x, sums=outs[-1], **sizes, **layout_of(ids)))
    unit = unit_of("row_sums", real(jobs[0][0]), bug)
    unit.launch(
        "row_sums",
        params("RowSumsParams", jobs=entries, num_jobs=len(entries)),
        grid=sum(entry.blocks for entry in entries),
        cluster=1,
        block=32 * warps,
        shared_bytes=256 * warps * tile,
        seed=seed,
    )
    if slices == 1:
        return [out[0] for out in outs]
    return sum_parts(outs, seed=seed)[0]


def sum_parts(parts, gradients=(), grid=2, seed=0, bug=()):
    """(sums of each [num_parts, ...] over its parts, sum of the squares of those in gradients)."""
    outs = [new(*part.shape[1:], dtype=part.dtype) for part in parts]
    entries, tiles = [], 0
    for i, (part, out) in enumerate(zip(parts, outs, strict=True)):
        sizes = {"num_parts": len(part), "count": out.numel(), "first_tile": tiles}
        entries.append(params("PartSum", parts=part, out=out, is_gradient=i in gradients, **sizes))
        tiles += -(-out.numel() // (constant("kSumThreads") if len(part) == 1 else 32))
    grid = min(grid, tiles)
    squares = new(grid, dtype=torch.float64)
    arguments = params(
        "SumPartsParams",
        jobs=entries,
        num_jobs=len(entries),
        num_tiles=tiles,
        squares=squares if gradients else None,
    )
    unit_of("sum_parts", real(parts[0]), bug).launch(
        "sum_parts",
        arguments,
        grid=grid,
        cluster=1,
        block=constant("kSumThreads"),
        shared_bytes=constant("kSumThreads") * parts[0].element_size(),
        seed=seed,
    )
    return outs, squares.sum()


def readout(
    hs, W_hq, b_q, targets, wants_gradient=True, columns=1, grid=3, seed=0, resident=1, bug=()
):  # fmt: skip
    """(loss, grad_logits, grad_hs, grad_b_q, error word) of hs [T*B, H] and targets [T, B]."""
    (T, B), (H, V) = targets.shape, W_hq.shape
    grid = min(grid, -(-T * B // 8))
    losses, grad_b_q = new(grid, dtype=hs.dtype), new(grid, V, dtype=hs.dtype)
    grad_logits, grad_hs = new(T * B, V, dtype=hs.dtype), new(T * B, H, dtype=hs.dtype)
    error = torch.zeros(1, dtype=torch.int32)
    arguments = params(
        "ReadoutParams",
        N=T * B,
        H=H,
        V=V,
        B=B,
        targets=targets,
        targets_stride_t=targets.stride(0),
        targets_stride_b=targets.stride(1),
        hs=hs,
        W_hq=W_hq,
        b_q=b_q,
        losses=losses,
        grad_logits=grad_logits if wants_gradient else None,
        grad_hs=grad_hs,
        grad_b_q=grad_b_q,
        error=error,
    )
    tile, classes, bytes = 1024 // columns // hs.element_size(), 32 * columns, hs.element_size()
    unit_of("readout", f"{real(hs)} -DRF_COLUMNS={columns}", bug).launch(
        "readout",
        arguments,
        grid=grid,
        cluster=1,
        block=256,
        shared_bytes=bytes * (8 * tile + 72 * classes + 8 + tile * (classes + 1)),
        seed=seed,
        resident=resident,
    )
    return losses.sum(), grad_logits, grad_hs, grad_b_q.sum(0), int(error)


def matrix_rows(others, first=None):
    """The rows of `first` and of `others`, which may be parts of longer ones."""
    given = {"others": others, "row": others.stride(0), "columns": others.shape[1]}
    if first is not None:
        given |= {"first": first, "num_first": len(first), "first_row": first.stride(0)}
    return params("MatrixRows", **given)


def gradients(x, ids, V, products, rows=32, seed=0, resident=1, bug=()):
    """In parts: sums of x [N, C] by ids [T, B], of all rows, and A^T B of each (first, others, B).

    A is `first` and below it `others`, [N, K] or more rows; B is [N, J]. ids None: V is 0.
    """
    (N, C), columns = x.shape, -(-x.shape[1] // 256)
    slices, classes = -(-N // rows), 128 // x.element_size()
    table, sums = new(slices, V, C, dtype=x.dtype), new(slices, C, dtype=x.dtype)
    tiles = max(1, -(-V // classes)) * columns
    of_rows = params(
        "GradientSums", x=x, C=C, V=V, table=table, sums=sums, tiles=tiles, **layout_of(ids)
    )
    entries, outs = [], []
    for first, others, b in products:
        K, J = first.shape[1], b.shape[1]
        outs.append(new(slices, K, J, dtype=x.dtype))
        sides = {"a": matrix_rows(others, first), "b": matrix_rows(b)}
        tiles_here = -(-K // 64) * -(-J // 64)
        entries.append(params("GradientProduct", parts=outs[-1], tiles=tiles_here, **sides))
        tiles += tiles_here
    arguments = params(
        "GradientsParams", sums=of_rows, products=entries, N=N, rows=rows, tiles=tiles
    )
    unit_of("gradients", real(x), bug).launch(
        "gradients",
        arguments,
        grid=slices * tiles,
        cluster=1,
        block=256,
        shared_bytes=classes * 256 * x.element_size() + 128,
        seed=seed,
        resident=resident,
    )
    return [table, sums, *outs]


def weight_product(a, b, rows, num_first=0, seed=0, resident=1, bug=()):
    """A^T B of a and b [N, H], in parts of so many rows; the first of a lie elsewhere."""
    N, H = a.shape
    first, others = a[:num_first].clone(), a[num_first:]
    sides = {"a": matrix_rows(others, first), "b": matrix_rows(b)}
    slices, tiles = -(-N // rows), (-(-H // 128)) ** 2
    parts = new(slices, H, H)
    unit_of("weight_product", bug=bug).launch(
        "weight_product",
        params("WeightProductParams", N=N, H=H, rows=rows, parts=parts, **sides),
        grid=slices * tiles,
        cluster=1,
        block=256,
        shared_bytes=4 * 32 * (128 + 8) * 4,
        seed=seed,
        resident=resident,
    )
    return parts


def decode_options(shape, holds=True, relu=False):
    names = ["HP", "CLUSTER", "WARPS", "ROWS", "SMEM_CHUNKS", "HOLDS_TABLES", "CELL"]
    values = zip(names, (*shape, int(holds), int(relu)), strict=True)
    return " ".join(f"-DRF_{name}={value}" for name, value in values)


def decode(
    first, W_xh, W_hh, b_h, W_hq, b_q, h0, steps, temperature=1.0, uniforms=None, relu=False,
    shape=(32, 1, 2, 1, 0), holds=True, wait_limit=2**50, seed=0, resident=1, bug=(),
):  # fmt: skip
    """(ids, h_last, error word). shape: RF_HP, RF_CLUSTER, RF_WARPS, RF_ROWS, RF_SMEM_CHUNKS."""
    (V, H), B = W_xh.shape, len(first)
    _, cluster, warps, rows, _ = shape
    ids, h_last = new(steps, B, dtype=torch.int64), new(B, H)
    error = torch.zeros(1, dtype=torch.int32)
    arguments = params(
        "DecodeParams",
        B=B, H=H, V=V, steps=steps, first=first, W_xh=W_xh, W_hh=W_hh, b_h=b_h, W_hq=W_hq, b_q=b_q,
        h0=h0, temperature=temperature, uniforms=uniforms, ids=ids, h_last=h_last,
        wait_limit=wait_limit, error=error,
    )  # fmt: skip
    needs = kernel_table.Variant("decode", shape).needs(holds, H=H, V=V)
    assert needs is not None, shape
    unit_of("decode", decode_options(shape, holds, relu), bug).launch(
        "decode",
        arguments,
        grid=-(-B // rows) * cluster,
        cluster=cluster,
        block=32 * warps,
        shared_bytes=needs.shared_bytes,
        seed=seed,
        resident=resident,
    )
    return ids, h_last, int(error)
