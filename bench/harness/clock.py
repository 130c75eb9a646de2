"""How long a call takes, by the host's clock or by the device's events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], object]


def clock_for(device: str) -> HostClock | DeviceClock:
    """Its seconds(call, prepare, budget) are those of one call, from a turn of about `budget`.

    The first call of a turn does not count. `prepare` is never timed.
    """
    return DeviceClock() if device.startswith("cuda") else HostClock()


class HostClock:
    """The median of single calls, each prepared for."""

    def seconds(self, call: Call, prepare: Call, budget: float) -> float:
        self._one(call, prepare)
        taken: list[float] = []
        while not taken or sum(taken) < budget:
            taken.append(self._one(call, prepare))
        return statistics.median(taken)

    def _one(self, call: Call, prepare: Call) -> float:
        prepare()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class DeviceClock:
    """The mean of many calls in a row, between two events: a host that is slower counts.

    The calls of a turn are prepared for once. event: makes what marks a moment on the device.
    """

    _MOST = 2000  # calls in a turn

    def __init__(self, event: Callable[[], Any] | None = None) -> None:
        self._event = event or _cuda_event
        self._counts: dict[Call, int] = {}

    def seconds(self, call: Call, prepare: Call, budget: float) -> float:
        prepare()
        if call not in self._counts:
            self._turn(call, 2)  # the first calls allocate
            wanted = round(budget / max(self._turn(call, 2), 1e-7))
            self._counts[call] = max(1, min(self._MOST, wanted))
        else:
            call()
        return self._turn(call, self._counts[call])

    def _turn(self, call: Call, count: int) -> float:
        before, after = self._event(), self._event()
        before.record()
        for _ in range(count):
            call()
        after.record()
        after.synchronize()
        seconds: float = before.elapsed_time(after) / 1e3 / count
        return seconds


def _cuda_event() -> Any:
    import torch  # not every worker has it

    return torch.cuda.Event(enable_timing=True)
