"""The benchmark: `python bench/run.py --suite cpu`. See README.md beside it."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.cases import AnyCase
from bench.harness import machine, picture, report, summary
from bench.harness.compiler import CompileError
from bench.harness.measure import Bench, Plan, Workers, YardstickError, busy_neighbours
from bench.harness.protocol import ROOT
from bench.suites import Prober, Suite

HERE = Path(__file__).resolve().parent
REHEARSAL = (
    "REHEARSAL WITHOUT A GPU: every time in here was taken on a CPU with tiny shapes and other "
    "kernels in the GPU's place. It is no GPU figure and says nothing about one."
)
Result = dict[str, Any]


def main() -> int:
    """0 unless one of ours failed: a peer that fails is told and left out."""
    suite, options = _options()
    plan = Plan(
        tuple(options.ops) if options.ops else _ops(suite),
        options.rounds,
        options.budget,
        options.threads,
        options.limit,
        suite.device,
        suite.settle,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{suite.name}{'-rehearsal' if options.dry else ''}.json"
    result = _header(suite, plan, options)
    if options.add:
        result = _continued(result, json.loads(file.read_text()))
    with file.with_suffix(".log").open("ab" if options.add else "wb") as log:
        failures = _before(suite, result, options, log)
        failures += _cases(suite, plan, result, file, options, log)
        failures += _after(suite, result, file, options, log)
    _save(file, result)
    text = report.summary(result)
    file.with_suffix(".md").write_text(text + "\n")
    picture.draw(result, file)
    print(f"\n{text}\n\n{file}")
    for failure in failures:
        print(f"bench: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _cases(
    suite: Suite,
    plan: Plan,
    result: Result,
    file: Path,
    options: argparse.Namespace,
    log: IO[bytes],
) -> list[str]:
    """Measure case after case; the file has those that are finished. Returns how ours failed."""
    names = dict.fromkeys([suite.yardstick, *options.peers])
    entries = [entry for entry in suite.entries if entry.name in names]
    probe, failures = _probe(suite, plan.threads), []
    end = time.monotonic() + (suite.seconds or float("inf"))
    with Workers(plan, log) as workers:
        for case in options.cases:
            if time.monotonic() > end:
                result["told"][case.name] = f"no time left: {suite.seconds:g} s were"
                continue
            bench = Bench(case, plan, workers)
            bench.admit(entries, suite.yardstick)
            record = _measure(suite, bench, probe, options.busy)
            failures += bench.failures
            for runner in bench.runners.values():
                result["versions"] |= runner.versions
            result["cases"][case.name] = record
            _save(file, result)
            print(*report.lines(case.name, record), sep="\n", flush=True)
            if suite.fresh:
                workers.stop_all()
    return failures


def _measure(suite: Suite, bench: Bench, probe: Prober | None, busy: int) -> Result:
    quiet = bench.time(bench.plan.ops, probe)
    record: Result = {
        "shape": asdict(bench.case),
        "ops": summary.summarise(suite, bench, quiet),
        "machine": summary.machine(quiet),
        "left_out": bench.left_out,
    }
    if busy and "train" in bench.plan.ops:
        with busy_neighbours(busy):
            beside = bench.time(("train",), probe)
        record["busy"] = {"neighbours": busy, **summary.slowdown(quiet, beside)}
    return record


def _before(suite: Suite, result: Result, options: argparse.Namespace, log: IO[bytes]) -> list[str]:
    """On a GPU: compile all kernels, and prove them by the tests that need one."""
    if suite.device != "cuda" or options.quick:
        return []
    kernels = [sys.executable, "-m", "rnnfast", "build"]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    return [
        *_part("kernels", kernels, 60, result, log),
        *_part("tests", tests, 90, result, log),
    ]


def _after(
    suite: Suite, result: Result, file: Path, options: argparse.Namespace, log: IO[bytes]
) -> list[str]:
    """On a GPU, or at its rehearsal: the table of kernel variants from their own times."""
    if suite.name != "gpu" or options.quick:
        return []
    command = [sys.executable, "-m", "bench.tools.variants"]
    command += ["--out", str(file.with_name(f"{file.stem}-variants.json"))]
    return _part("variants", command + ["--dry"] * options.dry, 60, result, log)


def _part(name: str, command: list[str], limit: float, result: Result, log: IO[bytes]) -> list[str]:
    """A process of its own; its last line is told, and that it failed."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, timeout=limit
        )
        lines, code = done.stdout.splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        lines, code = [f"not done in {limit:g} s"], 1
    log.write("\n".join([*lines, ""]).encode())
    said = lines[-1] if lines else ""
    result["told"][name] = said
    print(f"{name}: {said}", flush=True)
    return [f"{name}: {said}"] if code else []


