"""Which variant of csrc/cuda/decode.cu generates: by H, V, batch and what the device has.

The first row of the table that fits wins. A step's time is that of two exchanges between blocks
(modelled 0.15 us each) and some barriers, so the smallest cluster that holds W_hh in registers is
the best; what does not fit anywhere is read from the L2 cache in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rnnfast.backends.cuda import bridge
from rnnfast.backends.cuda.bridge import Geometry, Limits, Plan, Question


@dataclass(frozen=True)
class Variant:
    """The macros of decode.cu and where they can run."""

    hp: int  # H padded; 0: any H, W_hh is streamed
    cluster: int
    warps: int
    smem_chunks: int = 0
    least_capability: int = 80
    most_capability: int = 999
    most_rows: int = 4  # sequences per cluster; more would spill registers

    def macros(self, rows: int) -> tuple[int, ...]:
        """In the order of DecodeShape."""
        return self.hp, self.cluster, self.warps, rows, self.smem_chunks

    def runs_on(self, capability: int) -> bool:
        return self.least_capability <= capability <= self.most_capability

    def options(self, rows: int, holds_tables: bool, relu: bool) -> str:
        names = ("HP", "CLUSTER", "WARPS", "ROWS", "SMEM_CHUNKS")
        values = dict(zip(names, self.macros(rows), strict=True))
        values |= {"HOLDS_TABLES": holds_tables, "RELU": relu}
        return " ".join(f"-DRF_{name}={int(value)}" for name, value in values.items())


TABLE = (
    Variant(64, 1, 4),
    Variant(128, 1, 8),
    Variant(256, 4, 8, least_capability=90),
    Variant(256, 1, 16, smem_chunks=16, most_capability=89, most_rows=1),
    Variant(512, 8, 8, least_capability=90),
    Variant(1024, 16, 8, smem_chunks=32, least_capability=90),
    Variant(0, 16, 8, least_capability=90),
    Variant(0, 8, 8, least_capability=90),
    Variant(0, 1, 16),
)
HOLDS_TABLES = (True, False)  # W_xh and W_hq in shared memory, where there is room


def choose(question: Question) -> Plan | None:
    """The plan for a call; None: step by step, for float64 or very many classes."""
    if question.dtype_bits != 32:
        return None
    limits = bridge.limits(question.device)

    def clusters(plan: Plan) -> int:
        return bridge.max_active_clusters(plan, question.device)

    return decide(question, limits, clusters)


def decide(question: Question, limits: Limits, ask: Callable[[Plan], int]) -> Plan | None:
    """The first variant that fits; `ask` says how many of a plan's clusters run at once."""
    for variant in TABLE:
        if not variant.runs_on(limits.compute_capability) or 0 < variant.hp < question.H:
            continue
        plan = _fit(variant, 1, question, limits)
        clusters = ask(plan) if plan else 0
        if not plan or clusters == 0:
            continue
        if clusters < question.B:  # not all at once: several per cluster read the weights once
            plan = _fit(variant, variant.most_rows, question, limits) or plan
        return plan
    return None


def options(capability: int) -> Iterator[str]:
    """Of every variant that may be launched on a device of this compute capability."""
    for variant in TABLE:
        if variant.runs_on(capability):
            for rows in sorted({1, variant.most_rows}):
                for holds in HOLDS_TABLES:
                    for relu in (False, True):
                        yield variant.options(rows, holds, relu)


def _fit(variant: Variant, rows: int, question: Question, limits: Limits) -> Plan | None:
    for holds in HOLDS_TABLES:
        size = bridge.decode_bytes(variant.macros(rows), question.H, question.V, holds)
        if not 0 < size <= limits.shared_bytes:
            continue
        clusters = -(-question.B // rows)
        geometry = Geometry(clusters * variant.cluster, variant.cluster, 32 * variant.warps, size)
        options = variant.options(rows, holds, question.relu)
        return Plan("decode", "decode", options, geometry, rows, transpose=False)
    return None
