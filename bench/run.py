"""The benchmark: `python bench/run.py --suite cpu`. See README.md beside it."""

from __future__ import annotations

import argparse
import importlib
import sys
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.cases import AnyCase
from bench.harness import machine
from bench.harness.measure import YardstickError
from bench.harness.run import Run
from bench.suites import Suite

HERE = Path(__file__).resolve().parent


def main() -> int:
    """0 unless one of ours failed: a peer that fails is told and left out."""
    suite, options = _options()
    run = Run(suite, options, tuple(options.ops or _ops(suite)))
    table = run.run(_chosen(suite, options.only))
    print(f"\n{table}\n\n{run.file}")
    for failure in run.failures:
        print(f"bench: error: {failure}", file=sys.stderr)
    return 1 if run.failures else 0


def _options() -> tuple[Suite, argparse.Namespace]:
    suites = sorted(p.stem for p in (HERE / "suites").glob("[!_]*.py"))
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--suite", choices=suites, default="cpu")
    first.add_argument("--dry", action="store_true", help="rehearse the GPU suite on a CPU")
    known, _ = first.parse_known_args()
    suite = _suite(known)

    parser = argparse.ArgumentParser(description=__doc__, parents=[first])
    peers, ops = [entry.name for entry in suite.entries], _ops(suite)
    only = "patterns of names of cases: " + " ".join(suite.cases)
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], metavar="CASE", help=only)
    add("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=" ".join(peers))
    add("--ops", nargs="+", choices=ops, metavar="OP", help=" ".join(ops))
    add("--rounds", type=int, default=suite.rounds, help="turns of every peer (%(default)s)")
    add("--budget", type=float, default=suite.budget, help="seconds of each turn (%(default)s)")
    add("--threads", type=int, default=machine.processors(), help="default: all, %(default)s here")
    add("--limit", type=float, default=suite.answer, help="seconds until a worker is given up")
    add("--seconds", type=float, default=suite.seconds, help="no case starts later; 0: any time")
    add("--resume", action="store_true", help="only the cases that the result there lacks")
    add("--busy", type=int, default=0, metavar="N", help="also time training beside N spinners")
    add("--quick", action="store_true", help="the GPU's times without its tests and its table")
    add("--commit", help="of this checkout, for a copy of it that git knows nothing of")
    add("--out", type=Path, default=HERE / "results", help="folder of the result")
    return suite, parser.parse_args()


def _suite(options: argparse.Namespace) -> Suite:
    if options.dry and options.suite != "gpu":
        raise SystemExit("bench: error: --dry rehearses --suite gpu alone")
    module = importlib.import_module(f"bench.suites.{options.suite}")
    suite: Suite = module.rehearse() if options.dry else module.SUITE
    if suite.device == "cuda" and not _has_gpu():
        raise SystemExit(
            "bench: error: torch sees no CUDA device; --dry rehearses the suite without a GPU"
        )
    return suite


def _ops(suite: Suite) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op for case in suite.cases.values() for op in case.ops))


def _chosen(suite: Suite, patterns: list[str]) -> list[AnyCase]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in suite.cases):
            raise SystemExit(f"bench: error: --only {pattern}: no case of {suite.name} is so named")
    return [
        case
        for name, case in suite.cases.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except YardstickError as error:
        sys.exit(f"bench: error: {error}; the log beside the result has what it said")
    except KeyboardInterrupt:
        sys.exit("bench: stopped; the result holds the cases that were finished")
