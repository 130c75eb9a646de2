"""torch.compile of the textbook's loop as it is, and with two products moved out of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Task
from bench.peers.shared import batches_of, copy, params_of
from rnnfast.book import textbook

Forward = Callable[[Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]

VERSIONS = {"torch": torch.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> Compiled:
    torch.set_num_threads(threads)
    return Compiled(task, {"scratch": _scratch, "hoisted": _hoisted}[variant])


def _scratch(X: Tensor, h: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    logits, (h,) = textbook.Model(params)(X, (h,))
    return logits, h


def _hoisted(X: Tensor, h: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Gather for all steps before the loop, readout for all steps after it."""
    W_xh, W_hh, b_h, W_hq, b_q = params
    hs = []
    for u in (nn.functional.embedding(X.T, W_xh) + b_h).unbind(0):
        h = torch.tanh(torch.addmm(u, h, W_hh))
        hs.append(h)
    return torch.addmm(b_q, torch.cat(hs, 0), W_hq), h


class Compiled:
    """The loss, the update (clipping and SGD in one) and the generation step are each compiled."""

    def __init__(self, task: Task, forward: Forward) -> None:
        self._batches = batches_of(task)
        self._trained, self._fixed = params_of(task, grad=True), params_of(task, grad=False)

        def loss(
            X: Tensor, Y: Tensor, h: Tensor, params: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            logits, h = forward(X, h, params)
            return nn.functional.cross_entropy(logits, Y.T.reshape(-1)), h

        def pick(id_: Tensor, h: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            logits, h = forward(id_, h, params)
            return logits.argmax(1).reshape(1, 1), h

        self._loss = torch.compile(loss, dynamic=False)
        self._pick = torch.compile(pick, dynamic=False)
        self._update = torch.compile(_clip_and_sgd, dynamic=False)

    def train(self, steps: int) -> float:
        h, losses = self._zeros(len(self._batches[0][0])), []
        for X, Y in self._batches[:steps]:
            loss, h = self._loss(X, Y, h.detach(), self._trained)
            for p in self._trained:
                p.grad = None
            loss.backward()
            self._update(self._trained)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def params(self) -> list[Tensor]:
        return self._trained

    def reset(self) -> None:
        copy(self._fixed, self._trained)

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        loss, _ = self._loss(X, Y, self._zeros(len(X)), self._fixed)
        return float(loss)

    @torch.no_grad()
    def generate(self) -> list[int]:
        id_, h, ids = torch.tensor([[FIRST]]), self._zeros(1), []
        for _ in range(GENERATED):
            id_, h = self._pick(id_, h, self._fixed)
            ids.append(int(id_))
        return ids

    def _zeros(self, batch: int) -> Tensor:
        return torch.zeros(batch, len(self._trained[1]))


@torch.no_grad()
def _clip_and_sgd(params: Sequence[Tensor]) -> None:
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([torch.sum(g * g) for g in grads]).sum().sqrt()
    scale = LEARNING_RATE * torch.clamp(CLIP / norm, max=1.0)
    for p, g in zip(params, grads, strict=True):
        p -= scale * g
