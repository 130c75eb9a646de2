"""The table of kernel variants with the times that they take on the device here.

    python -m bench.tools.variants --out FILE [--dry]

`regenerate` is all that the GPU suite asks for. Every variant is first held against float64. A step
takes waves * max(blocks * issue, issue + latency) cycles (choose_recurrence): one block on each
multiprocessor gives issue + latency, as many as fit give issue. A variant's row is changed only
where it was measured. --dry: two rows, by the CPU's kernels in the GPU's place; the times say
nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor
from tqdm import tqdm

from bench.harness.clock import clock_for
from rnnfast import FallbackWarning, dispatch
from rnnfast.backends import Adjoint, Needs, Recurrence
from rnnfast.backends.cuda import bridge, choose_recurrence, kernel_table
from rnnfast.backends.cuda.bridge import Limits, Plan, Question
from rnnfast.backends.cuda.choose_recurrence import CYCLES_PER_US, Choice
from rnnfast.backends.cuda.kernel_table import OPERATIONS, Variant

_BOUNDS = {"TF32": 0.02}  # the largest relative error of products that round more than float32
_BOUNDED = "2xFP16"  # a product for states that tanh bounds alone
_T = (64, 192)  # the difference leaves out what a launch costs
_CHECKED_CLUSTERS = 3
_ROUNDS, _TURN = 5, 0.003


class Device:
    """Where kernels run: the GPU, or at a rehearsal the CPU, which no plan can be forced on."""

    def __init__(self, dry: bool) -> None:
        self.name = "cpu" if dry else "cuda"
        self.limits = Limits(90, 4, 232448) if dry else bridge.limits(0)
        self.clock = clock_for(self.name)

    def resident(self, plan: Plan) -> int:
        """How many clusters of a plan, or blocks where it has none, run at once."""
        if self.name == "cuda":
            return bridge.resident(plan, 0)
        return self.limits.multiprocessors // plan.geometry.cluster

    def force(self, choice: Choice) -> None:
        """Make the library run this plan for its operation."""
        if self.name == "cuda":
            operation = choice.plan.kernel
            bridge.start(lambda asked: choice.plan if asked.operation == operation else None)
            bridge.forget_plans()


def regenerate(file: Path, dry: bool) -> tuple[int, list[str]]:
    """Write the table to `file`. How many variants were measured, and which were wrong."""
    device = Device(dry)
    measured: dict[Variant, dict[str, list[float]]] = {}
    wrong = []
    rows = list(_rows(device.limits))[: 2 if dry else None]
    for variant, operation in tqdm(rows, disable=None, leave=False):
        if why := _why_wrong(device, variant, operation):
            wrong.append(f"{as_row(variant)} {operation}: {why}")
        elif cycles := cycles_of(_times(device, variant, operation)):
            measured.setdefault(variant, {})[operation] = cycles
    write_table(file, measured, device.limits.compute_capability)
    return len(measured), wrong


def cycles_of(us_by_blocks: dict[int, float]) -> list[float] | None:
    """[issue, latency] of a block from microseconds per step by the blocks on a multiprocessor."""
    if 1 not in us_by_blocks or min(us_by_blocks.values()) <= 0:  # the latter is only noise
        return None
    alone, most = us_by_blocks[1] * CYCLES_PER_US, max(us_by_blocks)
    issue = min(us_by_blocks[most] * CYCLES_PER_US / most, alone)
    return [round(issue, 1), round(alone - issue, 1)]


def write_table(
    file: Path, measured: dict[Variant, dict[str, list[float]]], capability: int
) -> None:
    """The rows of today's table, with the measured cycles of this kind of device."""
    lines = []
    for variant in kernel_table.table():
        cycles = dict(variant.cycles)
        if variant in measured:  # before all others: predictions come last
            cycles = {str(capability): measured[variant], **cycles}
        lines.append(json.dumps(as_row(variant) | ({"cycles": cycles} if cycles else {})))
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def as_row(variant: Variant) -> dict[str, Any]:
    """As in the table: what is not the default, without the cycles."""
    names = kernel_table.MACROS[variant.unit]
    macros = {name: value for name, value in zip(names, variant.macros, strict=True) if value}
    row: dict[str, Any] = {"unit": variant.unit, **macros}
    for each in dataclasses.fields(variant):
        value = getattr(variant, each.name)
        if each.name not in ("unit", "macros", "cycles") and value != each.default:
            row[each.name] = value
    return row


def _rows(limits: Limits) -> Iterator[tuple[Variant, str]]:
    capability = limits.compute_capability
    for variant in kernel_table.table():
        if variant.unit != "decode" and variant.runs_on(capability):
            for operation in OPERATIONS:
                if variant.cycles_of(operation, capability):
                    yield variant, operation


