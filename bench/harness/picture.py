"""The pictures of a result, beside its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Result = dict[str, Any]


def draw(result: Result, file: Path) -> None:
    """speed.png of the CPU's training; of any other suite NAME.png, ours over the best peer."""
    from matplotlib import use

    use("Agg")
    if not any(record["ops"] for record in result["cases"].values()):
        return
    if result["suite"] == "cpu":
        if any("train" in record["ops"] for record in result["cases"].values()):
            _speed(result, file.with_name("speed.png"))
    else:
        _ratios(result, file.with_suffix(".png"))


def _speed(result: Result, file: Path) -> None:
    """Training by shape: the textbook's loop, the best peer, ours, as bars."""
    from matplotlib import pyplot as plt

    found = {c: r["ops"]["train"] for c, r in result["cases"].items() if "train" in r["ops"]}
    bars = {
        "the textbook's loop": ("#c4c8cc", lambda each: result["yardstick"]),
        "the fastest other way": ("#6f8fb3", lambda each: each["best_peer"]),
        "rnnfast": ("#d1495b", lambda each: each["ours"]),
    }
    figure, axes = plt.subplots(figsize=(9, 0.72 * len(found) + 1.1), layout="constrained")
    for i, (label, (color, choose)) in enumerate(bars.items()):
        chosen = [choose(each) for each in found.values()]
        times = [
            each["peers"][peer]["times_yardstick"]["median"]
            for peer, each in zip(chosen, found.values(), strict=True)
        ]
        places = [row + 0.28 * (i - 1) for row in range(len(found))]
        drawn = axes.barh(places, times, 0.26, color=color, label=label)
        names = [f" {peer}" if i == 1 else "" for peer in chosen]
        texts = [f"{value:.1f}{name}" for value, name in zip(times, names, strict=True)]
        axes.bar_label(drawn, texts, padding=4, fontsize=8, color="#333333")
    shapes = [result["cases"][case]["shape"] for case in found]
    axes.set_yticks(
        range(len(found)),
        [f"{s['hidden']} units, {s['batch']} x {s['steps']}" for s in shapes],
    )
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("characters a second in training, times the textbook's loop (longer is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    machine, threads = result["machine"]["cpu"], result["threads"]
    axes.set_title(f"{machine}, {threads} threads, {result['date']}", fontsize=9, loc="right")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _ratios(result: Result, file: Path) -> None:
    """A panel per operation: ours over the best peer by hidden units, a line per kind of case."""
    from matplotlib import pyplot as plt

    ops = list(dict.fromkeys(op for record in result["cases"].values() for op in record["ops"]))
    columns = min(3, len(ops))
    rows = -(-len(ops) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(4.4 * columns, 4.2 * rows),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for op, axes in zip(ops, panels.flat, strict=False):
        lines = _lines(result, op)
        for kind, known in lines.items():
            axes.plot(*zip(*sorted(known), strict=True), marker="o", markersize=4, label=kind)
        axes.axhline(1, color="black", linewidth=1)
        hiddens = sorted({hidden for known in lines.values() for hidden, _ in known})
        axes.set(title=op, xlabel="hidden units", xscale="log", yscale="log")
        axes.set_xticks(hiddens, [str(hidden) for hidden in hiddens], minor=False)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=7)
    for axes in panels.flat[len(ops) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("times as fast as the best peer")
    machine = (result["machine"].get("gpu") or result["machine"]["cpu"]).partition(",")[0]
    commit = str(result.get("commit"))[:12]
    warning = [result["note"].replace(":", ",").partition(",")[0]] if "note" in result else []
    figure.suptitle(", ".join([*warning, machine, f"commit {commit}", result["date"]]))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _lines(result: Result, op: str) -> dict[str, list[tuple[int, float]]]:
    """(hidden units, ratio) by what the name of a case has behind its hidden units."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for case, record in result["cases"].items():
        operation = record["ops"].get(op)
        if operation and operation["ours"] and operation["best_peer"]:
            ratio = operation["peers"][operation["ours"]]["times_best_peer"]["median"]
            kind = case.partition("_")[2] or case
            lines.setdefault(kind, []).append((record["shape"]["hidden"], ratio))
    return lines
