"""Workers of a suite: started, admitted if they agree with float64, then timed in turns."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from tqdm import tqdm

from bench.cases import AnyCase
from bench.harness.agree import DisagreementError, Judge
from bench.harness.probe import Reading
from bench.harness.protocol import NotInstalledError, Worker, WorkerError
from bench.suites import Entry, Prober, Suite


class YardstickError(Exception):
    """Without the plain loop there is nothing to compare with."""


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


Timed = dict[str, dict[str, Samples]]  # by operation, then by name of the peer


class Workers:
    """The processes of the peers, as a context manager."""

    def __init__(self, suite: Suite, log: IO[bytes]) -> None:
        self._suite, self._log = suite, log
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
            threads = str(self._suite.threads)
            command = [entry.python, "-m", "bench.harness.worker", entry.module, entry.variant]
            command += [threads, self._suite.device, entry.checkout]
            environment = {"OMP_NUM_THREADS": threads, **entry.environment}
            try:
                worker = Worker(command, environment, self._suite.answer, self._log)
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
    """One case of a suite: who is admitted, and how long everyone takes."""

    def __init__(self, case: AnyCase, suite: Suite, workers: Workers) -> None:
        self.case, self.suite, self._workers = case, suite, workers
        self.runners: dict[str, Runner] = {}
        self.left_out: dict[str, str] = {}
        self.failures: list[str] = []  # of ours, which is an error

    def admit(self) -> None:
        """Hold everyone's first results against float64, the yardstick's before all.

        Who is not installed, fails, takes too long or disagrees is told in one line and left out.
        On a GPU all the others do so at the same time, since most of it is the host's work.
        """
        entries, yardstick = self.suite.entries, self.suite.yardstick
        first = next(entry for entry in entries if entry.name == yardstick)
        others = [entry for entry in entries if entry.name != yardstick]
        for entry in entries:  # Importing takes longest: all do it at the same time.
            if not entry.skips(self.case):
                with suppress(NotInstalledError):  # _admit meets and tells it
                    self._workers.start(entry)
        self._admit(judge := Judge(self.case), first)
        if yardstick not in self.runners:
            reason = self.left_out[yardstick]
            raise YardstickError(f"{yardstick}, which all are compared with, did not run: {reason}")
        at_once = 1 if self.suite.device == "cpu" else len(others) or 1
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(partial(self._admit, judge), others))
        order = [entry.name for entry in entries]
        self.runners = {name: self.runners[name] for name in order if name in self.runners}

    def time(self, probe: Prober | None = None) -> Timed:
        """Rounds in which every peer has its turn at every operation, with a probe before each."""
        timed: Timed = {op: {} for op in self.case.ops}
        with tqdm(range(self.suite.rounds), desc=self.case.name, unit="round", leave=False) as bar:
            for _ in bar:
                for op in self.case.ops:
                    for name in [n for n, runner in self.runners.items() if op in runner.ops]:
                        time.sleep(self.suite.settle)
                        reading = probe(self.case) if probe else None
                        self._turn(name, op, reading, timed[op].setdefault(name, Samples()))
        return {
            op: {name: each for name, each in samples.items() if name in self.runners}
            for op, samples in timed.items()
        }

    def _admit(self, judge: Judge, entry: Entry) -> None:
        if entry.skips(self.case):
            return self._leave_out(entry, "not asked to do this case")
        try:
            runner = self._set_up(entry)
            for op in runner.ops:
                answer = runner.worker.ask("check", op=op)
                yardstick = entry.name == self.suite.yardstick
                runner.errors[op] = judge.errors(op, answer["results"], entry.tolerance, yardstick)
                runner.first_call[op] = answer["seconds"]
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
        answer = worker.ask("setup", case=self.case)
        ops = [op for op in answer["ops"] if not entry.ops or op in entry.ops]
        return Runner(entry, worker, ops, answer["versions"])

    def _turn(self, name: str, op: str, reading: Reading | None, samples: Samples) -> None:
        runner = self.runners[name]
        try:
            answer = runner.worker.ask("time", op=op, budget=self.suite.budget)
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
