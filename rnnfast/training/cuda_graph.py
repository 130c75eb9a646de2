"""Capturing a step: the buffers that stay, the order of the work, and what is needed of CUDA."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SLOTS = 8  # batches that the host may be ahead of the device


class CaptureError(RuntimeError):
    """A step cannot be captured; the message says why."""


class Device:
    """What a graphed step needs of CUDA: every call but `read` returns before its work is done.

    It has pinned memory, events, one side stream, and CUDA graphs that share a pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def staging(self, *shape: int) -> Tensor:
        """An int64 buffer on the host that the device can copy from by itself."""
        return torch.empty(shape, dtype=torch.int64, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy to a tensor of the device, in the order of its work."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> torch.cuda.Event:
        """The point behind all work so far."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work on the stream that is used for capturing, ordered with what is around the block."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` without executing it. Returns what replays it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            try:
                # thread_local: what other threads do meanwhile (a loader that pins memory) spoils
                # nothing. One pool is enough: no two graphs of a net run at once, and nothing in
                # the pool is read after a replay.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    work()
            finally:
                torch.cuda.set_stream(current)  # torch leaves the other one where capturing fails
        self._pool = graph.pool()
        replay: Callable[[], None] = graph.replay
        return replay

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device."""
        return tensor.device == self._device

    def read(self, value: Tensor) -> float:
        """A number, once all work before is done."""
        return value.item()


class Graph:
    """One step on buffers of its own: run once, then captured, then replayed.

    step: of (ids [T, B], targets [T, B], h [B, H]); it may be done any number of times.
    """

    def __init__(
        self, device: Device, like: Tensor, T: int, B: int, H: int, step: Callable[..., None]
    ) -> None:
        self._device, self._step = device, step
        self._batch = like.new_zeros((2, T, B), dtype=torch.int64)
        self.h = like.new_zeros((B, H))
        self._free = deque(device.staging(2, T, B) for _ in range(SLOTS))
        self._busy: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._calls = 0
        self._replay: Callable[[], None] | None = None

    def load(self, X: Tensor, Y: Tensor, V: int) -> bool:
        """Bring a batch, both [B, T], to the buffers; False if an id or a target is not in [0, V).

        A batch on the host is checked there and copied without waiting. A batch on the device has
        to be waited for.
        """
        if self._device.owns(X) or self._device.owns(Y):
            batch = torch.stack((X.T.to(self._batch.device), Y.T.to(self._batch.device)))
            if not _all_below(batch, V):
                return False
            self._device.copy(self._batch, batch)
            return True
        slot = self._slot()
        slot[0].copy_(X.T)
        slot[1].copy_(Y.T)
        if not _all_below(slot, V):
            self._free.append(slot)
            return False
        self._device.copy(self._batch, slot)
        self._busy.append((slot, self._device.mark()))
        return True

    def run(self) -> None:
        """Do the step on the batch that was loaded. Raises CaptureError, having done it."""
        self._calls += 1
        if self._calls == 1:
            with self._device.aside():
                self._once()
            return
        if self._replay is None:
            try:
                self._replay = self._device.capture(self._once)
            except RuntimeError as error:  # the step ran before, so capturing failed
                self._once()
                raise CaptureError(_cause(error)) from error
        self._replay()

    def _once(self) -> None:
        self._step(*self._batch, self.h)

    def _slot(self) -> Tensor:
        """A buffer on the host from which no copy reads any more."""
        if not self._free:
            slot, read = self._busy.popleft()
            read.synchronize()
            self._free.append(slot)
        return self._free.popleft()


def _all_below(ids: Tensor, V: int) -> bool:
    low, high = ids.aminmax()
    return bool(low >= 0 and high < V)


def _cause(error: BaseException) -> str:
    """The first error in the chain: ending a failed capture fails again."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
