"""From samples to figures: quantiles of the times, of the ratios, and of the share of the limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.harness.measure import Bench, Samples, Timed
from bench.harness.probe import Reading

Record = dict[str, Any]
QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}


def summarise(bench: Bench, timed: Timed) -> Record:
    """{operation: {"units", "ours": name, "best_peer": name, "peers": {name: figures}}}."""
    return {op: _operation(bench, op, samples) for op, samples in timed.items() if samples}


def _operation(bench: Bench, op: str, samples: dict[str, Samples]) -> Record:
    medians = {name: statistics.median(s.seconds) for name, s in samples.items()}
    entries = {name: bench.runners[name].entry for name in samples}
    exact = [name for name, entry in entries.items() if entry.ours and not entry.tolerance]
    others = [name for name, entry in entries.items() if not entry.ours]
    ours = min(exact, key=medians.__getitem__, default=None)
    best = min(others, key=medians.__getitem__, default=None)
    yardstick = samples.get(bench.suite.yardstick)
    peers = {
        name: {
            "seconds": quantiles(s.seconds),
            **_named("percent_of_limit", _shares(bench, op, s)),
            **_named("times_yardstick", ratios(yardstick, s)),
            **_named("times_best_peer", ratios(samples[best] if best else None, s)),
            "errors": {what: short(e) for what, e in bench.runners[name].errors[op].items()},
            **({"tolerance": entries[name].tolerance} if entries[name].tolerance else {}),
            "first_call_s": round(bench.runners[name].first_call[op], 3),
        }
        for name, s in samples.items()
    }
    return {"units": bench.case.units(op), "ours": ours, "best_peer": best, "peers": peers}


def _shares(bench: Bench, op: str, samples: Samples) -> list[float]:
    """Per cent of what the machine, as probed just before, could do."""
    limit = bench.suite.limit
    return [
        limit(bench.case, op, reading) / seconds * 100
        for seconds, reading in zip(samples.seconds, samples.readings, strict=True)
        if reading and limit
    ]


def machine(timed: Timed) -> Record:
    """What the probes read before every turn of a case, by the name of what they measure."""
    readings = [
        reading
        for samples in timed.values()
        for each in samples.values()
        for reading in each.readings
        if reading
    ]
    columns = {
        name: [value for reading in readings if (value := getattr(reading, name)) is not None]
        for name in Reading.__dataclass_fields__
    }
    return {name: quantiles(values) for name, values in columns.items() if values}


def ratios(slow: Samples | None, fast: Samples) -> list[float]:
    """Of the same rounds, so that a drift of the machine cancels."""
    if slow is None:
        return []
    return [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]


def _named(name: str, values: Sequence[float]) -> Record:
    """Nothing where there is nothing to tell."""
    return {name: quantiles(values)} if values else {}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values()))
    return {name: short(value) for name, value in zip(QUANTILES, found, strict=True)}


def short(value: float) -> float:
    """To four digits, which is more than any of this is good for."""
    return float(f"{value:.4g}")
