"""Tables from a result of the suite: `python -m bench.gpu.report DIR/gpu.json` prints them anew.

Ours is the faster of our backends at float32 without TF32, the best peer the fastest of all others,
TF32 and graphs included.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.gpu.picture import draw
from bench.gpu.rows import Row, best, is_ours, median, of_kind
from bench.gpu.targets import lines as targets

Result = dict[str, Any]


def report(result: Result) -> str:
    """All tables, as Markdown; the banner of a rehearsal first and last."""
    rows: list[Row] = result["rows"]
    parts = [
        result.get("note", ""),
        _head(result, rows),
        _backends(rows),
        _correct(rows),
        _micro(rows),
        *(_recurrence(rows, op) for op in ("states", "gradients")),
        _compiled(rows),
        _training(rows),
        _one_line_each(rows, "decode", "Greedy decode, us per token"),
        _one_line_each(rows, "clip", "Clip norm over five gradients, us"),
        _rest(rows),
        targets(rows, result["rehearsal"]),
        result.get("note", ""),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(result: Result, rows: list[Row]) -> str:
    gpu = next((row["name"] for row in of_kind(rows, "gpu")), "no GPU")
    versions = next(iter(of_kind(rows, "versions")), {})
    names = [f"{key} {versions[key]}" for key in ("torch", "cuda", "cudnn") if key in versions]
    dirty = " with changes" if result.get("dirty") else ""
    commit = str(result.get("commit"))[:12]
    return f"{gpu}, {', '.join(names)}, commit {commit}{dirty}, {result['date']}"


def _backends(rows: list[Row]) -> str:
    return "\n".join(row["text"] for row in of_kind(rows, "explain"))


def _correct(rows: list[Row]) -> str:
    checked = of_kind(rows, "correct")
    wrong = [row for row in checked if not row["ok"]]
    lines = [f"Against float64: {len(checked)} checks, {len(wrong)} wrong"]
    for row in wrong[:20]:
        shape = " ".join(f"{key}{row[key]}" for key in "TBVH")
        lines.append(f"- {row['backend']} {row['function']} {shape}: {row['why']}")
    checked = of_kind(rows, "right")
    wrong = [row for row in checked if not row["ok"]]
    lines.append(f"Variants of the recurrence: {len(checked)} checks, {len(wrong)} wrong")
    lines += [f"- {row['operation']} {row['variant']}: {row['why']}" for row in wrong]
    for row in of_kind(rows, "agree", ok=False) + of_kind(rows, "failed"):
        where = " ".join(f"{key}{row[key]}" for key in "HNT" if key in row)
        lines.append(f"- not timed: {row['peer']} {row.get('what', '')} {where}")
    return "\n".join(lines)


def _micro(rows: list[Row]) -> str:
    lines = []
    for cluster in (1, 2, 4, 8, 16):
        counts = of_kind(rows, "clusters", cluster=cluster)
        if counts:
            each = ", ".join(f"{row['count']} at {row['shared_kb']} KB" for row in counts)
            lines.append(f"- active clusters of {cluster}: {each}")
    for row in of_kind(rows, "cycles"):
        size = f"{row['blocks']} blocks, clusters of {row['cluster']}, {row['vectors']} vectors"
        lines.append(f"- {row['what']}, {size}: {row['cycles']['median']:.0f} cycles")
    for row in of_kind(rows, "launch"):
        lines.append(f"- {row['what']}: {median(row):.2f} us")
    return "\n".join(["What the design rests on", *lines]) if lines else ""


def _recurrence(rows: list[Row], op: str) -> str:
    """Ours in us per step, and how many times the best peer takes, by H and N."""
    timed = [row for row in of_kind(rows, "time", op=op) if "against" not in row]
    lines = []
    for T in sorted({row["T"] for row in timed}):
        at = [row for row in timed if row["T"] == T]
        batches = sorted({row["N"] for row in at})
        lines += ["", f"| {op} T={T} | " + " | ".join(f"N={N}" for N in batches) + " |"]
        lines.append("|---" * (len(batches) + 1) + "|")
        ratios: list[float] = []
        for H in sorted({row["H"] for row in at}):
            cells = []
            for N in batches:
                here = [row for row in at if (row["H"], row["N"]) == (H, N)]
                ours = best(here, lambda p: is_ours(p) and "_high" not in p)
                peer = best(here, lambda p: not is_ours(p))
                if ours and peer:
                    ratios.append(median(peer) / median(ours))
                    cells.append(f"{median(ours) / T:.2f} ({ratios[-1]:.1f}x {peer['peer']})")
                else:
                    cells.append("-")
            lines.append(f"| H={H} | " + " | ".join(cells) + " |")
        if ratios:
            lines.append(f"\nmedian {statistics.median(ratios):.2f}x, least {min(ratios):.2f}x")
    return "\n".join(lines).strip()


def _compiled(rows: list[Row]) -> str:
    lines = [
        f"- {row['op']} H={row['H']} N={row['N']} T={row['T']} {row['peer']}: {median(row):.1f} us"
        for row in of_kind(rows, "time", against="compile")
    ]
    return "\n".join(["torch.compile", *lines]) if lines else ""


def _training(rows: list[Row]) -> str:
    lines = []
    timed = of_kind(rows, "train")
    for H, N in sorted({(row["H"], row["N"]) for row in timed}):
        here = sorted((row for row in timed if (row["H"], row["N"]) == (H, N)), key=median)
        lines += ["", f"| train step H={H} N={N} | us | tokens/s |", "|---|---|---|"]
        for row in here:
            rate = row["tokens_per_s"]["median"]
            lines.append(f"| {row['peer']} | {median(row):.1f} | {rate:,} |")
    return "\n".join(lines).strip()


def _one_line_each(rows: list[Row], kind: str, title: str) -> str:
    timed = of_kind(rows, kind)
    lines = [title] if timed else []
    for H in sorted({row["H"] for row in timed}):
        here = sorted((row for row in timed if row["H"] == H), key=median)
        each = ", ".join(f"{row['peer']} {median(row):.2f}" for row in here)
        lines.append(f"- H={H}: {each}")
    return "\n".join(lines)


def _rest(rows: list[Row]) -> str:
    lines = []
    for row in of_kind(rows, "launches"):
        lines.append(f"- kernels of one {row['what']}, {row['peer']}: {row['count']}")
    parts = of_kind(rows, "endurance")
    if parts:
        worst = max(row["relative"] for row in parts)
        lines.append(
            f"- {parts[-1]['steps']} graphed steps: loss within {worst:.1e} of the ungraphed loop's"
        )
    for row in of_kind(rows, "growth"):
        grown = {k: v for k, v in row.items() if k not in ("stage", "kind", "steps")}
        lines.append(f"- growth of memory over them: {grown}")
    for row in of_kind(rows, "sanitizer"):
        what = {k: v for k, v in row.items() if k not in ("stage", "kind", "said")}
        lines.append(f"- compute-sanitizer: {what}")
    return "\n".join(["The rest", *lines]) if lines else ""


def main() -> None:
    file = Path(sys.argv[1])
    result = json.loads(file.read_text())
    print(report(result))
    draw(result, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
