"""The device that captures and replays a graph: in which order it asks torch.cuda for streams.

There is no GPU here: what it calls of torch.cuda is written down.
"""

import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch

from rnnfast.training import cuda_graph


class _TorchCuda:
    """What `cuda_graph.Device` calls of torch.cuda, written down; a stream is its name."""

    def __init__(self, monkeypatch) -> None:
        self.log, self._current = [], "main"
        for name in ("Stream", "CUDAGraph", "Event", "current_stream", "stream", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())

    def named(self, name):
        stream = SimpleNamespace(name=name)
        stream.wait_stream = lambda other: self.log.append(f"{name} waits for {other.name}")
        return stream

    def Stream(self, device):  # noqa: N802
        return self.named("side")

    def current_stream(self, device=None):
        return self.named(self._current)

    def CUDAGraph(self):  # noqa: N802
        replay = functools.partial(self.log.append, "replay")
        return SimpleNamespace(replay=replay, pool=lambda: "the pool")

    def Event(self):  # noqa: N802
        return SimpleNamespace(record=lambda stream: self.log.append(f"event on {stream.name}"))

    def set_stream(self, stream):
        self._current = stream.name

    @contextlib.contextmanager
    def stream(self, stream):
        before, self._current = self._current, stream.name
        yield
        self._current = before

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.log.append(f"capture on {stream.name} into {pool}, {capture_error_mode}")
        self._current = stream.name  # and torch leaves it so where the work raises
        yield
        self._current = "main"

    def work(self):
        self.log.append(f"work on {self._current}")


def test_the_real_device_orders_streams_and_captures(monkeypatch):
    torch_cuda = _TorchCuda(monkeypatch)
    device = cuda_graph.Device(torch.device("cuda:0"))
    with device.aside():
        torch_cuda.work()
    assert torch_cuda.log == ["side waits for main", "work on side", "main waits for side"]
    torch_cuda.log.clear()
    device.mark()
    for _ in range(2):
        device.capture(torch_cuda.work)()
    captures = [f"capture on side into {pool}, thread_local" for pool in (None, "the pool")]
    assert torch_cuda.log == ["event on main"] + [
        each for line in captures for each in (line, "work on side", "replay")
    ]


def test_a_capture_that_fails_leaves_the_current_stream(monkeypatch):
    torch_cuda = _TorchCuda(monkeypatch)
    device = cuda_graph.Device(torch.device("cuda:0"))

    def failing():
        raise RuntimeError("not permitted while capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        device.capture(failing)
    torch_cuda.work()
    assert torch_cuda.log[-1] == "work on main"
    with pytest.raises(RuntimeError, match="not permitted"), device.aside():
        failing()
    assert torch_cuda.log[-1] == "main waits for side"
