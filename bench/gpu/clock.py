"""How long a call takes: rounds in which every call has its turn, timed by the device's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

Call = Callable[[], object]
_FEWEST, _MOST = 1, 2000  # calls in a turn


class Event(Protocol):
    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float: ...


class EventClock:
    """By CUDA events around many calls in a row: what the host needs counts where it is slower."""

    def race(self, calls: dict[str, Call], rounds: int, turn: float) -> dict[str, list[float]]:
        """Seconds per call of each, once per round; a turn lasts about `turn` seconds."""
        counts = {name: self._count(call, turn) for name, call in calls.items()}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(self._turn(call, counts[name]))
        return seconds

    def graphed(self, call: Call) -> Call:
        """The call as a CUDA graph."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                call()
        finally:
            torch.cuda.set_stream(current)  # torch leaves the other one where capturing fails
        replay: Call = graph.replay
        return replay

    def launches(self, call: Call) -> int | None:
        """Kernels and copies that one call puts on the device; None where nobody can tell."""
        call()
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            call()
            torch.cuda.synchronize()
        on_device = torch.autograd.DeviceType.CUDA
        return sum(event.device_type == on_device for event in profile.events()) or None

    def _count(self, call: Call, turn: float) -> int:
        self._turn(call, 2)  # what the first calls compile and allocate does not count
        if turn == 0:
            return _FEWEST
        return max(_FEWEST, min(_MOST, round(turn / max(self._turn(call, 2), 1e-7))))

    def _turn(self, call: Call, count: int) -> float:
        before, after = self._event(), self._event()
        before.record()
        for _ in range(count):
            call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / count

    def _event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)
