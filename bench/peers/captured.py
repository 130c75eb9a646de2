"""What peers on a GPU share: tensors that stay where they are, and calls as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.cases import Task
from bench.peers.shared import batches_of, copy


class Captured:
    """A peer whose operations are made, and captured where `graph` is set, at their first call.

    A subclass has `_states`, `_gradients`, `_step` (of training, on `_X` and `_Y`; `_h`, the
    parameters and `_loss`, a sum, change in place) and `_clip` (of the gradients of `_leaves`).

    leaves: the task's parameters; trained: those that training changes.
    """

    def __init__(
        self,
        task: Task,
        device: str,
        graph: bool,
        leaves: Sequence[Tensor],
        trained: Sequence[Tensor],
    ) -> None:
        self._task, self._device, self._graph = task, device, graph
        self._leaves, self._trained = list(leaves), list(trained)
        self._batches = batches_of(task, device)
        X, Y = self._batches[0]
        H = len(task.params[1])
        self._X, self._Y = X.clone(), Y.clone()
        self._h = torch.zeros(len(X), H, device=device)
        self._loss = torch.zeros((), device=device)
        self._calls: dict[str, Callable[[], Any]] = {}

    def states(self) -> Tensor:
        hs: Tensor = self._call("_states")()
        return hs

    def gradients(self) -> tuple[Tensor, ...]:
        if "_gradients" not in self._calls:
            self._grad_hs = torch.from_numpy(self._task.grad_hs).to(self._device)
        found: tuple[Tensor, ...] = self._call("_gradients")()
        return found

    def clip(self) -> tuple[Tensor, ...]:
        if "_clip" not in self._calls:
            for leaf in self._leaves:
                leaf.grad = leaf.detach().clone()
        found: tuple[Tensor, ...] = self._call("_clip")()
        return found

    def train(self, steps: int) -> float:
        step = self._call("_step")
        self._h.zero_()
        self._loss.zero_()
        for X, Y in self._batches[:steps]:
            self._X.copy_(X)
            self._Y.copy_(Y)
            step()
        return self._loss.item() / steps

    def params(self) -> list[Tensor]:
        return self._trained

    def reset(self) -> None:
        copy(self._leaves, self._trained)

    def _call(self, name: str) -> Callable[[], Any]:
        if name not in self._calls:
            method = getattr(self, name)
            self._calls[name] = graphed(method, self._device) if self._graph else method
            self.reset()  # capturing has trained, ...
            grads = [leaf.grad for leaf in self._leaves if leaf.grad is not None]
            copy(self._leaves[: len(grads)], grads)  # ... or clipped
        return self._calls[name]


def graphed(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call as a CUDA graph, its results overwritten by each replay; at a rehearsal, itself."""
    if device == "cpu":
        return call
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay
