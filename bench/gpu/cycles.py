"""From times of the kernel's variants to the table that kernels are chosen by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rnnfast.backends.cuda import kernel_table
from rnnfast.backends.cuda.choose_recurrence import CYCLES_PER_US
from rnnfast.backends.cuda.kernel_table import Variant


def cycles_of(us_by_groups: dict[int, float]) -> list[float] | None:
    """[issue, latency] of a group of rows from microseconds per step by the number of groups."""
    if 1 not in us_by_groups or min(us_by_groups.values()) <= 0:  # the latter is only noise
        return None
    alone, most = us_by_groups[1] * CYCLES_PER_US, max(us_by_groups)
    issue = min(us_by_groups[most] * CYCLES_PER_US / most, alone)
    return [round(issue, 1), round(alone - issue, 1)]


def table(rows: list[dict[str, Any]], file: Path) -> int:
    """Write kernel_table.json with the measured cycles of `rows`; how many variants have some."""
    measured: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row.get("kind") == "variant" and row["cycles"]:
            of_one = measured.setdefault(json.dumps(row["variant"], sort_keys=True), {})
            of_one.setdefault(str(row["capability"]), {})[row["operation"]] = row["cycles"]
    lines = []
    for variant in kernel_table.table():
        row = as_row(variant)
        cycles = measured.get(json.dumps(row, sort_keys=True))
        others = {"cycles": {**variant.cycles, **(cycles or {})}, "predicted": variant.predicted}
        lines.append(json.dumps(row | {name: value for name, value in others.items() if value}))
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return len(measured)


def as_row(variant: Variant) -> dict[str, Any]:
    """As in kernel_table.json: what is not the default, without the cycles."""
    names = kernel_table.MACROS[variant.unit]
    macros = {name: value for name, value in zip(names, variant.macros, strict=True) if value}
    row: dict[str, Any] = {"unit": variant.unit, **macros}
    for each in dataclasses.fields(variant):
        value = getattr(variant, each.name)
        if each.name not in ("unit", "macros", "cycles", "predicted") and value != each.default:
            row[each.name] = value
    return row
