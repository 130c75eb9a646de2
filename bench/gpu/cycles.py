"""From times of the kernel's variants to the table that choose_recurrence.py chooses by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rnnfast.backends.cuda import choose_recurrence
from rnnfast.backends.cuda.choose_recurrence import Variant

CYCLES_PER_US = 1.9e3  # the table's unit of time, as in plans.py, whatever the clock was


def cycles_of(us_by_groups: dict[int, float]) -> list[float] | None:
    """[issue, latency] of a group of rows from microseconds per step by the number of groups."""
    if 1 not in us_by_groups or min(us_by_groups.values()) <= 0:  # the latter is only noise
        return None
    alone, most = us_by_groups[1] * CYCLES_PER_US, max(us_by_groups)
    issue = min(us_by_groups[most] * CYCLES_PER_US / most, alone)
    return [round(issue, 1), round(alone - issue, 1)]


def table(rows: list[dict[str, Any]], file: Path) -> int:
    """Write variants.json with the measured cycles of `rows`; how many variants have some."""
    measured: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row.get("kind") == "variant" and row["cycles"]:
            of_one = measured.setdefault(json.dumps(row["variant"], sort_keys=True), {})
            of_one.setdefault(str(row["capability"]), {})[row["operation"]] = row["cycles"]
    lines = []
    for variant in choose_recurrence.table():
        row = as_row(variant)
        cycles = measured.get(json.dumps(row, sort_keys=True))
        both = {**variant.cycles, **cycles} if cycles else variant.cycles
        lines.append(json.dumps({**row, **({"cycles": both} if both else {})}))
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return len(measured)


def as_row(variant: Variant) -> dict[str, int]:
    """As in variants.json: what is not the default, without the cycles."""
    row = {}
    for each in dataclasses.fields(variant):
        value = getattr(variant, each.name)
        if each.name != "cycles" and (each.default is dataclasses.MISSING or value != each.default):
            row[each.name] = value
    return row
