"""Workers of a suite: started, admitted if they agree with float64, then timed in turns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bench.cases import AnyCase, to_message
from bench.harness.agree import DisagreementError, Judge
from bench.harness.probe import Reading
from bench.harness.protocol import NotInstalledError, Worker, WorkerError
from bench.suites import Entry, Prober


class YardstickError(Exception):
    """Without the plain loop there is nothing to compare with."""


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    ops: tuple[str, ...]
    rounds: int
    budget: float  # seconds of timed calls per peer, operation and round
    threads: int
    limit: float  # seconds that a worker may take for one answer
    device: str = "cpu"
    settle: float = 0.0


@dataclass
class Runner:
    """One peer at work on one case."""

    entry: Entry
    worker: Worker
    ops: list[str]
    versions: dict[str, str]
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    first_call: dict[str, float] = field(default_factory=dict)


@dataclass
class Samples:
    """Of one peer and operation: the call of every round, and the machine at that moment."""

    seconds: list[float] = field(default_factory=list)
    readings: list[Reading | None] = field(default_factory=list)


Timed = dict[tuple[str, str], Samples]  # by operation and name of the peer


class Workers:
    """The processes of the peers, as a context manager."""

    def __init__(self, plan: Plan, log: IO[bytes]) -> None:
        self._plan, self._log = plan, log
        self._running: dict[str, Worker] = {}
        self._missing: dict[str, str] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def start(self, entry: Entry) -> Worker:
        """The peer's process, a new one where none runs. Raises NotInstalledError."""
        if entry.name in self._missing:
            raise NotInstalledError(self._missing[entry.name])
        if entry.name not in self._running:
            threads = self._plan.threads
            environment = {"OMP_NUM_THREADS": str(threads), **entry.environment}
            command = entry.command(threads, self._plan.device)
            try:
                worker = Worker(command, environment, self._plan.limit, self._log)
            except OSError as error:
                raise NotInstalledError(f"{entry.python}: {error.strerror}") from error
            self._running[entry.name] = worker
        return self._running[entry.name]

    def stop(self, name: str) -> None:
        """After a failure: nobody knows what state the process is in."""
        if worker := self._running.pop(name, None):
            worker.stop()

    def is_missing(self, name: str, reason: str) -> None:
        """What is not installed need not be tried again."""
        self.stop(name)
        self._missing[name] = reason

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)


class Bench:
    """One case: who is admitted, and how long everyone takes."""

    def __init__(self, case: AnyCase, plan: Plan, workers: Workers) -> None:
        self.case, self.plan, self._workers = case, plan, workers
        self.runners: dict[str, Runner] = {}
        self.left_out: dict[str, str] = {}
        self.failures: list[str] = []  # of ours, which is an error

    def admit(self, entries: Sequence[Entry], yardstick: str) -> None:
        """Hold everyone's first results against float64, the yardstick's before all.

        Who is not installed, fails, takes too long or disagrees is told in one line and left out.
        On a GPU all the others do so at the same time, since most of it is the host's work.
        """
        first = next(entry for entry in entries if entry.name == yardstick)
        others = [entry for entry in entries if entry.name != yardstick]
        for entry in entries:
            self._start(entry)
        with tempfile.TemporaryDirectory() as folder:
            self._admit(judge := Judge(self.case, Path(folder)), first, yardstick=True)
            if yardstick not in self.runners:
                raise YardstickError(
                    f"{yardstick}, which all are compared with, did not run: "
                    f"{self.left_out[yardstick]}"
                )
            at_once = 1 if self.plan.device == "cpu" else len(others) or 1
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(partial(self._admit, judge), others))
        order = [entry.name for entry in entries]
        self.runners = {name: self.runners[name] for name in order if name in self.runners}

    def time(self, ops: Sequence[str], probe: Prober | None) -> Timed:
        """Rounds in which every peer has its turn at every operation, with a probe before each."""
        timed: Timed = {}
        with tqdm(range(self.plan.rounds), desc=self.case.name, unit="round", leave=False) as bar:
            for _ in bar:
                for op in ops:
                    for name in [n for n, runner in self.runners.items() if op in runner.ops]:
                        self._turn(name, op, probe, timed.setdefault((op, name), Samples()))
        return {key: samples for key, samples in timed.items() if key[1] in self.runners}

    def _start(self, entry: Entry) -> None:
        """Importing takes longest: all do it at the same time."""
        if not entry.skips(self.case.name):
            with suppress(NotInstalledError):  # _admit meets and tells it
                self._workers.start(entry)

    def _admit(self, judge: Judge, entry: Entry, yardstick: bool = False) -> None:
        if entry.skips(self.case.name):
            return self._leave_out(entry, "not asked to do this case")
        try:
            runner = self._set_up(entry)
            for op in runner.ops:
                runner.errors[op], runner.first_call[op] = judge.admit(
                    partial(runner.worker.ask, "check"),
                    op,
                    name=entry.name,
                    tolerance=entry.tolerance,
                    yardstick=yardstick,
                )
            self.runners[entry.name] = runner
        except NotInstalledError as error:
            self._workers.is_missing(entry.name, str(error))
            hint = f"; to have it: {entry.install}" if entry.install else ""
            self._leave_out(entry, f"not installed ({error}){hint}", failed=True)
        except (WorkerError, DisagreementError) as error:
            self._workers.stop(entry.name)
            self._leave_out(entry, str(error), failed=True)

    def _set_up(self, entry: Entry) -> Runner:
        worker = self._workers.start(entry)
        answer = worker.ask("setup", case=to_message(self.case))
        asked = entry.ops or self.plan.ops
        ops = [op for op in self.plan.ops if op in answer["ops"] and op in asked]
        return Runner(entry, worker, ops, answer["versions"])

    def _turn(self, name: str, op: str, probe: Prober | None, samples: Samples) -> None:
        time.sleep(self.plan.settle)
        reading = probe(self.case) if probe else None
        runner = self.runners[name]
        try:
            answer = runner.worker.ask("time", op=op, budget=self.plan.budget)
        except WorkerError as error:
            del self.runners[name]
            self._workers.stop(name)
            self._leave_out(runner.entry, f"{op}: {error}", failed=True)
            return
        samples.seconds.append(answer["seconds"])
        samples.readings.append(reading)

    def _leave_out(self, entry: Entry, reason: str, failed: bool = False) -> None:
        self.left_out[entry.name] = reason
        if failed and entry.ours:
            self.failures.append(f"{self.case.name}: {entry.name}: {reason}")
        tqdm.write(f"  {self.case.name}: {entry.name} left out: {reason}")


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """`count` processes that do nothing but spin, beside what is measured."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
