"""A stand-in for `cuda_graph.Device` on CPU tensors: work is queued, captured, replayed as there.

Nothing that goes through it is done before somebody has to wait for it, so that a buffer that is
written too early spoils the result. A capture executes nothing; a replay repeats the operations on
the memory that they had, whatever has become of the tensors since. Torch operations outside stand
behind the queue, as they would on the same stream: `ordered` sees to that. What is no operation of
torch's cannot be captured: a kernel under Triton's interpreter, for one.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from rnnfast.training import graphs


@contextmanager
def pretended():
    """CPU tensors train as if they were on a GPU; gives the fake devices, one for each net."""
    before = graphs.Device, graphs.exist_for
    graphs.Device, graphs.exist_for = FakeCuda, lambda tensor: True
    FakeCuda.made = []
    try:
        with ordered():
            yield FakeCuda.made
    finally:
        graphs.Device, graphs.exist_for = before


_VIEWS = {"aten::detach", "aten::detach_", "aten::alias"}


class FakeCuda:
    """`log` has the order of the work, `failing` the exception that ends every capture."""

    made: list[FakeCuda]

    def __init__(self, device) -> None:
        self.log: list[str] = []
        self.failing: Exception | None = None
        self.resident: set[int] = set()  # ids of tensors that count as the device's
        self._queue: deque = deque()
        self._busy = False
        self.made.append(self)

    def staging(self, *shape):
        return torch.empty(shape, dtype=torch.int64)

    def copy(self, target, source):
        self._do(f"copy {tuple(target.shape)}", lambda: target.copy_(source))

    def mark(self):
        return _Mark(self)

    @contextmanager
    def aside(self):
        self.log.append("fork")
        self.drain()
        yield
        self.log.append("join")

    def capture(self, work):
        self.drain()
        self.log.append("capture")
        recorder = _Recorder()
        with recorder:
            work()
        recorder.undo()
        if self.failing:
            raise self.failing
        return lambda: self._do("replay", recorder.replay)

    def owns(self, tensor):
        return id(tensor) in self.resident

    def read(self, value):
        self.log.append("read")
        self.drain()
        return value.item()

    def drain(self, until=None):
        """Do what is queued, up to and with a mark."""
        if self._busy:  # an operation of the queue itself
            return
        self._busy = True
        work = None
        while self._queue and (work is None or work is not until):
            work = self._queue.popleft()
            if not isinstance(work, _Mark):
                work()
        self._busy = False

    def _do(self, name, work):
        self.log.append(name)
        self._queue.append(work)


class _Mark:
    def __init__(self, device) -> None:
        self._device = device
        device._queue.append(self)

    def synchronize(self):
        self._device.log.append("wait")
        if self in self._device._queue:
            self._device.drain(until=self)


class ordered(TorchDispatchMode):  # noqa: N801
    """Every operation on floating point tensors waits for what the fake devices have queued."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func.name() not in _VIEWS and any(t.is_floating_point() for t in tensors):
            for device in FakeCuda.made:
                device.drain()
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list = []
        self._before: dict[int, tuple] = {}  # by address: a tensor and what it held
        self._made: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # an alias keeps the memory, even if the tensor is given another one later
        args, kwargs = tree_map_only(torch.Tensor, lambda t: t.detach(), (args, kwargs or {}))
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in self._made:
                self._before.setdefault(tensor.data_ptr(), (tensor, tensor.clone()))
        out = func(*args, **kwargs)
        outs = [t.detach() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self._made.update(t.data_ptr() for t in outs if t.data_ptr() not in self._before)
        self._calls.append((func, args, kwargs, outs))
        return out

    def undo(self):
        for tensor, value in self._before.values():
            tensor.copy_(value)

    def replay(self):
        for func, args, kwargs, outs in self._calls:
            new = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, torch.Tensor)]
            for out, value in zip(outs, new, strict=True):
                if out.data_ptr() != value.data_ptr():
                    out.copy_(value)
