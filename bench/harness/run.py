"""One run of a suite: its cases one after another, what comes before and after, the file."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench.harness import machine, report, summary
from bench.harness.compiler import CompileError
from bench.harness.measure import Bench, Workers
from bench.harness.protocol import ROOT
from bench.suites import Part, Prober, Suite

_NO_TIME = "no time left for"
_LINE = 700  # characters
Result = dict[str, Any]


class Run:
    """`file` holds the cases that are finished; `failures` are of ours alone.

    commit: of this checkout, where git does not know it.
    Raises ValueError where the result to resume is of another commit or machine.
    """

    def __init__(
        self, suite: Suite, folder: Path, *, resume: bool = False, commit: str | None = None
    ) -> None:
        self._suite, self._resume = suite, resume
        self._end = time.monotonic() + suite.seconds
        self.file = folder / f"{suite.name}.json"
        self.failures: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._result = self._header(commit)
        if resume:
            self._continue(json.loads(self.file.read_text()))

    def run(self) -> str:
        """All of it. Returns the table."""
        with self.file.with_suffix(".log").open("ab" if self._resume else "wb") as log:
            for part in self._suite.before:
                self._part(part, log)
            self._cases(log)
            for part in self._suite.after:
                self._part(part, log)
        save(self.file, self._result)
        return report.write(self._result, self.file)

    def _cases(self, log: IO[bytes]) -> None:
        suite, done = self._suite, self._result["cases"]
        left = [case for case in suite.cases.values() if case.name not in done]
        probe = self._probe() if left else None
        with Workers(suite, log) as workers:
            while left and time.monotonic() < self._end - suite.reserve:
                bench = Bench(left.pop(0), suite, workers)
                bench.admit()
                timed = bench.time(probe)
                done[bench.case.name] = record = {
                    "shape": asdict(bench.case),
                    "ops": summary.summarise(bench, timed),
                    "machine": summary.machine(timed),
                    "left_out": bench.left_out,
                }
                self.failures += bench.failures
                for runner in bench.runners.values():
                    self._result["versions"] |= runner.versions
                save(self.file, self._result)
                print(*report.lines(bench.case.name, record), sep="\n", flush=True)
                if suite.fresh:
                    workers.stop_all()
        if left:
            names = ", ".join(case.name for case in left)
            self._result["told"][_NO_TIME] = f"{names}; --resume measures them"

    def _part(self, part: Part, log: IO[bytes]) -> None:
        """Its last line is told, and that it failed."""
        limit = max(1.0, min(part.limit, self._end - time.monotonic()))
        folder, name = str(self.file.parent), self._suite.name
        arguments = [a.replace("FOLDER", folder).replace("NAME", name) for a in part.arguments]
        command = [sys.executable, *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, timeout=limit
            )
            lines, failed = done.stdout.splitlines() or [""], done.returncode != 0
        except subprocess.TimeoutExpired:
            lines, failed = [f"not done in {limit:.0f} s"], True
        log.write("\n".join([*lines, ""]).encode())
        self._result["told"][part.name] = lines[-1]
        print(f"{part.name}: {lines[-1]}", flush=True)
        if failed:
            self.failures.append(f"{part.name}: {lines[-1]}")

    def _probe(self) -> Prober | None:
        if self._suite.probe is None:
            return None
        try:
            return self._suite.probe(self._suite.threads)
        except CompileError as error:
            print(f"the machine is not probed, so no per cent of the limit: {error}")
            return None

    def _header(self, commit: str | None) -> Result:
        suite = self._suite
        return {
            "suite": suite.name,
            **({"note": suite.note} if suite.note else {}),
            "date": datetime.date.today().isoformat(),
            **({"commit": commit, "dirty": None} if commit else machine.commit()),
            "machine": machine.describe(suite.device),
            "versions": {"python": platform.python_version()},
            "ops": suite.ops,
            "rounds": suite.rounds,
            "budget": suite.budget,
            "threads": suite.threads,
            "limit": suite.answer,
            "yardstick": suite.yardstick,
            "device": suite.device,
            "settle": suite.settle,
            "told": {},
            "cases": {},
        }

    def _continue(self, old: Result) -> None:
        """Take over the cases of the result that is there."""
        for key in ("commit", "dirty", "machine"):
            if old.get(key) != self._result[key]:
                raise ValueError(
                    f"--resume: the result is of {key} {old.get(key)}, not {self._result[key]}"
                )
        told = {name: text for name, text in old["told"].items() if name != _NO_TIME}
        self._result |= {"versions": old["versions"], "told": told, "cases": old["cases"]}


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