def _why_wrong(device: Device, variant: Variant, operation: str) -> str:
    """What it computes wrongly on a ragged batch and an H that it pads; "" if nothing."""
    H, B = variant.hp - 1, 2 * _CHECKED_CLUSTERS * variant["ROWS"] - 1
    for nonlinearity in ("tanh", "relu")[: 1 if variant.product == _BOUNDED else 2]:
        question = _question(operation, B, H, int(nonlinearity == "relu"))
        choice = choose_recurrence.fit(variant, question, device.limits, _CHECKED_CLUSTERS)
        if choice is None:
            return ""  # no batch of this size can run by it
        device.force(choice)
        inputs = _inputs(6, B, H, device.name)
        got = _call(operation, inputs, nonlinearity)()
        with dispatch.use_backend("reference"):
            loop = _call(operation, inputs, nonlinearity)()
            exact = _call(operation, [t.double() for t in inputs], nonlinearity)()
        error, allowed = _error(got, exact), 2 * _error(loop, exact) + 1e-6
        allowed = _BOUNDS.get(variant.product, allowed)
        if not error <= allowed:
            return f"{nonlinearity}: relative error {error:.2g}, allowed {allowed:.2g}"
    return ""


def _times(device: Device, variant: Variant, operation: str) -> dict[int, float]:
    """Microseconds per step by the blocks that share a multiprocessor: one, and as many as fit."""

    def choice_of(B: int, resident: int | None = None) -> Choice | None:
        question = _question(operation, B, variant.hp)
        return choose_recurrence.fit(variant, question, device.limits, resident)

    found: dict[int, float] = {}
    multiprocessors = device.limits.multiprocessors
    one = choice_of(variant["ROWS"])
    most = device.resident(one.plan) if one else 0
    for count in {min(most, multiprocessors), most} - {0}:
        B = count * variant["ROWS"]
        if choice := choice_of(B, most):
            device.force(choice)
            blocks = -(-count * variant.cluster // multiprocessors)
            found[blocks] = _step_us(device, operation, B, variant.hp)
    return found


def _question(operation: str, B: int, H: int, cell: int = 0) -> Question:
    return Question(operation, B, H, 0, 32, cell, False, 0, "TF32")


def _step_us(device: Device, operation: str, B: int, H: int) -> float:
    """Microseconds per step of the kernel, the launch left out."""
    calls = [_call(operation, _inputs(T, B, H, device.name)) for T in _T]
    seconds: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for call, taken in zip(calls, seconds, strict=True):
            taken.append(device.clock.seconds(call, lambda: None, _TURN))
    first, last = (sorted(taken)[_ROUNDS // 2] for taken in seconds)
    return max(0.0, (last - first) / (_T[1] - _T[0]) * 1e6)


def _inputs(T: int, B: int, H: int, device: str) -> list[Tensor]:
    """W_hh, x, h0 in [-1, 1], and a gradient of hs."""
    g = torch.Generator().manual_seed(T + B + H)
    shapes = ((H, H), (T, B, H), (B, H), (T, B, H))
    found = [torch.randn(shape, generator=g).to(device) for shape in shapes]
    found[0] *= H**-0.5
    found[2].tanh_()
    return found


def _call(
    operation: str, inputs: list[Tensor], nonlinearity: str = "tanh"
) -> Callable[[], list[Tensor]]:
    """The kernel by itself, by the backend that serves the inputs now: no projection beside it."""
    W_hh, x, h0, grad_hs = inputs
    backend = dispatch.backend_for(h0)
    r = Recurrence(nonlinearity, x, None, W_hh, None, h0)
    if operation == "rnn_forward":
        return lambda: _filled(backend.rnn_forward(r, saves=True))
    hs = torch.relu(x) if nonlinearity == "relu" else torch.tanh(x)
    needs = Needs(W_hh=False, b_h=False)
    adjoint = Adjoint(r, 0, hs, None, grad_hs, None, needs)
    return lambda: _filled(backend.rnn_backward(adjoint))


def _filled(found: tuple[Tensor | None, ...]) -> list[Tensor]:
    return [each for each in found if each is not None and each.numel()]


def _error(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, over the largest true value."""
    return max(
        ((g.double() - e).abs().max() / e.abs().max().clamp_min(1e-30)).item()
        for g, e in zip(got, exact, strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the table goes")
    parser.add_argument("--dry", action="store_true", help="rehearse without a GPU")
    options = parser.parse_args()
    warnings.simplefilter("error", FallbackWarning)  # or the reference would be measured
    count, wrong = regenerate(options.out, options.dry)
    print(*wrong, f"{count} variants measured, {len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
