"""The suites, one file each: which peers, on which cases, against which limit of the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from bench.cases import AnyCase
from bench.harness.probe import Reading

Prober = Callable[[AnyCase], Reading]


@dataclass(frozen=True)
class Entry:
    """A row of a suite's table: a peer, and how to start its worker.

    ours: it is rnnfast, and the run fails where it fails.
    tolerance: relative error that is allowed to it, because it multiplies in fewer digits; ours
        with one is a row of its own, and not the one that others are compared with.
    python: the interpreter of its own environment, where that is not ours.
    install: the package that a machine without this peer lacks.
    skip: patterns of names of cases that it is not asked to do.
    ops: the operations it is asked for, where those are not all that it has.
    checkout: a folder to take rnnfast from, instead of this checkout.
    """

    name: str
    module: str
    variant: str = ""
    ours: bool = False
    tolerance: float = 0.0
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    install: str = ""
    skip: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    checkout: str = ""

    def command(self, threads: int, device: str) -> list[str]:
        worker = [self.python, "-m", "bench.harness.worker", self.module, self.variant]
        return [*worker, str(threads), device, *([self.checkout] if self.checkout else [])]

    def skips(self, case: str) -> bool:
        return any(fnmatchcase(case, pattern) for pattern in self.skip)


@dataclass(frozen=True)
class Suite:
    """One table of the benchmark.

    yardstick: the plain peer that ratios refer to, and whose error bounds everybody's.
    probe: makes what reads the machine's own speed for a case; None where nothing can.
    limit: the fewest seconds that the machine, as probed, could take for one call of an op.
    rounds, budget: how many turns each peer has at an operation, and seconds of each.
    settle: seconds before a turn, in which thread pools of other processes stop spinning.
    fresh: whether every case gets new processes, so that it finds none of another's memory.
    answer: seconds that a worker may take for one answer.
    seconds: of a whole run; cases that come too late are left out. 0: as long as it takes.
    reserve: of these, for what comes after the cases.
    """

    name: str
    cases: dict[str, AnyCase]
    entries: tuple[Entry, ...]
    yardstick: str
    device: str = "cpu"
    probe: Callable[[int], Prober] | None = None
    limit: Callable[[AnyCase, str, Reading], float] | None = None
    rounds: int = 7
    budget: float = 0.3
    settle: float = 0.0
    fresh: bool = False
    answer: float = 600.0
    seconds: float = 0.0
    reserve: float = 0.0
