"""Two commits against each other: `python bench/tools/compare.py BASE [NEW]`. See bench/README.md.

Both are measured by the bench of this checkout, whose peer for rnnfast uses public names alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.measure import Bench, Timed, Workers, YardstickError
from bench.harness.protocol import ROOT
from bench.harness.summary import quantiles, ratios
from bench.suites import Entry, Suite, cpu

LEVELS = ("step", "loss", "loop")


def main() -> None:
    suite = _suite(_options())
    log = ROOT / "build" / "compare.log"
    with log.open("wb") as file:
        for case in suite.cases.values():
            with Workers(suite, file) as workers:
                bench = Bench(case, suite, workers)
                bench.admit()
                del bench.runners[suite.yardstick]  # it has set the bounds of the error
                timed = bench.time()
            if bench.failures:
                sys.exit(f"compare: error: {log} has what the workers said")
            _print(case.name, timed)


def _suite(options: argparse.Namespace) -> Suite:
    """The yardstick, and rnnfast of both commits."""
    suite = replace(cpu.SUITE, rounds=options.rounds, budget=options.budget)
    suite = suite.only(options.cases, [suite.yardstick], options.ops)
    both = (
        Entry(name, "ours", options.level, ours=True, checkout=str(_checkout(commit)))
        for name, commit in (("base", options.base), ("new", options.new))
    )
    return replace(suite, entries=(*suite.entries, *both))


def _print(case: str, timed: Timed) -> None:
    """Per operation: the time of a call at both commits, and their ratio in the same rounds."""
    for op, samples in timed.items():
        base, new = samples["base"], samples["new"]
        a, b = (quantiles([1e3 * seconds for seconds in each.seconds]) for each in (base, new))
        ratio = quantiles(ratios(base, new))
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
    add("base", help="a commit, branch or tag")
    add("new", nargs="?", default=".", help="another one; default: this checkout as it stands")
    add("--cases", nargs="+", default=cases, help=f"patterns of {' '.join(cpu.SUITE.cases)}")
    add("--ops", nargs="+", default=["*"], help=f"patterns of {' '.join(cpu.SUITE.ops)}")
    add("--level", choices=LEVELS, default="step", help="of rnnfast: see bench/peers/ours.py")
    add("--rounds", type=int, default=9)
    add("--budget", type=float, default=0.3, help="seconds of each turn (default %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, YardstickError) as error:
        sys.exit(f"compare: error: {error}")
