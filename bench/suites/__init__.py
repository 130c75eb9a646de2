"""The suites, one file each: which peers, on which cases, against which limit of the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.cases import Case
from bench.probe import Reading


@dataclass(frozen=True)
class Entry:
    """A row of a suite's table: a peer, and how to start its worker.

    python: the interpreter of its own environment, where that is not ours.
    install: the package that a machine without this peer lacks.
    skip: names of cases that it is not asked to do.
    checkout: a folder to take rnnfast from, instead of this checkout.
    """

    name: str
    module: str
    variant: str = ""
    ours: bool = False
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    install: str = ""
    skip: tuple[str, ...] = ()
    checkout: str = ""

    def command(self, threads: int) -> list[str]:
        worker = [self.python, "-m", "bench.worker", self.module, self.variant, str(threads)]
        return [*worker, self.checkout] if self.checkout else worker


@dataclass(frozen=True)
class Suite:
    """limit: the fewest seconds that the machine, as probed, could take for one call of an op.

    extras: a module of bench that prints, as JSON, what fits no case: run once, in a process.
    """

    name: str
    cases: dict[str, Case]
    entries: tuple[Entry, ...]
    probe: Callable[[int], Callable[[Case], Reading]]
    limit: Callable[[Case, str, Reading], float]

    # The plain loop that every ratio refers to, and whose error bounds everybody's.
    yardstick: str = "scratch"
    extras: str = ""
