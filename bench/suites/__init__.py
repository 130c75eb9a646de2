"""The suites, one file each: which peers, on which cases, against which limit of the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from bench.cases import AnyCase
from bench.harness.machine import processors
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

    def skips(self, case: AnyCase) -> bool:
        return any(fnmatchcase(case.name, pattern) for pattern in self.skip)


@dataclass(frozen=True)
class Part:
    """A program before or after the cases: its arguments to Python, and the seconds it may take.

    FOLDER in an argument stands for the folder of the result, and NAME for the suite's name.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Suite:
    """One table of the benchmark, and how it is measured unless the command line says otherwise.

    yardstick: the plain peer that ratios refer to, and whose error bounds everybody's.
    probe: makes, for a number of threads, what reads the machine's own speed.
    limit: the fewest seconds that the machine, as probed, could take for one call of an op.
    rounds, budget: how many turns each peer has at an operation, and seconds of each.
    settle: seconds before a turn, in which thread pools of other processes stop spinning.
    fresh: whether every case gets new processes, so that it finds none of another's memory.
    answer: seconds that a worker may take for one answer.
    seconds: of a whole run; cases that come too late are left out.
    reserve: of these, for what comes after the cases.
    note: what every result must say of itself.
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
    threads: int = field(default_factory=processors)
    answer: float = 600.0
    seconds: float = float("inf")
    reserve: float = 0.0
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    note: str = ""

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(op for case in self.cases.values() for op in case.ops))

    def only(self, cases: list[str], peers: list[str], ops: list[str]) -> Suite:
        """What patterns choose of it, and always the yardstick. Raises ValueError."""
        names = _matching("peer", peers, [entry.name for entry in self.entries])
        chosen_ops = _matching("operation", ops, list(self.ops))
        chosen: dict[str, AnyCase] = {}
        for name in _matching("case", cases, list(self.cases)):
            case = self.cases[name]
            if shared := tuple(op for op in case.ops if op in chosen_ops):
                chosen[name] = replace(case, ops=shared)
        names.append(self.yardstick)
        entries = tuple(entry for entry in self.entries if entry.name in names)
        return replace(self, cases=chosen, entries=entries)


def _matching(kind: str, patterns: list[str], names: list[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no {kind} is named {pattern}, only {' '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
