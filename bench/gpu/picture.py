"""The picture of a result: time over H for everyone, one panel per kind of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.gpu.rows import Row, is_ours, median, of_kind

_N, _T = 32, 35


def draw(result: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows: list[Row] = result["rows"]
    few = [row for row in rows if "against" not in row]
    panels = {
        f"states, T={_T}, N={_N}: us per step": _scaled(few, _T, "time", op="states"),
        f"with gradients: us per step of T={_T}": _scaled(few, _T, "time", op="gradients"),
        f"train step, N={_N}: us": _scaled(few, 1, "train"),
        "greedy decode: us per token": _scaled(few, 1, "decode"),
    }
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    for (title, lines), ax in zip(panels.items(), axes.flat, strict=True):
        for peer, points in sorted(lines.items()):
            style = {"linewidth": 2.5} if is_ours(peer) else {"linestyle": "--"}
            ax.plot(*zip(*sorted(points), strict=True), marker="o", label=peer, **style)
        ax.set(title=title, xlabel="hidden units", xscale="log", yscale="log")
        ax.grid(alpha=0.3)
        if lines:
            ax.legend(fontsize=7)
    gpu = next((row["name"] for row in of_kind(rows, "gpu")), "no GPU")
    title = "REHEARSAL WITHOUT A GPU: no figure" if result["rehearsal"] else gpu
    figure.suptitle(f"{title}, {result['date']}")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _scaled(
    rows: list[Row], steps: int, kind: str, **wanted: Any
) -> dict[str, list[tuple[int, float]]]:
    """(H, us / steps) of each peer at the named batch; at a rehearsal, at whatever there is."""
    found = of_kind(rows, kind, **wanted)
    named = [r for r in found if r.get("N", _N) == _N and r.get("T", _T) == _T] or found
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in named:
        lines.setdefault(row["peer"], []).append((row["H"], median(row) / steps))
    return lines
