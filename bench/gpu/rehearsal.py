"""What stands in for the GPU at a rehearsal: events with the CPU's time, graphs of CPU work."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

from bench.gpu.clock import Call, Event, EventClock
from bench.protocol import ROOT

sys.path.append(str(ROOT / "tests"))
from support.fake_cuda import pretended


class CpuEvent:
    """Like torch.cuda.Event."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: CpuEvent) -> float:
        return (end.at - self.at) * 1e3


class DryClock(EventClock):
    """Everything is called, twice; the times are the CPU's and say nothing."""

    def race(self, calls: dict[str, Call], rounds: int, turn: float) -> dict[str, list[float]]:
        return super().race(calls, rounds=2, turn=0.0)

    def graphed(self, call: Call) -> Call:
        call()
        return call

    def launches(self, call: Call) -> int | None:
        call()
        return None

    def _event(self) -> Event:
        return CpuEvent()


def emulate_kernels() -> None:
    """CPU tensors go to the cuda backend from now on, whose kernels run under the emulator."""
    from support.emulator import cuda

    cuda.start()


def graphs_of_cpu_work() -> AbstractContextManager[object]:
    """rnnfast trains by its graphs inside, on the stand-in that its tests use."""
    return pretended()
