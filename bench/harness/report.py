"""Tables and pictures from a result: `python bench/harness/report.py bench/results/cpu.json`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
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
    head = ["case, operation", "ours", "us", "best peer", "us", "x best peer"]
    rows = [row for case, record in result["cases"].items() for row in lines(case, record)]
    table = [*_head([*head, f"x {result['yardstick']}"]), *rows]
    parts = ([_origin(result)], table, _ratios(result), _told(result))
    return "\n\n".join("\n".join(part) for part in parts if part)


def lines(case: str, record: Result) -> list[str]:
    """The rows of one case."""
    return [_row([f"{case}, {op}", *_ours(each)]) for op, each in record["ops"].items()]


def details(case: str, record: Result) -> str:
    """One case with everyone: medians with the range from the 10th to the 90th percentile."""
    parts = []
    for op, operation in record["ops"].items():
        table = _head(
            [f"{case}, {op}", "us", "tokens/s", "x yardstick", "x best peer", "% of limit"]
        )
        peers = operation["peers"].items()
        for name, figures in sorted(peers, key=lambda item: item[1]["seconds"]["median"]):
            speed = operation["units"] / figures["seconds"]["median"]
            ratios = ("times_yardstick", "times_best_peer", "percent_of_limit")
            cells = [_range(figures.get(ratio), "{:.3g}") for ratio in ratios]
            best = " (best peer)" if name == operation["best_peer"] else ""
            time = _range(figures["seconds"], "{:.4g}", 1e6)
            table.append(_row([name + best, time, f"{speed:,.0f}", *cells]))
        parts.append("\n".join(table))
    probed = [
        f"{_range(record['machine'][field], '{:.0f}')} {unit}"
        for field, unit in _UNITS.items()
        if field in record["machine"]
    ]
    return "\n\n".join([*parts, f"machine: {', '.join(probed) or 'not probed'}"])


def _ours(operation: Result) -> Iterator[str]:
    """Names and times of ours and of the best peer, and the ratios of their medians."""
    ours, peers = operation["ours"], operation["peers"]
    for name in (ours, operation["best_peer"]):
        yield name or "-"
        yield f"{1e6 * peers[name]['seconds']['median']:.4g}" if name else "-"
    for ratio in ("times_best_peer", "times_yardstick"):
        known = ours and peers[ours].get(ratio)
        yield f"{known['median']:.2f}" if known else "-"


def _origin(result: Result) -> str:
    versions = result["versions"]
    names = [f"{key} {versions[key]}" for key in ("torch", "cuda", "cudnn") if key in versions]
    dirty = " with changes" if result.get("dirty") else ""
    machine = result["machine"].get("gpu") or result["machine"]["cpu"]
    commit = str(result.get("commit"))[:12]
    line = f"{machine}, {', '.join(names)}, commit {commit}{dirty}, {result['date']}"
    return f"{result['note']}\n\n{line}" if "note" in result else line


def _ratios(result: Result) -> list[str]:
    """How many times as fast as the best peer, over all cases."""
    by_op: dict[str, list[float]] = {}
    for op, operation in _operations(result):
        ours = operation["ours"]
        if ours and operation["best_peer"]:
            ratio = operation["peers"][ours]["times_best_peer"]["median"]
            by_op.setdefault(op, []).append(ratio)
    return [
        f"- {op}: {statistics.median(ratios):.2f} times the best peer at the median of "
        f"{len(ratios)} cases, {min(ratios):.2f} at the least"
        for op, ratios in by_op.items()
    ]


def _told(result: Result) -> list[str]:
    """Who was left out, who was held to a tolerance of its own, and what else a run told."""
    reasons: dict[str, list[str]] = {}
    for case, record in result["cases"].items():
        for name, reason in record["left_out"].items():
            reasons.setdefault(f"- {name} left out: {reason}", []).append(case)
    loose: dict[str, float] = {}
    for _, operation in _operations(result):
        for name, figures in operation["peers"].items():
            if "tolerance" in figures:
                allowed = f"{name} multiplies in fewer digits: a relative error of "
                allowed += f"{figures['tolerance']:g} passes"
                worst = max(figures["errors"].values(), default=0.0)
                loose[allowed] = max(loose.get(allowed, 0.0), worst)
    return [
        *(f"{reason}: {', '.join(cases)}" for reason, cases in reasons.items()),
        *(f"- {allowed} (largest error seen: {worst:.2g})" for allowed, worst in loose.items()),
        *(f"- {name}: {text}" for name, text in result["told"].items()),
    ]


def _operations(result: Result) -> Iterator[tuple[str, Result]]:
    for record in result["cases"].values():
        yield from record["ops"].items()


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "|---" * len(cells) + "|"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _range(value: dict[str, float] | None, form: str, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    low, middle, high = (form.format(scale * value[key]) for key in ("q10", "median", "q90"))
    return f"{middle} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--details", action="store_true", help="also a table per case of everyone")
    options = parser.parse_args()
    result = json.loads(options.file.read_text())
    if options.details:
        for case, record in result["cases"].items():
            print(details(case, record), end="\n\n")
    print(write(result, options.file))


if __name__ == "__main__":
    main()
