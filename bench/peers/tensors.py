"""A problem as torch tensors on a device, and calls as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.cases import Problem

Result = TypeVar("Result")


def params_of(problem: Problem, grad: bool, device: str = "cpu") -> list[Tensor]:
    """The problem's parameters as fresh leaves."""
    return [torch.tensor(p, device=device, requires_grad=grad) for p in problem.params]


def batches_of(problem: Problem, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """The minibatches (X, Y) [B,T], strided on the CPU as the book's loader gives them."""
    return [
        (torch.from_numpy(X).to(device), torch.from_numpy(Y).to(device)) for X, Y in problem.batches
    ]


@torch.no_grad()
def copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Overwrite tensors in place."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def graphed(call: Callable[[], Result], device: str) -> Callable[[], Result]:
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
