"""Tables and the picture from a result: `python bench/report.py bench/results/cpu.json`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

Result = dict[str, Any]

_HEAD = ("tokens/s", "x scratch", "x best peer", "% of limit")


def table(case: str, record: Result) -> str:
    """One case as Markdown: a row per peer, medians with the range from the 10th to the 90th."""
    parts = []
    for op, operation in record["ops"].items():
        rows = [f"| {case}, {op} | " + " | ".join(_HEAD) + " |", "|---" * 5 + "|"]
        by_speed = sorted(
            operation["peers"].items(), key=lambda item: item[1]["tokens_per_s"]["median"]
        )
        for name, figures in by_speed:
            best = " (best peer)" if name == operation["best_peer"] else ""
            cells = (
                _cell(figures["tokens_per_s"], "{:,.0f}"),
                _cell(figures["times_scratch"], "{:.3g}"),
                _cell(figures["times_best_peer"], "{:.3g}"),
                _cell(figures["percent_of_limit"], "{:.3g}"),
            )
            rows.append(f"| {name}{best} | " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def extras_table(extras: Result) -> str:
    """What fits no case, a line for each figure."""
    rows = ["| Figure | median | |", "|---|---|---|"]
    for name, figure in extras.items():
        rows.append(f"| {name} | {_cell(figure, '{:.3g}')} | {figure['unit']} |")
    return "\n".join(rows)


def machine_line(record: Result) -> str:
    """The median and range of what the probes of one case read."""
    readings = [
        reading
        for operation in record["ops"].values()
        for figures in operation["peers"].values()
        for reading in figures["machine"]
    ]
    if not readings:
        return "machine not probed"
    units = ("GF/s multiply-add", "GB/s reads", "ns core to core")
    columns = zip(*readings, strict=True)
    return "machine: " + ", ".join(
        f"{statistics.median(known):.0f} ({min(known):.0f} to {max(known):.0f}) {unit}"
        for column, unit in zip(columns, units, strict=True)
        if (known := [value for value in column if value is not None])
    )


def draw(result: Result, file: Path) -> None:
    """Bars per shape, one panel per operation: tokens/s over scratch's, and the limit as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    operations = [
        (op, case, operation)
        for case, record in result["cases"].items()
        for op, operation in record["ops"].items()
    ]
    ops = list(dict.fromkeys(op for op, _, _ in operations))
    colors = _colors(list(dict.fromkeys(name for *_, each in operations for name in each["peers"])))
    figure, panels = plt.subplots(
        len(ops), figsize=(12, 4 * len(ops)), squeeze=False, layout="constrained"
    )
    for op, axes in zip(ops, panels[:, 0], strict=True):
        _panel(axes, op, {case: each for o, case, each in operations if o == op}, colors)
    swatches = [Patch(color=color) for color in colors.values()]
    line = Line2D([], [], color="black", linestyle="--")
    figure.legend([line, *swatches], ["the machine's limit", *colors], loc="outside right upper")
    cpu, threads = result["machine"]["cpu"], result["threads"]
    figure.suptitle(f"{cpu}, threads: {threads}, {result['date']}")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _colors(names: list[str]) -> dict[str, Any]:
    """Shades of grey and blue for the peers, of red for ours."""
    from matplotlib import colormaps

    ours = [name for name in names if name.startswith("ours")]
    peers = [name for name in names if name not in ours]
    return {
        name: colormaps[scale](0.35 + 0.6 * i / len(group))
        for scale, group in (("bone_r", peers), ("Reds", ours))
        for i, name in enumerate(group)
    }


def _panel(axes: Any, op: str, cases: Result, colors: dict[str, Any]) -> None:
    names = [name for name in colors if any(name in each["peers"] for each in cases.values())]
    width = 0.85 / len(names)
    for n, name in enumerate(names):
        ratios = [each["peers"].get(name, {}).get("times_scratch") for each in cases.values()]
        known = [x for x, ratio in enumerate(ratios) if ratio]
        axes.bar(
            [x - 0.425 + (n + 0.5) * width for x in known],
            [ratios[x]["median"] for x in known],
            width,
            color=colors[name],
        )
    for x, operation in enumerate(cases.values()):
        if (limit := _limit(operation)) is not None:
            axes.hlines(limit, x - 0.45, x + 0.45, color="black", linestyle="--")
    axes.set_yscale("log")
    axes.set_xticks(range(len(cases)), list(cases))
    axes.set_ylabel("tokens/s, times scratch")
    axes.set_title(op)


def _limit(operation: Result) -> float | None:
    """Times scratch that the machine would allow: scratch's own share of the limit, turned over."""
    share = operation["peers"].get("scratch", {}).get("percent_of_limit")
    return 100 / share["median"] if share else None


def _cell(value: dict[str, float] | None, form: str) -> str:
    if value is None:
        return "-"
    low, middle, high = (form.format(value[key]) for key in ("q10", "median", "q90"))
    return f"{middle} ({low} to {high})"


def main() -> None:
    file = Path(sys.argv[1])
    result = json.loads(file.read_text())
    for case, record in result["cases"].items():
        print(table(case, record), machine_line(record), sep="\n\n", end="\n\n")
    if "extras" in result:
        print(extras_table(result["extras"]))
    draw(result, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
