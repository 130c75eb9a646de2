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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import machine, report
from bench.cases import OPS, Case
from bench.compiler import CompileError
from bench.measure import Bench, Plan, YardstickError, busy_neighbours
from bench.probe import Reading
from bench.suites import Suite
from bench.summary import slowdown, summarise

HERE = Path(__file__).resolve().parent
Prober = Callable[[Case], Reading]


def main() -> int:
    module, rest = _suite()
    if hasattr(module, "main"):  # it is not a race of peers on cases
        return int(module.main(rest))
    suite: Suite = module.SUITE
    options = _options(suite)
    plan = Plan(tuple(options.ops), options.rounds, options.budget, options.threads, options.limit)
    names = dict.fromkeys([suite.yardstick, *options.peers])
    entries = [entry for entry in suite.entries if entry.name in names]
    result = _header(suite, plan)
    probe = _probe(suite, plan.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    with Path(options.out, f"{suite.name}.log").open("wb") as log:
        for name in options.cases:
            with Bench(suite.cases[name], plan, log) as bench:
                bench.admit(entries, suite.yardstick)
                record = _measure(suite, bench, probe, options.busy)
            for runner in bench.runners.values():
                result["versions"] |= runner.versions
            result["cases"][name] = record
            _save(options.out / f"{suite.name}.json", result)
            print(report.table(name, record), report.machine_line(record), sep="\n\n", end="\n\n")
        if suite.extras and options.extras:
            result["extras"] = _extras(suite, plan, log)
            _save(options.out / f"{suite.name}.json", result)
            print(report.extras_table(result["extras"]), end="\n\n")
    report.draw(result, options.out / f"{suite.name}.png")
    return 0


def _measure(suite: Suite, bench: Bench, probe: Prober | None, busy: int) -> dict[str, Any]:
    quiet = bench.time(bench.plan.ops, probe)
    record: dict[str, Any] = {
        "shape": asdict(bench.case),
        "ops": summarise(suite, bench, quiet),
        "left_out": bench.left_out,
    }
    if busy and "train" in bench.plan.ops:
        with busy_neighbours(busy):
            beside = bench.time(("train",), probe)
        record["busy"] = {"neighbours": busy, **slowdown(quiet, beside)}
    return record


def _extras(suite: Suite, plan: Plan, log: IO[bytes]) -> dict[str, Any]:
    """What fits no case, by a process of its own."""
    command = [sys.executable, "-m", f"bench.{suite.extras}", str(plan.threads), str(plan.rounds)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=log, check=True)
    extras: dict[str, Any] = json.loads(done.stdout)
    return extras


def _probe(suite: Suite, threads: int) -> Prober | None:
    try:
        return suite.probe(threads)
    except CompileError as error:
        print(f"the machine is not probed, so no per cent of the limit: {error}")
        return None


def _header(suite: Suite, plan: Plan) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "date": datetime.date.today().isoformat(),
        **machine.commit(),
        "machine": machine.describe(),
        "versions": {"python": platform.python_version()},
        **asdict(plan),
        "cases": {},
    }


def _save(file: Path, result: dict[str, Any]) -> None:
    """Whole or not at all: an interrupted run leaves the cases that it finished."""
    text = json.dumps(result, indent=1)
    one_line = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    part = file.with_suffix(".part")
    part.write_text(one_line + "\n")
    part.replace(file)


def _first_parser() -> argparse.ArgumentParser:
    suites = sorted(p.stem for p in (HERE / "suites").glob("[!_]*.py"))
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--suite", choices=suites, default="cpu")
    return first


def _suite() -> tuple[ModuleType, list[str]]:
    """The module of the suite that is asked for, and the other arguments."""
    known, rest = _first_parser().parse_known_args()
    return importlib.import_module(f"bench.suites.{known.suite}"), rest


def _options(suite: Suite) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[_first_parser()])
    cases, peers = list(suite.cases), [entry.name for entry in suite.entries]
    add = parser.add_argument
    add("--cases", nargs="+", choices=cases, default=cases, metavar="CASE", help=" ".join(cases))
    add("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=" ".join(peers))
    add("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help=" ".join(OPS))
    add("--rounds", type=int, default=7, help="turns of every peer (default %(default)s)")
    add("--budget", type=float, default=0.3, help="seconds of each turn (default %(default)s)")
    add("--threads", type=int, default=machine.processors(), help="default: all, %(default)s here")
    add("--limit", type=float, default=600.0, help="seconds until a worker is given up")
    add("--busy", type=int, default=0, metavar="N", help="also time training beside N spinners")
    add("--extras", action=argparse.BooleanOptionalAction, default=True, help="what fits no case")
    add("--out", type=Path, default=HERE / "results", help="folder of the result")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except YardstickError as error:
        sys.exit(f"bench: error: {error}; the log beside the result has what it said")
    except KeyboardInterrupt:
        sys.exit("bench: stopped; the result holds the cases that were finished")
