"""Which variant of a recurrence's kernel runs: by H, batch, products and what the device has.

For a call, each row of the table that fits the device has a time per step from its cycles, the
blocks on one multiprocessor, and how often as many as run at once must run:

    step = waves * max(blocks * issue, issue + latency)

A block takes `issue` cycles of the busiest unit of a multiprocessor, and `latency` more until its
next step can begin; what one block waits for, the others on the multiprocessor hide. The smallest
time wins, also against a matrix product and a kernel for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rnnfast.backends.cuda import bridge, precision
from rnnfast.backends.cuda.bridge import Geometry, Limits, Plan, Question
from rnnfast.backends.cuda.kernel_table import LEAKY_CELLS, TANH, Variant, table

CYCLES_PER_US = 1.9e3  # of the table, whatever the device's clock is
# How many clusters an H100 runs at once, by their size, of 132 multiprocessors [measured]. Until
# the device is asked, others are taken to run as many for their size.
_CLUSTERS = {2: 66, 4: 30, 8: 15, 16: 7}
# Step by step, in microseconds: two launches, and a product at 57 % of the peak [measured on an
# H100 at H from 512 to 2048, within 15 %].
_LAUNCHES, _OF_PEAK = 7.7, 0.57


@dataclass(frozen=True)
class Choice:
    """A variant with its launch for one call, and its time."""

    variant: Variant
    plan: Plan
    resident: int  # clusters, or blocks where there are none, that the device runs at once
    waves: int
    microseconds: float  # per step
    source: str  # of the cycles behind the time

    def __str__(self) -> str:
        cluster, rows = self.variant.cluster, self.plan.rows
        worker = f"a cluster of {cluster} blocks" if cluster > 1 else "a block"
        sequences = f"{rows} sequences" if rows > 1 else "each sequence"
        return (
            f"{worker} for {sequences}, {self.variant.product} products, {self.resident} at once, "
            f"{self.waves} wave{'s' * (self.waves > 1)}: {self.microseconds:.2f} us a step "
            f"({self.source})"
        )


def chosen(question: Question) -> Choice | None:
    """What serves a call, the device asked how much of it runs at once; None: step by step."""
    if question.dtype_bits != 32:
        return None
    limits = bridge.limits(question.device)
    return decide(question, limits, lambda plan: bridge.resident(plan, question.device))


def explain(question: Question) -> str:
    """What serves a call, and why."""
    best, limits = chosen(question), bridge.limits(question.device)
    steps = f"{by_steps(question, limits):.2f} us step by step"
    if best:
        return f"{best}, against {steps}"
    return f"one matrix product and one kernel for every step: {_why_by_steps(question, limits)}"


def _why_by_steps(question: Question, limits: Limits) -> str:
    if question.dtype_bits != 32:
        return f"no kernel for all steps is of float{question.dtype_bits}"
    choices = list(candidates(question, limits, {}))
    if choices:
        best = min(choices, key=lambda choice: choice.microseconds)
        return f"{by_steps(question, limits):.2f} us, against {best}"
    if max(variant.hp for variant in table()) < question.H:
        return "W_hh does not fit on the chip"
    return f"no kernel for all steps fits a device of {limits.compute_capability / 10}"


def decide(
    question: Question, limits: Limits, resident: Callable[[Plan], int] | None = None
) -> Choice | None:
    """The fastest whose products are exact enough; None: step by step is.

    The device is asked by `resident` how many clusters of the fastest it runs at once, which
    compiles that one alone; if that is another number than was assumed, the race is run again.
    """
    known: dict[Variant, int] = {}
    while True:
        choices = candidates(question, limits, known)
        best = min(choices, key=lambda choice: choice.microseconds, default=None)
        if best is None or best.microseconds > by_steps(question, limits):
            return None
        if resident is None or best.variant in known:
            return best
        known[best.variant] = resident(best.plan)


def candidates(question: Question, limits: Limits, known: dict[Variant, int]) -> Iterator[Choice]:
    """Every variant that can serve the call; `known`: how many clusters of some run at once."""
    for variant in table():
        if (
            variant.unit != "decode"
            and variant.runs_on(limits.compute_capability, question.has_options)
            and variant.hp >= question.H
            and precision.is_allowed(variant.product, _least_exact(question))
            and (choice := fit(variant, question, limits, known.get(variant)))
        ):
            yield choice


def _least_exact(question: Question) -> str:
    """A state that tanh bounds is as near to float64 by 2xFP16 as by torch's own float32."""
    bounded = question.cell == TANH and question.least_exact == "FFMA"
    return "2xFP16" if bounded else question.least_exact


def by_steps(question: Question, limits: Limits) -> float:
    """Microseconds per step with a product and a kernel for each, one launch after the other."""
    peak = limits.multiprocessors * 128 * CYCLES_PER_US
    product = question.B * question.H**2 / (_OF_PEAK * peak)
    return question.launches * (_LAUNCHES + product)


def fit(
    variant: Variant, question: Question, limits: Limits, resident: int | None = None
) -> Choice | None:
    """None: the device cannot run it, or it is not for this operation."""
    backward = question.operation == "rnn_backward"
    needs = variant.needs(backward, question.cell in LEAKY_CELLS)
    cycles = variant.cycles_of(question.operation, limits.compute_capability)
    if needs is None or cycles is None:
        return None
    if resident is None:
        resident = _assumed(variant, limits)
    if resident < 1 or needs.shared_bytes > limits.shared_bytes:
        return None
    launches = question.launches  # which share what runs at once
    used = -(-question.B // variant["ROWS"])
    if variant.cluster > 1:  # fewer rows each, where that takes no further wave
        share = -(-used * launches // resident) * resident // launches
        used = max(used, share)
    rows = -(-question.B // used)  # as even as it goes
    used = -(-question.B // rows)
    waves = -(-used * launches // resident)
    blocks = -(-min(used * launches, resident) * variant.cluster // limits.multiprocessors)
    geometry = Geometry(
        grid=used * variant.cluster,
        cluster=variant.cluster,
        block=needs.threads,
        shared_bytes=needs.shared_bytes,
    )
    options = variant.recurrence_options(question.operation, question.cell, question.has_options)
    by_ids = options[-1 if question.V > 0 else 0]
    scratch_bytes = geometry.grid * needs.scratch_bytes
    plan = Plan(variant.unit, question.operation, by_ids, geometry, rows, scratch_bytes)
    step = waves * max(blocks * cycles.issue, cycles.issue + cycles.latency)
    source = cycles.source + ", of the kernel without options" * question.has_options
    return Choice(variant, plan, resident, waves, step / CYCLES_PER_US, source)


def _assumed(variant: Variant, limits: Limits) -> int:
    """How many clusters or blocks run at once, as long as the device has not said it."""
    if variant.cluster == 1:
        return limits.multiprocessors
    return limits.multiprocessors * _CLUSTERS[variant.cluster] // 132
