"""One run of a suite: its cases one after another, what comes before and after, the file."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench.cases import AnyCase
from bench.harness import machine, report, summary
from bench.harness.compiler import CompileError
from bench.harness.measure import Bench, Plan, Workers, busy_neighbours
from bench.harness.protocol import ROOT
from bench.suites import Prober, Suite

REHEARSAL = (
    "REHEARSAL WITHOUT A GPU: every time in here was taken on a CPU with tiny shapes and other "
    "kernels in the GPU's place. It is no GPU figure and says nothing about one."
)
_NO_TIME = "no time left for"
_LINE = 700  # characters
Result = dict[str, Any]


class Run:
    """options: of the command line, see bench/run.py. `failures` are of ours alone."""

    def __init__(self, suite: Suite, options: argparse.Namespace, ops: tuple[str, ...]) -> None:
        self._suite, self._options = suite, options
        self._plan = Plan(
            ops,
            options.rounds,
            options.budget,
            options.threads,
            options.limit,
            suite.device,
            suite.settle,
        )
        self._end = time.monotonic() + (options.seconds or float("inf"))
        options.out.mkdir(parents=True, exist_ok=True)
        self.file = options.out / f"{suite.name}{'-rehearsal' if options.dry else ''}.json"
        self.result = self._header()
        if options.resume:
            self._continue(json.loads(self.file.read_text()))
        self.failures: list[str] = []

    def run(self, cases: list[AnyCase]) -> str:
        """All of it. Returns the table."""
        gpu = self._suite.name == "gpu" and not self._options.quick
        with self.file.with_suffix(".log").open("ab" if self._options.resume else "wb") as log:
            if gpu and self._suite.device == "cuda":
                self._part("kernels", ["-m", "rnnfast", "build"], 60, log)
                self._part("tests", ["-m", "pytest", "-q", "-m", "gpu", "tests"], 90, log)
            self._cases(cases, log)
            if gpu:
                table = self.file.with_name(f"{self.file.stem}-variants.json")
                command = ["-m", "bench.tools.variants", "--out", str(table)]
                self._part("variants", command + ["--dry"] * self._options.dry, 60, log)
        save(self.file, self.result)
        return report.write(self.result, self.file)

    def _cases(self, cases: list[AnyCase], log: IO[bytes]) -> None:
        """The file has those that are finished."""
        suite, options = self._suite, self._options
        names = dict.fromkeys([suite.yardstick, *options.peers])
        entries = [entry for entry in suite.entries if entry.name in names]
        left = [case for case in cases if case.name not in self.result["cases"]]
        probe = self._probe() if left else None
        with Workers(self._plan, log) as workers:
            while left and time.monotonic() < self._end - suite.reserve:
                case = left.pop(0)
                bench = Bench(case, self._plan, workers)
                bench.admit(entries, suite.yardstick)
                self.result["cases"][case.name] = record = self._measure(bench, probe)
                self.failures += bench.failures
                for runner in bench.runners.values():
                    self.result["versions"] |= runner.versions
                save(self.file, self.result)
                print(*report.lines(case.name, record), sep="\n", flush=True)
                if suite.fresh:
                    workers.stop_all()
        if left:
            names_left = ", ".join(case.name for case in left)
            self.result["told"][_NO_TIME] = f"{names_left}; --resume measures them"

    def _measure(self, bench: Bench, probe: Prober | None) -> Result:
        quiet = bench.time(self._plan.ops, probe)
        record: Result = {
            "shape": asdict(bench.case),
            "ops": summary.summarise(self._suite, bench, quiet),
            "machine": summary.machine(quiet),
            "left_out": bench.left_out,
        }
        if self._options.busy and "train" in self._plan.ops:
            with busy_neighbours(self._options.busy):
                beside = bench.time(("train",), probe)
            slower = summary.slowdown(quiet, beside)
            record["busy"] = {"neighbours": self._options.busy, **slower}
        return record

    def _part(self, name: str, arguments: list[str], limit: float, log: IO[bytes]) -> None:
        """A program of its own; its last line is told, and that it failed."""
        limit = max(1.0, min(limit, self._end - time.monotonic()))
        if self._options.dry:
            limit = 3600.0  # a CPU that others use as well may take its time
        command = [sys.executable, *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, timeout=limit
            )
            lines, failed = done.stdout.splitlines() or [""], done.returncode != 0
        except subprocess.TimeoutExpired:
            lines, failed = [f"not done in {limit:.0f} s"], True
        log.write("\n".join([*lines, ""]).encode())
        self.result["told"][name] = lines[-1]
        print(f"{name}: {lines[-1]}", flush=True)
        if failed:
            self.failures.append(f"{name}: {lines[-1]}")

    def _probe(self) -> Prober | None:
        if self._suite.probe is None:
            return None
        try:
            return self._suite.probe(self._plan.threads)
        except CompileError as error:
            print(f"the machine is not probed, so no per cent of the limit: {error}")
            return None

    def _header(self) -> Result:
        suite, options = self._suite, self._options
        named = {"commit": options.commit, "dirty": None} if options.commit else machine.commit()
        return {
            "suite": suite.name,
            **({"note": REHEARSAL} if options.dry else {}),
            "date": datetime.date.today().isoformat(),
            **named,
            "machine": machine.describe(suite.device),
            "versions": {"python": platform.python_version()},
            "yardstick": suite.yardstick,
            **asdict(self._plan),
            "told": {},
            "cases": {},
        }

    def _continue(self, old: Result) -> None:
        """Take over the cases of the result that is there. Raises SystemExit if it has others."""
        for key in ("commit", "dirty", "machine"):
            if old.get(key) != self.result[key]:
                raise SystemExit(
                    f"bench: error: --resume: the result is of {key} {old.get(key)}, "
                    f"not {self.result[key]}"
                )
        told = {name: text for name, text in old["told"].items() if name != _NO_TIME}
        self.result |= {"versions": old["versions"], "told": told, "cases": old["cases"]}


def save(file: Path, result: Result) -> None:
    """Whole or not at all: an interrupted run leaves the cases that it finished."""
    part = file.with_suffix(".part")
    part.write_text(_text(result) + "\n")
    part.replace(file)


def _text(value: Any, indent: str = "") -> str:
    """JSON with a peer's figures on one line."""
    flat = json.dumps(value)
    if len(flat) < _LINE or not isinstance(value, dict):
        return flat
    inner = indent + " "
    rows = [f"{inner}{json.dumps(key)}: {_text(each, inner)}" for key, each in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
