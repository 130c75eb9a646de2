"""Tables and pictures from a result: `python bench/harness/report.py bench/results/cpu.json`.

With --details also a table per case, with everyone in it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness import picture

Result = dict[str, Any]
_UNITS = {"gflops": "GF/s multiply-add", "gbytes": "GB/s reads", "round_trip_ns": "ns core to core"}


def write(result: Result, file: Path) -> str:
    """NAME.md and the pictures beside the result's file. Returns the table."""
    text = summary(result)
    file.with_suffix(".md").write_text(text + "\n")
    picture.draw(result, file)
    return text


def summary(result: Result) -> str:
    """Who ran where, and ours against the best peer: a row per case and operation."""
    head = (
        f"| case, operation | ours | us | best peer | us | x best peer | x {result['yardstick']} |"
    )
    rows = [head, "|---" * 7 + "|"]
    for case, record in result["cases"].items():
        rows += lines(case, record)
    return "\n\n".join(
        part for part in (_head(result), "\n".join(rows), _ratios(result), _told(result)) if part
    )


def lines(case: str, record: Result) -> list[str]:
    """The rows of one case."""
    rows = []
    for op, operation in record["ops"].items():
        ours, peer = operation["ours"], operation["best_peer"]
        cells = [_time(operation, name) for name in (ours, peer)]
        figures = operation["peers"][ours] if ours else {}
        for name in ("times_best_peer", "times_yardstick"):
            cells.append(f"{figures[name]['median']:.2f}" if name in figures else "-")
        rows.append(f"| {case}, {op} | {' | '.join(cells)} |")
    return rows


def details(case: str, record: Result) -> str:
    """One case with everyone: medians with the range from the 10th to the 90th percentile."""
    head = ("us", "tokens/s", "x yardstick", "x best peer", "% of limit")
    parts = []
    for op, operation in record["ops"].items():
        rows = [f"| {case}, {op} | " + " | ".join(head) + " |", "|---" * 6 + "|"]
        for name, figures in sorted(operation["peers"].items(), key=_median_seconds):
            best = " (best peer)" if name == operation["best_peer"] else ""
            cells = (
                _cell(figures["seconds"], "{:.4g}", 1e6),
                f"{operation['units'] / figures['seconds']['median']:,.0f}",
                _cell(figures.get("times_yardstick"), "{:.3g}"),
                _cell(figures.get("times_best_peer"), "{:.3g}"),
                _cell(figures.get("percent_of_limit"), "{:.3g}"),
            )
            rows.append(f"| {name}{best} | " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join([*parts, machine_line(record)])


def machine_line(record: Result) -> str:
    """What the probes of one case read: the median, and the 10th and the 90th percentile."""
    parts = [
        f"{_cell(record['machine'][field], '{:.0f}')} {unit}"
        for field, unit in _UNITS.items()
        if field in record["machine"]
    ]
    return "machine: " + ", ".join(parts) if parts else "machine not probed"


def _head(result: Result) -> str:
    versions = result["versions"]
    names = [f"{key} {versions[key]}" for key in ("torch", "cuda", "cudnn") if key in versions]
    dirty = " with changes" if result.get("dirty") else ""
    machine = result["machine"].get("gpu") or result["machine"]["cpu"]
    commit = str(result.get("commit"))[:12]
    notes = [result["note"]] if "note" in result else []
    line = f"{machine}, {', '.join(names)}, commit {commit}{dirty}, {result['date']}"
    return "\n\n".join([*notes, line])


def _ratios(result: Result) -> str:
    """How many times as fast as the best peer, over all cases."""
    by_op: dict[str, list[float]] = {}
    for _, op, operation in _operations(result):
        ours = operation["ours"]
        if ours and operation["best_peer"]:
            ratio = operation["peers"][ours]["times_best_peer"]["median"]
            by_op.setdefault(op, []).append(ratio)
    return "\n".join(
        f"- {op}: {statistics.median(ratios):.2f} times the best peer at the median of "
        f"{len(ratios)} cases, {min(ratios):.2f} at the least"
        for op, ratios in by_op.items()
    )


def _told(result: Result) -> str:
    """Who was left out, and who was held to a tolerance of its own."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case, record in result["cases"].items():
        for name, reason in record["left_out"].items():
            reasons.setdefault((name, reason), []).append(case)
    parts = [
        f"- {name} left out: {reason}: {', '.join(cases)}"
        for (name, reason), cases in reasons.items()
    ]
    loose: dict[tuple[str, float], float] = {}
    for _, _, operation in _operations(result):
        for name, figures in operation["peers"].items():
            if "tolerance" in figures:
                key = name, figures["tolerance"]
                worst = max(figures["errors"].values(), default=0.0)
                loose[key] = max(loose.get(key, 0.0), worst)
    parts += [
        f"- {name} multiplies in fewer digits: a relative error of {tolerance:g} passes "
        f"(largest error seen: {worst:.2g})"
        for (name, tolerance), worst in loose.items()
    ]
    parts += [f"- {name}: {text}" for name, text in result.get("told", {}).items()]
    return "\n".join(parts)


def _operations(result: Result) -> Iterator[tuple[str, str, Result]]:
    for case, record in result["cases"].items():
        for op, operation in record["ops"].items():
            yield case, op, operation


def _median_seconds(item: tuple[str, Result]) -> float:
    seconds: float = item[1]["seconds"]["median"]
    return seconds


def _time(operation: Result, name: str | None) -> str:
    if name is None:
        return "- | -"
    return f"{name} | {1e6 * operation['peers'][name]['seconds']['median']:.4g}"


def _cell(value: dict[str, float] | None, form: str, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    low, middle, high = (form.format(scale * value[key]) for key in ("q10", "median", "q90"))
    return f"{middle} ({low} to {high})"


def main() -> None:
    flags = {argument for argument in sys.argv[1:] if argument.startswith("--")}
    (name,) = set(sys.argv[1:]) - flags
    file = Path(name)
    result = json.loads(file.read_text())
    if "--details" in flags:
        for case, record in result["cases"].items():
            print(details(case, record), end="\n\n")
    print(write(result, file))


if __name__ == "__main__":
    main()