def _probe(suite: Suite, threads: int) -> Prober | None:
    if suite.probe is None:
        return None
    try:
        return suite.probe(threads)
    except CompileError as error:
        print(f"the machine is not probed, so no per cent of the limit: {error}")
        return None


def _header(suite: Suite, plan: Plan, options: argparse.Namespace) -> Result:
    known = {"commit": options.commit, "dirty": None} if options.commit else machine.commit()
    return {
        "suite": suite.name,
        **({"note": REHEARSAL} if options.dry else {}),
        "date": datetime.date.today().isoformat(),
        **known,
        "machine": machine.describe(suite.device),
        "versions": {"python": platform.python_version()},
        "yardstick": suite.yardstick,
        **asdict(plan),
        "told": {},
        "cases": {},
    }


def _continued(new: Result, old: Result) -> Result:
    """The result that is there, for more cases. Raises SystemExit where it is of something else."""
    for key in ("commit", "dirty", "machine"):
        if old.get(key) != new[key]:
            raise SystemExit(
                f"bench: error: --add: the result is of {key} {old.get(key)}, this is {new[key]}"
            )
    return {**new, "versions": old["versions"], "told": old["told"], "cases": old["cases"]}


def _save(file: Path, result: Result) -> None:
    """Whole or not at all: an interrupted run leaves the cases that it finished."""
    text = json.dumps(result, indent=1)
    flat = re.sub(r"[\[{][^][{}]*[\]}]", lambda inner: " ".join(inner[0].split()), text)
    part = file.with_suffix(".part")
    part.write_text(flat + "\n")
    part.replace(file)


def _ops(suite: Suite) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op for case in suite.cases.values() for op in case.ops))


def _suite(options: argparse.Namespace) -> Suite:
    module = importlib.import_module(f"bench.suites.{options.suite}")
    suite: Suite = module.rehearse() if options.dry else module.SUITE
    return suite


def _options() -> tuple[Suite, argparse.Namespace]:
    suites = sorted(p.stem for p in (HERE / "suites").glob("[!_]*.py"))
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--suite", choices=suites, default="cpu")
    first.add_argument("--dry", action="store_true", help="rehearse the GPU suite on a CPU")
    known, _ = first.parse_known_args()
    if known.dry and known.suite != "gpu":
        first.error("--dry rehearses --suite gpu alone")
    suite = _suite(known)
    if suite.device == "cuda" and (reason := _why_no_gpu()):
        raise SystemExit(f"bench: error: {reason}; --dry rehearses the suite without a GPU")

    parser = argparse.ArgumentParser(description=__doc__, parents=[first])
    peers, ops = [entry.name for entry in suite.entries], _ops(suite)
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        default=["*"],
        metavar="CASE",
        help="patterns: " + " ".join(suite.cases),
    )
    add("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=" ".join(peers))
    add("--ops", nargs="+", choices=ops, metavar="OP", help=" ".join(ops))
    add("--rounds", type=int, default=suite.rounds, help="turns of every peer (%(default)s)")
    add("--budget", type=float, default=suite.budget, help="seconds of each turn (%(default)s)")
    add("--threads", type=int, default=machine.processors(), help="default: all, %(default)s here")
    add("--limit", type=float, default=600.0, help="seconds until a worker is given up")
    add("--busy", type=int, default=0, metavar="N", help="also time training beside N spinners")
    add("--add", action="store_true", help="keep the other cases of the result that is there")
    add("--quick", action="store_true", help="the times alone: no tests, no table of variants")
    add("--commit", help="of this checkout, for a copy of it that git knows nothing of")
    add("--out", type=Path, default=HERE / "results", help="folder of the result")
    options = parser.parse_args()
    options.cases = _chosen(suite, options.only)
    return suite, options


def _chosen(suite: Suite, patterns: list[str]) -> list[AnyCase]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in suite.cases):
            raise SystemExit(f"bench: error: --only {pattern}: no case of {suite.name} is so named")
    return [
        case
        for name, case in suite.cases.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _why_no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except YardstickError as error:
        sys.exit(f"bench: error: {error}; the log beside the result has what it said")
    except KeyboardInterrupt:
        sys.exit("bench: stopped; the result holds the cases that were finished")
