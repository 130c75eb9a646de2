"""The benchmark: `python bench/run.py --suite cpu`. See README.md beside it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.harness.measure import YardstickError
from bench.harness.run import Run
from bench.suites import Suite, cpu, gpu, nn

SUITES = {s.name: s for s in (cpu.SUITE, nn.SUITE, nn.ON_GPU, gpu.SUITE, gpu.REHEARSAL)}
_TAKEN = ("rounds", "budget", "threads", "answer", "seconds")  # from the suite where not given


def main() -> int:
    """0 unless one of ours failed: a peer that fails is told and left out."""
    options = _options()
    try:
        run = Run(_suite(options), options.out, resume=options.resume, commit=options.commit)
    except ValueError as error:
        sys.exit(f"bench: error: {error}")
    try:
        table = run.run()
    except YardstickError as error:
        sys.exit(f"bench: error: {error}; the log beside the result has what it said")
    except KeyboardInterrupt:
        sys.exit("bench: stopped; the result holds the cases that were finished")
    print(f"\n{table}\n\n{run.file}")
    for failure in run.failures:
        print(f"bench: error: {failure}", file=sys.stderr)
    return 1 if run.failures else 0


def _suite(options: argparse.Namespace) -> Suite:
    """As the command line has it. Raises ValueError."""
    suite = SUITES[options.suite]
    if suite.device == "cuda" and not _has_gpu():
        raise ValueError("torch sees no CUDA device; --suite gpu-rehearsal runs without a GPU")
    given = {name: getattr(options, name) for name in _TAKEN}
    suite = replace(suite, **{name: value for name, value in given.items() if value is not None})
    if options.quick:
        suite = replace(suite, before=(), after=())
    return suite.only(options.only, options.peers, options.ops)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add, every = parser.add_argument, ["*"]
    add("--suite", choices=SUITES, default="cpu")
    add("--only", nargs="+", default=every, metavar="CASE", help="patterns of names of cases")
    add("--peers", nargs="+", default=every, metavar="PEER", help="patterns of names of peers")
    add("--ops", nargs="+", default=every, metavar="OP", help="patterns of operations")
    add("--rounds", type=int, help="turns of every peer")
    add("--budget", type=float, help="seconds of each turn")
    add("--threads", type=int, help="default: one for each processor")
    add("--limit", type=float, dest="answer", help="seconds until a worker is given up")
    add("--seconds", type=float, help="no case starts later")
    add("--resume", action="store_true", help="only the cases that the result there lacks")
    add("--quick", action="store_true", help="the GPU's times without its tests and its table")
    add("--commit", help="of this checkout, for a copy of it that git knows nothing of")
    add("--out", type=Path, default=Path(__file__).with_name("results"), help="result's folder")
    return parser.parse_args()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
