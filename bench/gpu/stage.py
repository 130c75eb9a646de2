"""What a stage is given: where to work, how long, a clock, and where its rows go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.gpu.clock import Call, EventClock
from bench.gpu.rehearsal import DryClock
from rnnfast import dispatch

Item = TypeVar("Item")


class Stage:
    """A stage at work.

    dry: a rehearsal on the CPU: tiny shapes, other backends in the place of the GPU's, and times
    that say nothing.
    """

    def __init__(self, name: str, rows: Path, budget: float, start: int, dry: bool) -> None:
        self.name, self.dry = name, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.clock = DryClock() if dry else EventClock()
        self._rows = rows.open("a")
        self._end, self._start = time.monotonic() + budget, start

    def emit(self, **row: Any) -> None:
        """Write a row; what is written is kept, even if the process is ended a moment later."""
        self._rows.write(json.dumps({"stage": self.name, **row}) + "\n")
        self._rows.flush()

    def items(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items behind the one that ended the process before, for as long as there is time."""
        for index, item in enumerate(items):
            if index < self._start:
                continue
            if time.monotonic() > self._end:
                self.emit(note=f"time is up: {len(items) - index} of {len(items)} items left out")
                return
            self.emit(at=index, item=str(item))
            yield item

    def graphed(self, calls: dict[str, Call]) -> dict[str, Call]:
        """The calls as CUDA graphs, "+graph" behind their names; one that cannot be is told."""
        found = {}
        for name, call in calls.items():
            try:
                found[f"{name}+graph"] = self.clock.graphed(call)
            except RuntimeError as error:
                self.emit(kind="failed", peer=f"{name}+graph", why=str(error)[:300])
        return found

    def backends(self) -> list[str]:
        """Our backends that run here, the preferred one first; at a rehearsal the CPU's, too.

        (The cuda backend is among them at a rehearsal where its driver is emulated.)
        """
        reasons = dispatch.explain(device=self.device).reasons
        names = [name for name in ("cuda", "triton") if not reasons[name]]
        return names or ["native"] * self.dry
