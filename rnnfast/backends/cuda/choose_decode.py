"""Which variant of csrc/cuda/device/decode.cu generates: by H, V, batch and what the device has.

The first row of the table that fits wins. A step's time is that of two exchanges between blocks and
some barriers, so the smallest cluster that holds W_hh in registers is the best; what does not fit
anywhere is read from the L2 cache in every step.
"""

from __future__ import annotations

from collections.abc import Callable

from rnnfast.backends.cuda.bridge import Geometry, Limits, Plan, Question
from rnnfast.backends.cuda.kernel_table import Variant, table


def decide(question: Question, limits: Limits, resident: Callable[[Plan], int]) -> Plan | None:
    """The first variant that fits; `resident` says how many of a plan's clusters run at once.

    None: step by step, for float64 or very many classes.
    """
    if question.dtype_bits != 32:
        return None
    for variant in table():
        if variant.unit != "decode" or not variant.runs_on(limits.compute_capability):
            continue
        if 0 < variant.hp < question.H:
            continue
        plan = _fit(variant.with_rows(1), question, limits)
        clusters = resident(plan) if plan else 0
        if not plan or clusters == 0:
            continue
        if clusters < question.B:  # not all at once: several per cluster read the weights once
            plan = _fit(variant, question, limits) or plan
        return plan
    return None


def _fit(variant: Variant, question: Question, limits: Limits) -> Plan | None:
    for holds_tables in (True, False):  # W_xh and W_hq in shared memory, where there is room
        needs = variant.needs(holds_tables, H=question.H, V=question.V)
        if needs is None or needs.shared_bytes > limits.shared_bytes:
            continue
        rows = variant["ROWS"]
        geometry = Geometry(
            -(-question.B // rows) * variant.cluster,
            variant.cluster,
            needs.threads,
            needs.shared_bytes,
        )
        options = variant.options(HOLDS_TABLES=holds_tables, CELL=question.cell)
        return Plan("decode", "decode", options, geometry, rows)
    return None
