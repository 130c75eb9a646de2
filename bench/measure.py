"""Workers of one case: started, admitted if they agree with float64, then timed in turns."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from tqdm import tqdm

from bench.agree import DisagreementError, Judge
from bench.cases import Case
from bench.probe import Reading
from bench.protocol import NotInstalledError, Worker, WorkerError
from bench.suites import Entry

# Thread pools of other libraries spin for a while after their last call; wait that out.
_SETTLE = 0.05


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
    """Of one peer and operation: the median call of every round, and the machine at that moment."""

    seconds: list[float] = field(default_factory=list)
    readings: list[Reading | None] = field(default_factory=list)


Timed = dict[tuple[str, str], Samples]  # by operation and name of the peer


class Bench:
    """The workers of one case, as a context manager."""

    def __init__(self, case: Case, plan: Plan, log: IO[bytes]) -> None:
        self.case, self.plan, self._log = case, plan, log
        self.runners: dict[str, Runner] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> Bench:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def admit(self, entries: Sequence[Entry], yardstick: str) -> None:
        """Start every peer and hold its first results against float64, the yardstick's before all.

        Who is not installed, fails, takes too long or disagrees is told in one line and left out.
        """
        judge = Judge(self.case, self._folder / "params.npz")
        ordered = sorted(entries, key=lambda entry: entry.name != yardstick)
        with tqdm(ordered, desc=self.case.name, unit="peer", leave=False) as bar:
            for entry in bar:
                bar.set_postfix_str(entry.name)
                self._admit(judge, entry, entry.name == yardstick)
                if yardstick not in self.runners:
                    raise YardstickError(f"{yardstick}, which all are compared with, did not run")

    def _admit(self, judge: Judge, entry: Entry, yardstick: bool) -> None:
        if self.case.name in entry.skip:
            return self._leave_out(entry.name, "not asked to do this case")
        try:
            runner = self._start(entry)
            check = partial(runner.worker.ask, "check")
            for op in runner.ops:
                runner.errors[op], runner.first_call[op] = judge.admit(check, op, yardstick)
            self.runners[entry.name] = runner
        except NotInstalledError as error:
            hint = f"; to have it: {entry.install}" if entry.install else ""
            self._leave_out(entry.name, f"not installed ({error}){hint}")
        except (WorkerError, DisagreementError) as error:
            self._leave_out(entry.name, str(error))

    def time(self, ops: Sequence[str], probe: Callable[[Case], Reading] | None) -> Timed:
        """Rounds in which every peer has its turn at every operation, with a probe before each."""
        timed: Timed = {}
        with tqdm(range(self.plan.rounds), desc=self.case.name, unit="round", leave=False) as bar:
            for _ in bar:
                for op in ops:
                    for name in [n for n, runner in self.runners.items() if op in runner.ops]:
                        self._turn(name, op, probe, timed.setdefault((op, name), Samples()))
        return {key: samples for key, samples in timed.items() if key[1] in self.runners}

    def _turn(
        self, name: str, op: str, probe: Callable[[Case], Reading] | None, samples: Samples
    ) -> None:
        time.sleep(_SETTLE)
        reading = probe(self.case) if probe else None
        try:
            answer = self.runners[name].worker.ask("time", op=op, budget=self.plan.budget)
        except WorkerError as error:
            del self.runners[name]
            self._leave_out(name, f"{op}: {error}")
            return
        samples.seconds.append(float(np.median(answer["seconds"])))
        samples.readings.append(reading)

    def _start(self, entry: Entry) -> Runner:
        try:
            worker = Worker(
                entry.command(self.plan.threads),
                {"OMP_NUM_THREADS": str(self.plan.threads), **entry.environment},
                self.plan.limit,
                self._log,
            )
        except OSError as error:
            raise NotInstalledError(f"{entry.python}: {error.strerror}") from error
        self._stack.enter_context(worker)
        answer = worker.ask("setup", case=dataclasses.asdict(self.case))
        ops = [op for op in self.plan.ops if op in answer["ops"]]
        return Runner(entry, worker, ops, answer["versions"])

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        tqdm.write(f"  {self.case.name}: {name} left out: {reason}")


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
