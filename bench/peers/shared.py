"""What peers in torch share: a task as tensors, and a network beside one that is not trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bench.cases import FIRST, GENERATED, Task


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


class Networks:
    """A peer that is a network with the book's interface: `params`, `begin_state` and a call.

    A subclass has `train`, which changes `_net`; nothing changes `_fixed`.
    """

    def __init__(self, task: Task, device: str, make: Callable[[], Any]) -> None:
        self._device, self._batches = device, batches_of(task, device)
        self._net, self._fixed = make(), make()

    def params(self) -> list[Tensor]:
        return list(self._net.params)

    def reset(self) -> None:
        copy(self._fixed.params, self._net.params)

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        logits, _ = self._fixed(X, self._fixed.begin_state(len(X), self._device))
        return torch.nn.functional.cross_entropy(logits, Y.T.reshape(-1)).item()

    def generate(self) -> list[int]:
        """As textbook.predict, and with gradients on, as the notebook runs it."""
        ids, state = [FIRST], self._fixed.begin_state(1, self._device)
        for _ in range(GENERATED):
            logits, state = self._fixed(torch.tensor([[ids[-1]]], device=self._device), state)
            ids.append(int(logits.argmax(dim=1)))
        return ids[1:]
