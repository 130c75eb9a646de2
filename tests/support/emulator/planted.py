"""Bugs to be planted into the recurrence's kernels: what a patch breaks, and where it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from rnnfast.backends.cuda.kernel_table import Variant
from support.emulator.recurrence import cluster, large_batch, single_block
from support.problems import Problem, make

Patch = tuple[str, str, str]  # a file of the device code, its text, and other text


@dataclass(frozen=True)
class Protocol:
    """A kernel, its bugs, and how they are looked for."""

    variant: Variant
    problems: Callable[[], list[Problem]]
    seeds: int  # within so many each bug is found
    bugs: dict[str, Patch]
    quick: tuple[str, ...]  # those of every test run
    races: tuple[str, ...]  # those that ThreadSanitizer names
    steps: int  # under ThreadSanitizer
    harmless: Patch | None = None  # the last barrier, which the proof does not need


def _of_any_size() -> Problem:
    p = make(4, 3, 250)
    grad_hs = p.grad_hs * torch.tensor([1.0, 1e3, 1e-3])[:, None]
    return replace(p, grad_hs=grad_hs, grad_h_last=None)


def _with_infinity() -> Problem:
    """Infinity makes NaN in padding that is written."""
    p = make(9, 3, 62, V=5, relu=True)
    p.x[3] = torch.inf
    return replace(p, W_hh=p.W_hh.abs())


LAST_BARRIER = "cluster_barrier();  // no block leaves", "// no block leaves"


def _cluster() -> Protocol:
    unit = "cluster.cu"
    exchange, inputs, product = (f"cluster_{x}.cuh" for x in ("exchange", "inputs", "product"))
    announce = "threadIdx.x == 0 && s + 2 <= last_) mbarrier_expect(full(s & 1), kBytes)"
    half = announce.replace("kBytes", "kBytes / 2")
    came, later = "wait_copies_but<kAhead - 1>();", "wait_copies_but<kAhead>();"
    begun = "begin_state(p, row0, rows);\n  "
    bugs = {
        "h is kept once": (exchange, "(s & 1) * kRows * kHp", "0 * kRows * kHp"),
        "nothing is announced after the first": (exchange, announce, "false) return"),
        "half of the bytes are announced": (exchange, announce, half),
        "nobody waits for h": (exchange, "running_ && !ends_in_time(", "false && !ends_in_time("),
        "waits for the wrong parity": (exchange, "(s - 1) >> 1 & 1", "s >> 1 & 1"),
        "mbarriers are used too early": (unit, f"{begun}cluster_barrier", f"{begun}__syncthreads"),
        "a part is sent before it is written": (unit, "__syncthreads();\n    exchange", "exchange"),
        "a block sends to all but the last": (exchange, "(i) >= kCluster", "(i) >= kCluster - 1"),
        "a row is sent to another's place": (
            exchange,
            "/ (kColumns / 4) * kHp",
            "/ kColumns * kHp",
        ),
        "inputs are read before they have come": (inputs, came, ""),
        "ids are read before they have come": (inputs, came, later),
        "a slot holds another column": (product, "c ^ (output", "c + 0 * (output"),
        "a row's sum goes to another": (product, "sums[r + half][c]", "sums[half][c]"),
        "a lane has the row of another": (product, "lane / 8 % kRows", "lane / 8 % 2"),
        "h0 is read beyond its end": (unit, "row < rows && k < p.H", "row < rows && k <= p.H"),
    }
    return Protocol(
        variant=cluster(128, 4, 4),
        problems=lambda: [make(12, 4, 120, V=5)],
        seeds=30,
        bugs=bugs,
        quick=("nobody waits for h", "a part is sent before it is written"),
        races=("h is kept once", "a part is sent before it is written"),
        steps=12,
        harmless=(unit, *LAST_BARRIER),
    )


def _large_batch(buffers: int) -> Protocol:
    unit, exchange = "large_batch.cu", "large_batch_exchange.cuh"
    product = "large_batch_product.cuh"
    announce = "if (running_ && announces) mbarrier_expect(arrived, state_.slice_bytes());"
    fewer = announce.replace("_bytes()", "_bytes() - 16")
    multiply = "if (!kBackward || s > 0) product.multiply(state, exchange, s);"
    written, begun = "fence_async();\n    __syncthreads();", "begin_state(p, state, own);\n  "
    target, others = "in_block(slice, block)", "in_block(state_.slice(0, rank_ ^ 1), block)"
    wait, parity = "exchange.wait_for_room(s);", "(s - 1) >> (kBuffers - 1) & 1"
    reads = f"""{multiply}
    __syncthreads();
    float2 v[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {{
      if (own.row(i) >= p.rows) continue;
      v[i] = product_of_row(p, state, product, own, s, i);
    }}
"""
    release = "    exchange.release(s);\n"
    of_buffers = {
        1: {
            "nobody waits until h has been read": (unit, wait, ""),
            "h is given up before it is read": (unit, reads + release, release + reads),
            "a slice is sent on before it has come": (exchange, "    wait_for_copies();\n", ""),
            "a slice is sent on from another's": (
                exchange,
                "(slice, scratch,",
                "(slice, scratch_,",
            ),
            "blocks share their scratch": (exchange, "int>(blockIdx.x)", "int>(rank_ / 2)"),
            "a slice comes back": (exchange, " & ~(1u << rank_)", ""),
            "the last block gets no slice": (exchange, "1u << kCluster", "1u << (kCluster - 1)"),
            "a slice goes to another's place": (
                exchange,
                "copy_to_blocks(slice,",
                "copy_to_blocks(state_.slice(0, rank_ ^ 1),",
            ),
        },
        2: {
            "h is kept once": (unit, "state.slice(s + 1, rank)", "state.slice(s, rank)"),
            "mbarriers are used too early": (
                unit,
                f"{begun}cluster_barrier",
                f"{begun}__syncthreads",
            ),
            "a slice goes to another's place": (exchange, target, others),
        },
    }[buffers]
    races = {
        1: ("nobody waits until h has been read", "a slice is sent on before it has come"),
        2: ("h is kept once",),
    }[buffers]
    bugs = of_buffers | {
        "nothing is announced after the first": (exchange, announce, ""),
        "16 bytes too few are announced": (exchange, announce, fewer),
        "nobody waits for h": (exchange, "running_ && !ends_in_time(", "false && !ends_in_time("),
        "waits for the wrong parity": (exchange, parity, parity.replace("(s - 1)", "s")),
        "sums are read before they are written": (
            unit,
            f"{multiply}\n    __syncthreads();",
            multiply,
        ),
        "a slice is sent before it is written": (unit, written, "fence_async();"),
        "nobody waits for the products": (product, "multiply_wait(chain);", ""),
        "a row has the factor of another": (product, "[min(row(i), anew(rows_) - 1)]", "[0]"),
        "no fence shows the copies a slice": (unit, written, "__syncthreads();"),
        "no fence shows the products h_0": (unit, "  }\n  fence_async();\n}", "  }\n}"),
    }
    return Protocol(
        variant=large_batch(256, 3, buffers=buffers, multicasts=int(buffers == 1)),
        problems=lambda: [_of_any_size()],
        seeds=8,
        bugs=bugs,
        quick=(*races, "sums are read before they are written"),
        races=(*races, "sums are read before they are written"),
        steps=4,
        harmless=(unit, *LAST_BARRIER),
    )


def _single_block() -> Protocol:
    steps, inputs, product = (f"single_block_{x}.cuh" for x in ("steps", "inputs", "product"))
    first = "if (kBackward && !kOptions && p.first != nullptr) add_to_first();"
    barrier = "    } else {\n      __syncthreads();\n    }"
    bugs = {
        "no barrier between steps": (steps, barrier, "    }"),
        "h is kept once": (steps, "return h_ + u % 2 * kRows * kHp;", "return h_;"),
        "padding is written": (steps, "if (place_.is_real) to[", "to["),
        "inputs are read before they have come": (inputs, "wait_copies_but<kAhead - 1>();", ""),
        "inputs are waited for a step too late": (inputs, "but<kAhead - 1>", "but<kAhead>"),
        "ids are those of the step before": (inputs, "now_[r], s);", "now_[r], s - 1);"),
        "ids of later steps are not loaded": (
            inputs,
            "load(r, s + 32 + first_, start_)",
            "next_[r]",
        ),
        "grad_h_last is left out": (inputs, first, ""),
        "a lane sends the wrong half": (product, "slots[r][s + n], n)", "slots[r][s], n)"),
        "h0 is read beyond its end": (steps, "r < kRows && k < p_.H", "r < kRows && k <= p_.H"),
        "rows are taken to be aligned": ("sequence.cuh", "H % 4 == 0 && is_aligned(p)", "true"),
        "h_last is written beside": (steps, "finish();\n", "finish(), p_.last[-1] = 0.f;\n"),
    }
    return Protocol(
        variant=single_block(64, 4),
        problems=lambda: [_with_infinity(), make(41, 3, 62, V=5)],
        seeds=6,
        bugs=bugs,
        quick=tuple(bugs),
        races=("no barrier between steps",),
        steps=37,
    )


PROTOCOLS = {
    "cluster": _cluster(),
    "large_batch": _large_batch(buffers=2),
    "large_batch, one buffer": _large_batch(buffers=1),
    "single_block": _single_block(),
}
