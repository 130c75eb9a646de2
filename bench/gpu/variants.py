"""Every variant of the recurrence's kernel alone: is it right, and how many cycles does it take?

A step takes waves * max(groups * issue, issue + latency) cycles (choose_recurrence). One group of
rows gives issue + latency; as many as fit give issue. `cycles` makes the table of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from bench.gpu import correct, work
from bench.gpu.cycles import as_row, cycles_of
from bench.gpu.stage import Stage
from rnnfast import dispatch
from rnnfast.backends import reference
from rnnfast.backends.cuda import bridge, choose_recurrence, kernel_table
from rnnfast.backends.cuda.bridge import Limits, Question
from rnnfast.backends.cuda.choose_recurrence import Choice
from rnnfast.backends.cuda.kernel_table import Variant

OPERATIONS = {"rnn_forward": correct.forward, "rnn_backward": correct.backward}
# Largest relative error of products that round more than float32 does.
BOUNDS = {"TF32": 0.02}
_T = (64, 192)  # the difference leaves out what a launch costs
_MOST_GROUPS = 8
_CHECKED_CLUSTERS = 3


class Force:
    """Makes the library run a given plan for an operation, where the cuda backend runs."""

    def __init__(self, stage: Stage) -> None:
        self._on = "cuda" in stage.backends()

    def __call__(self, choice: Choice) -> None:
        if self._on:
            operation = choice.plan.kernel
            bridge.start(lambda asked: choice.plan if asked.operation == operation else None)
            bridge.forget_plans()


def run(stage: Stage) -> None:
    if not stage.dry and "cuda" not in stage.backends():
        stage.emit(note="the cuda backend does not run here")
        return
    limits = Limits(90, 4, 232448) if stage.dry else bridge.limits(0)
    rows = [v for v in kernel_table.table() if v.unit != "decode"]
    items = [
        (v, op)
        for v in rows
        for op in OPERATIONS
        if v.runs_on(limits.compute_capability) and v.cycles_of(op, limits.compute_capability)
    ]
    with dispatch.use_backend("cuda" if "cuda" in stage.backends() else "native"):
        _measure(stage, limits, items[:2] if stage.dry else items)


def _measure(stage: Stage, limits: Limits, items: list[tuple[Variant, str]]) -> None:
    force = Force(stage)
    for variant, operation in stage.items(items):
        whys = [_why_wrong(stage, force, variant, operation, limits, r) for r in (False, True)]
        row = {"variant": as_row(variant), "operation": operation}
        stage.emit(kind="right", **row, ok=not any(whys), why=whys)
        times = {} if any(whys) else _times(stage, force, variant, operation, limits)
        capability, cycles = limits.compute_capability, cycles_of(times)
        stage.emit(kind="variant", **row, capability=capability, us=times, cycles=cycles)


def _why_wrong(
    stage: Stage, force: Force, variant: Variant, operation: str, limits: Limits, relu: bool
) -> str:
    """What a variant computes wrongly on a ragged batch and an H that it pads; "" if nothing."""
    H, B = variant.hp - 1, 2 * _CHECKED_CLUSTERS * variant["ROWS"] - 1
    choice = _fit(variant, _question(operation, B, H, relu), limits)
    if choice is None:
        return ""  # no batch of this size can run by it
    force(choice)
    inputs = correct.make(6, B, 4, H, stage.device)
    module = dispatch.backend_for(torch.empty(0, device=stage.device))
    function = OPERATIONS[operation](relu, False)
    bound = BOUNDS.get(variant.product)
    if bound is None:
        return correct.difference(operation, function, module, inputs, stage.device)
    got = function(module, inputs.to(torch.float32, stage.device))
    pairs = zip(got, function(reference, inputs), strict=True)
    error = max(work.error(mine, true) for mine, true in pairs if true.numel())
    return "" if error <= bound else f"relative error {error:.2g}, allowed {bound:g}"


def _times(
    stage: Stage, force: Force, variant: Variant, operation: str, limits: Limits
) -> dict[int, float]:
    """Microseconds per step by the groups of rows that each cluster has: one, and several."""
    found = {}
    clusters = max(1, int(limits.multiprocessors * 0.8 / variant.cluster))
    for groups in (1, *range(_MOST_GROUPS, 1, -1)):
        B = clusters * groups * variant["ROWS"]
        question = _question(operation, B, variant.hp)
        choice = _fit(variant, question, limits, clusters)
        if choice is not None and choice.plan.rows == groups * variant["ROWS"]:
            force(choice)
            found[groups] = _step_us(stage, operation, B, variant.hp)
            if groups > 1:
                break
    return found


def _fit(
    variant: Variant, question: Question, limits: Limits, clusters: int = _CHECKED_CLUSTERS
) -> Choice | None:
    return choose_recurrence.fit(variant, question, limits, clusters)


def _question(operation: str, B: int, H: int, relu: bool = False) -> Question:
    return Question(operation, B, H, 0, 32, int(relu), 0, "16-bit")


def _step_us(stage: Stage, operation: str, B: int, H: int) -> float:
    """Microseconds per step of the kernel, the launch left out."""
    short, long = (3, 5) if stage.dry else _T
    calls = {str(T): _call(stage, operation, T, B, H) for T in (short, long)}
    seconds = stage.clock.race(calls, rounds=5, turn=0.003)
    first, last = (statistics.median(seconds[str(T)]) for T in (short, long))
    return max(0.0, (last - first) / (long - short) * 1e6)


def _call(stage: Stage, operation: str, T: int, B: int, H: int) -> Callable[[], object]:
    device = stage.device
    W_hh, h0 = torch.randn(H, H, device=device) * H**-0.5, torch.zeros(B, H, device=device)
    x, eye = torch.randn(T, B, H, device=device), torch.randn(T, B, H, device=device)
    backend = dispatch.backend_for(h0)
    if operation == "rnn_forward":
        return lambda: backend.rnn_forward(x, None, W_hh, None, h0, False)
    hs = torch.tanh(x)
    nothing = (False, False, True)  # of the weights' gradients: the kernel alone
    return lambda: backend.rnn_backward(eye, None, hs, None, 0, W_hh, h0, False, *nothing)
