"""From samples to figures: quantiles of the speed, of the ratios, and of the share of the limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from bench.measure import Bench, Samples, Timed
from bench.suites import Suite

Record = dict[str, Any]


def summarise(suite: Suite, bench: Bench, timed: Timed) -> Record:
    """{operation: {"best_peer": name, "peers": {name: figures}}} of one case."""
    return {
        op: _operation(suite, bench, op, {name: s for (o, name), s in timed.items() if o == op})
        for op in bench.plan.ops
        if any(o == op for o, _ in timed)
    }


def slowdown(quiet: Timed, busy: Timed) -> Record:
    """How many times longer the median call takes beside busy neighbours: {op: {peer: ...}}."""
    record: Record = {}
    for (op, name), samples in busy.items():
        before = statistics.median(quiet[op, name].seconds)
        record.setdefault(op, {})[name] = {
            "times_slower": round(statistics.median(samples.seconds) / before, 3),
            "seconds": [_short(seconds) for seconds in samples.seconds],
        }
    return record


def _operation(suite: Suite, bench: Bench, op: str, samples: dict[str, Samples]) -> Record:
    medians = {name: statistics.median(s.seconds) for name, s in samples.items()}
    others = [name for name in samples if not bench.runners[name].entry.ours]
    best = min(others, key=medians.__getitem__, default=None)
    peers = {
        name: {
            **_figures(suite, bench, op, s),
            "times_scratch": _ratio(samples.get(suite.yardstick), s),
            "times_best_peer": _ratio(samples[best] if best else None, s),
            "errors": bench.runners[name].errors[op],
            "first_call_s": round(bench.runners[name].first_call[op], 3),
        }
        for name, s in samples.items()
    }
    return {"best_peer": best, "peers": peers}


def _figures(suite: Suite, bench: Bench, op: str, samples: Samples) -> Record:
    case = bench.case
    limits = [
        suite.limit(case, op, reading) / seconds * 100
        for seconds, reading in zip(samples.seconds, samples.readings, strict=True)
        if reading
    ]
    return {
        "seconds": [_short(seconds) for seconds in samples.seconds],
        "machine": [
            [value and _short(value) for value in astuple(reading)]
            for reading in samples.readings
            if reading
        ],
        "tokens_per_s": quantiles([case.units(op) / seconds for seconds in samples.seconds]),
        "percent_of_limit": quantiles(limits) if limits else None,
    }


def _ratio(slow: Samples | None, fast: Samples) -> dict[str, float] | None:
    """Of the same rounds, so that a drift of the machine cancels."""
    if slow is None:
        return None
    return quantiles([a / b for a, b in zip(slow.seconds, fast.seconds, strict=False)])


def quantiles(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"q10": _short(low), "median": _short(middle), "q90": _short(high)}


def _short(value: float) -> float:
    """To four digits, which is more than any of this is good for."""
    return float(f"{value:.4g}")
