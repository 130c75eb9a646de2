"""torch.compile of the textbook's loop as it is, and with two products moved out of the loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Task
from bench.peers.shared import Networks, params_of
from rnnfast.book import textbook

VERSIONS = {"torch": torch.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> Compiled:
    torch.set_num_threads(threads)
    return Compiled(task, {"scratch": textbook.Model, "hoisted": Hoisted}[variant])


class Hoisted(textbook.Model):
    """Gather for all steps before the loop, readout for all steps after it."""

    def __call__(self, X: Tensor, state: textbook.State) -> tuple[Tensor, textbook.State]:
        W_xh, W_hh, b_h, W_hq, b_q = self.params
        (h,), hs = state, []
        for u in (nn.functional.embedding(X.T, W_xh) + b_h).unbind(0):
            h = torch.tanh(torch.addmm(u, h, W_hh))
            hs.append(h)
        return torch.addmm(b_q, torch.cat(hs, 0), W_hq), (h,)


class Compiled(Networks):
    """The loss, the update (clipping and SGD in one) and the generation step are each compiled."""

    def __init__(self, task: Task, model: type[textbook.Model]) -> None:
        super().__init__(task, "cpu", lambda: model(params_of(task, grad=True)))

        def loss(
            X: Tensor, Y: Tensor, h: Tensor, params: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            logits, (h,) = model(params)(X, (h,))
            return nn.functional.cross_entropy(logits, Y.T.reshape(-1)), h

        def pick(id_: Tensor, h: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            logits, (h,) = model(params)(id_, (h,))
            return logits.argmax(1).reshape(1, 1), h

        self._loss = torch.compile(loss, dynamic=False)
        self._pick = torch.compile(pick, dynamic=False)
        self._update = torch.compile(_clip_and_sgd, dynamic=False)

    def train(self, steps: int) -> float:
        (h,), losses = self._net.begin_state(len(self._batches[0][0])), []
        for X, Y in self._batches[:steps]:
            loss, h = self._loss(X, Y, h.detach(), self._net.params)
            for p in self._net.params:
                p.grad = None
            loss.backward()
            self._update(self._net.params)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        (h,) = self._fixed.begin_state(len(X))
        loss, _ = self._loss(X, Y, h, self._fixed.params)
        return float(loss)

    @torch.no_grad()
    def generate(self) -> list[int]:
        id_, (h,), ids = torch.tensor([[FIRST]]), self._fixed.begin_state(1), []
        for _ in range(GENERATED):
            id_, h = self._pick(id_, h, self._fixed.params)
            ids.append(int(id_))
        return ids


@torch.no_grad()
def _clip_and_sgd(params: Sequence[Tensor]) -> None:
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([torch.sum(g * g) for g in grads]).sum().sqrt()
    scale = LEARNING_RATE * torch.clamp(CLIP / norm, max=1.0)
    for p, g in zip(params, grads, strict=True):
        p -= scale * g
