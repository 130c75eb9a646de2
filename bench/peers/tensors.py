"""A task as torch tensors on a device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench.cases import Task


def params_of(task: Task, grad: bool, device: str = "cpu") -> list[Tensor]:
    """The task's parameters as fresh leaves."""
    return [torch.tensor(p, device=device, requires_grad=grad) for p in task.params]


def batches_of(task: Task, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """The minibatches (X, Y) [B,T], strided on the CPU as the book's loader gives them."""
    return [
        (torch.from_numpy(X).to(device), torch.from_numpy(Y).to(device)) for X, Y in task.batches
    ]


@torch.no_grad()
def copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Overwrite tensors in place."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
