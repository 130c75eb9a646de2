"""Two commits against each other: `python bench/tools/compare.py BASE [NEW]`. See bench/README.md.

Both are measured by the bench of this checkout, whose peer for rnnfast uses public names alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cases import CASES, OPS
from bench.harness import machine
from bench.harness.measure import Bench, Plan, Timed, Workers, YardstickError
from bench.harness.protocol import ROOT
from bench.harness.summary import quantiles
from bench.suites import Entry

YARDSTICK = Entry("scratch", "scratch", "onehot")
LEVELS = ("step", "loss", "loop")


def main() -> None:
    options = _options()
    plan = Plan(
        tuple(options.ops),
        options.rounds,
        options.budget,
        options.threads,
        options.limit,
        settle=0.05,
    )
    entries = [
        Entry(name, "ours", options.level, ours=True, checkout=str(_checkout(commit)))
        for name, commit in (("base", options.base), ("new", options.new))
    ]
    log = ROOT / "build" / "compare.log"
    with log.open("wb") as file:
        for name in options.cases:
            with Workers(plan, file) as workers:
                bench = Bench(CASES[name], plan, workers)
                bench.admit([YARDSTICK, *entries], YARDSTICK.name)
                del bench.runners[YARDSTICK.name]  # it has set the bounds of the error
                timed = bench.time(plan.ops, None)
            if bench.failures:
                sys.exit(f"compare: error: {log} has what the workers said")
            _print(name, timed)


def _print(case: str, timed: Timed) -> None:
    """Per operation: the time of a call at both commits, and their ratio in the same rounds."""
    for op in dict.fromkeys(op for op, _ in timed):
        base, new = timed[op, "base"].seconds, timed[op, "new"].seconds
        a, b = (quantiles([1e3 * seconds for seconds in each]) for each in (base, new))
        ratio = quantiles([x / y for x, y in zip(base, new, strict=True)])
        print(
            f"{case:10} {op:9} base {a['median']:9.4g} ms   new {b['median']:9.4g} ms   "
            f"{ratio['median']:.3f} times as fast ({ratio['q10']:.3f} to {ratio['q90']:.3f})",
            flush=True,
        )


def _checkout(name: str) -> Path:
    """A built checkout of a commit, kept for the next comparison; '.' is this one as it stands."""
    folder = ROOT
    if name != ".":
        commit = _run(["git", "rev-parse", "--verify", f"{name}^{{commit}}"], ROOT).strip()
        folder = ROOT / "build" / "compare" / commit[:12]
        if not folder.exists():
            _run(["git", "worktree", "prune"], ROOT)  # of those that were deleted by hand
            _run(["git", "worktree", "add", "--detach", str(folder), commit], ROOT)
    print(f"building {name}", file=sys.stderr)
    _run([sys.executable, "setup.py", "build_ext", "--inplace"], folder)
    return folder


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"compare: error: {' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add, cases = parser.add_argument, ["H64", "H256", "N1_H512"]
    ops = list(dict.fromkeys([*OPS, *(op for case in CASES.values() for op in case.ops)]))
    add("base", help="a commit, branch or tag")
    add("new", nargs="?", default=".", help="another one; default: this checkout as it stands")
    add("--cases", nargs="+", choices=CASES, default=cases, metavar="CASE", help=" ".join(CASES))
    add("--ops", nargs="+", choices=ops, default=ops, metavar="OP", help=" ".join(ops))
    add("--level", choices=LEVELS, default="step", help="see README.md")
    add("--rounds", type=int, default=9)
    add("--budget", type=float, default=0.3, help="seconds of each turn (default %(default)s)")
    add("--threads", type=int, default=machine.processors(), help="default: all, %(default)s here")
    add("--limit", type=float, default=600.0, help="seconds until a worker is given up")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except YardstickError as error:
        sys.exit(f"compare: error: {error}")
