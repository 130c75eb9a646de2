"""Which variant of the recurrence's kernel runs: by H, batch, products and what the device has.

The variants stand in recurrence_variants.json, one row each. For a call, each row that fits the
device gets the largest share of the batch per cluster that the device's clusters leave it, and a
time per step by a model; the smallest time wins, also against tier L, one matrix product and one
kernel per step.

The model, in clock cycles per step (nothing in it has been measured on a GPU, but where a row has
"cycles" for a compute capability, which a benchmark can add, those are used):

    step = waves * max(groups * issue, issue + latency)

Every group of rows costs `issue` cycles of the busiest pipe: instructions on four schedulers,
16-byte loads from shared memory at 4 cycles each, weights from the L2 cache, the exchange of h.
What one group waits for (wake-up, reduction, tanh, the way to other blocks) other groups hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rnnfast.backends.cuda import bridge, choose_decode, precision
from rnnfast.backends.cuda.bridge import Geometry, Limits, Plan, Question
from rnnfast.backends.cuda.kernel_table import (
    PRODUCTS,
    WEIGHTS,
    Facts,
    Variant,
    facts_of,
    padded,
    table,
)

_CLOCK = 1.9e3  # cycles per microsecond, of an H100 under load
_LAUNCH = 2.7  # microseconds from one small kernel to the next [read, not measured]
# Of the multiprocessors, those that clusters of this size can use: 132 give 32, 15 and 7 clusters.
_USABLE = {1: 1.0, 2: 1.0, 4: 0.97, 8: 0.91, 16: 0.85}
# Cycles of one of four schedulers for a warp's FFMA, and for a product of m16n8k8 in TF32 (or
# m16n8k16 in 16 bits), from the peaks that NVIDIA states: an A100's are 19.5 and 156 TFLOPS, and on
# GeForce both are the same. An H100 would take 4, of which mma.sync reaches 62 % [read]; for a B200
# no figure was found.
_RATES = {80: (2.0, 8.0), 90: (1.0, 6.5), 100: (1.0, 8.0), 103: (1.0, 8.0)}
_GEFORCE_RATES = (1.0, 32.0)


@dataclass(frozen=True)
class Choice:
    """A variant with its launch for one call, and its modelled time."""

    variant: Variant
    facts: Facts
    plan: Plan
    clusters: int  # that the device runs at once
    waves: int
    microseconds: float  # per step, modelled

    def __str__(self) -> str:
        v = self.variant
        size = f"clusters of {v.cluster} blocks" if v.cluster > 1 else "single blocks"
        return (
            f"tier {v.tier()}: {size}, {self.plan.rows} rows each, weights as "
            f"{WEIGHTS[v.weight]} {'' if 'in ' in v.weights_place(self.facts) else 'in '}"
            f"{v.weights_place(self.facts)}, {PRODUCTS[v.product]} products; "
            f"{self.clusters} at once, {self.waves} wave{'s' * (self.waves > 1)}, modelled "
            f"{self.microseconds:.2f} us a step"
        )


def choose(question: Question) -> Plan | None:
    """The plan for a call, its clusters as the device says; None for tier L."""
    if question.operation == "decode":
        return choose_decode.choose(question)
    if question.dtype_bits != 32:
        return None
    limits = bridge.limits(question.device)
    best = decide(
        question,
        limits,
        precision.least_exact(),
        lambda plan: bridge.max_active_clusters(plan, question.device),
    )
    return best.plan if best else None


def explain(device: int, H: int, B: int) -> str:
    """What runs the forward pass of B sequences, and why."""
    question = Question("rnn_forward", B, H, 0, 32, relu=False, ids=True, device=device)
    limits = bridge.limits(device)
    best = decide(question, limits, precision.least_exact())
    steps = f"{by_steps(question, limits):.2f} us step by step"
    if best:
        return f"H={H} B={B}: {best}, against {steps}"
    why = _why_by_steps(question, limits)
    return f"H={H} B={B}: tier L, one product and one kernel per step: {why}"


def _why_by_steps(question: Question, limits: Limits) -> str:
    choices = list(candidates(question, limits, precision.least_exact()))
    if choices:
        best = min(choice.microseconds for choice in choices)
        return f"modelled {by_steps(question, limits):.2f} us against {best:.2f} us"
    if padded(question.H) > max(variant.hp for variant in table()):
        return "W_hh does not fit on the chip"
    return f"no variant in the table fits a device of {limits.compute_capability / 10}"


def decide(
    question: Question,
    limits: Limits,
    least_exact: str,
    ask: Callable[[Plan], int] | None = None,
) -> Choice | None:
    """The fastest by the model whose products are exact enough; None: tier L is.

    The device is asked by `ask` how many clusters of the fastest it runs at once, which compiles
    that one alone; if that is another number than was assumed, the race is run again.
    """
    known: dict[Variant, int] = {}
    while True:
        choices = list(candidates(question, limits, least_exact, known))
        best = min(choices, key=lambda choice: choice.microseconds, default=None)
        if best is None or best.microseconds > by_steps(question, limits):
            return None
        if ask is None or best.variant in known:
            return best
        known[best.variant] = ask(best.plan)


def candidates(
    question: Question,
    limits: Limits,
    least_exact: str,
    known: dict[Variant, int] | None = None,
) -> Iterator[Choice]:
    """Every variant of the table that can serve the call and is exact enough."""
    rows = (v for v in table() if v.hp == padded(question.H) and v.is_allowed(least_exact))
    return fitting(rows, question, limits, known)


def fitting(
    variants: Iterable[Variant],
    question: Question,
    limits: Limits,
    known: dict[Variant, int] | None = None,
) -> Iterator[Choice]:
    """Those that the device can run, `known` saying how many clusters of one run at once."""
    for variant in variants:
        if variant.least_capability <= limits.compute_capability:
            choice = _fit(variant, question, limits, (known or {}).get(variant))
            if choice is not None:
                yield choice


def by_steps(question: Question, limits: Limits) -> float:
    """Microseconds per step of tier L, modelled: two launches and a product at 70 % of the peak."""
    ffma, _ = _RATES.get(limits.compute_capability, _GEFORCE_RATES)
    products = question.B * question.H**2 * ffma / (limits.multiprocessors * 128 * 0.7 * _CLOCK)
    return 2 * _LAUNCH + products


def _fit(
    variant: Variant, question: Question, limits: Limits, clusters: int | None
) -> Choice | None:
    facts = facts_of(variant, question.operation)
    if facts is None:
        return None
    if clusters is None:
        clusters = int(limits.multiprocessors * _USABLE[variant.cluster] / variant.cluster)
    room = (limits.shared_bytes - facts.fixed_bytes) // facts.group_bytes
    if clusters < 1 or room < 1:
        return None
    share = -(-question.B // clusters)  # rows per cluster if all are to run at once
    groups = min(room, -(-share // variant.rows))
    used = -(-question.B // (groups * variant.rows))
    rows = -(-question.B // used)  # as even as it goes
    groups, waves = -(-rows // variant.rows), -(-used // clusters)
    issue, latency = _cycles(variant, facts, question.operation, limits.compute_capability)
    step = waves * max(groups * issue, issue + latency)
    geometry = Geometry(
        grid=used * variant.cluster,
        cluster=variant.cluster,
        block=facts.threads,
        shared_bytes=facts.fixed_bytes + groups * facts.group_bytes,
    )
    options = variant.options(question.operation, question.relu)
    transpose = variant.stream_chunks > 0 and question.operation == "rnn_forward"
    plan = Plan("recurrence", question.operation, options, geometry, rows, transpose)
    return Choice(variant, facts, plan, clusters, waves, step / _CLOCK)


def _cycles(v: Variant, f: Facts, operation: str, capability: int) -> tuple[float, float]:
    """(issue, latency) of a group of rows, measured where the table has it, else modelled."""
    measured = v.cycles.get(str(capability), {}).get(operation)
    if measured:
        return measured[0], measured[1]
    ffma, mma = _RATES.get(capability, _GEFORCE_RATES)
    if PRODUCTS[v.product] == "FFMA":
        sums = f.chunk_columns * v.rows
        multiply = f.chunks * 4 * sums * ffma
        loads = f.chunks * v.rows + v.smem_chunks * f.chunk_columns
        # tanh, exchange and the loop; and the reduction (counted in loops for sm_90)
        overhead = 95.0 + 4 * sums
    else:
        tiles = math.ceil(v.rows / 8)
        products = {"TF32": 2, "3xTF32": 6, "16-bit": 1}[PRODUCTS[v.product]] * tiles
        # 3xTF32 splits 8 weights and, for each tile, 4 states, by 3 instructions each, and adds 4
        # sums: 40 a chunk in loops for sm_90. Where registers hold both parts it is 16.
        splits = 24 + 16 * tiles if PRODUCTS[v.product] == "3xTF32" else 0
        multiply = f.chunks * max(products * mma, products + splits)
        loads = f.chunks * tiles + v.smem_chunks * 2
        overhead = 230.0  # and the partial sums through shared memory
    issue = max(
        (multiply + loads + overhead) * max(v.warps / 4, 1),
        loads * 4.0 * v.warps,
        v.stream_chunks * f.chunk_columns * 16 * f.threads / 48.0,  # 48 bytes a cycle from L2
        v.rows * v.hp * 4 / 20.0 if v.cluster > 1 else 0.0,  # 20 bytes a cycle from other blocks
    )
    return issue, 500.0 if v.cluster > 1 else 260.0
