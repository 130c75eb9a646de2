"""What was to be reached, and what was."""

from __future__ import annotations

import statistics

from bench.gpu.rows import Row, best, is_ours, median, of_kind


def lines(rows: list[Row], rehearsal: bool) -> str:
    """A line per target; at a rehearsal they show that the figures are found, and judge nothing."""
    found = [
        *_recurrence(rows),
        *_training(rows),
        *_rest(rows),
    ]
    if not found:
        return ""
    title = "Targets"
    if rehearsal:
        title = "Targets (rehearsal: nothing here is one)"
        found = [line.rpartition(": ")[0] for line in found]
    return "\n".join([title, *(f"- {line}" for line in found)])


def _recurrence(rows: list[Row]) -> list[str]:
    found = []
    for op, limit, factors in (
        ("states", 0.9, {"cudnn": 4, "cudnn_tf32": 3}),
        ("gradients", None, {"cudnn": 4, "scratch": 30}),
    ):
        here = of_kind(rows, "time", op=op, H=512, N=32, T=35)
        ours = best(here, _ours)
        if ours and limit:
            found.append(_most(f"{op} H=512 N=32, us per step", median(ours) / 35, limit))
        for name, factor in factors.items():
            peer = best(here, lambda p, name=name: p.split("+")[0] == name)
            if ours and peer:
                ratio = median(peer) / median(ours)
                found.append(_least(f"{op} H=512 N=32, times {peer['peer']}", ratio, factor))
        timed = [row for row in of_kind(rows, "time", op=op) if "against" not in row]
        found += _against_best(f"{op}, all shapes", timed, ("H", "N", "T"))
    return found


def _training(rows: list[Row]) -> list[str]:
    here = of_kind(rows, "train", H=512, N=32)
    whole = best(here, lambda p: is_ours(p) and p.endswith("train_epoch_ch8"))
    found = []
    if whole:
        found.append(_most("train_epoch_ch8 H=512 N=32, us per step", median(whole), 120))
        for name, factor in (("scratch", 40), ("graph", 3)):
            peer = best(here, lambda p, name=name: not is_ours(p) and p.endswith(name))
            if peer:
                ratio = median(peer) / median(whole)
                found.append(_least(f"the same, times {peer['peer']}", ratio, factor))
    timed = of_kind(rows, "train")
    return found + _against_best("train step, all shapes", timed, ("H", "N"))


def _rest(rows: list[Row]) -> list[str]:
    found = []
    for kind, what, limit in (("decode", "us per token", 1.5), ("clip", "us", 10.0)):
        ours = best(of_kind(rows, kind, H=512), is_ours)
        if ours:
            found.append(_most(f"{kind} H=512, {what}", median(ours), limit))
    for row in of_kind(rows, "launches", what="clip"):
        if is_ours(row["peer"]) and row["count"] is not None:
            found.append(_most(f"launches of the clip, {row['peer']}", row["count"], 2))
    return found


def _against_best(what: str, rows: list[Row], keys: tuple[str, ...]) -> list[str]:
    """Ours against the best of the others on every shape: never slower, twice at the median."""
    ratios = []
    for shape in sorted({tuple(row[key] for key in keys) for row in rows}):
        here = [row for row in rows if tuple(row[key] for key in keys) == shape]
        ours, peer = best(here, _ours), best(here, lambda p: not is_ours(p))
        if ours and peer:
            ratios.append(median(peer) / median(ours))
    if not ratios:
        return []
    middle = _least(f"{what}: median times the best peer", statistics.median(ratios), 2)
    return [middle, _least(f"{what}: least times the best peer", min(ratios), 1)]


def _ours(peer: str) -> bool:
    """At float32 without TF32."""
    return is_ours(peer) and "_high" not in peer


def _most(what: str, value: float, limit: float) -> str:
    return f"{what}: {value:.3g}, at most {limit:g}: {_verdict(value <= limit)}"


def _least(what: str, value: float, limit: float) -> str:
    return f"{what}: {value:.3g}, at least {limit:g}: {_verdict(value >= limit)}"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"
