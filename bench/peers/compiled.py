"""torch.compile of the textbook's loop as it is, and with two products moved out of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Problem
from bench.peers.scratch import hidden_states
from bench.peers.tensors import batches_of, copy, params_of
from rnnfast.book import textbook

Forward = Callable[[Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]


def make(variant: str, problem: Problem, threads: int, device: str) -> Compiled:
    """variant: "scratch" or "hoisted"; on a GPU "scratch" with graphs of torch's own making."""
    torch.set_num_threads(threads)
    options = {"mode": "reduce-overhead"} if device == "cuda" else {}
    forward = {"scratch": _scratch, "hoisted": _hoisted}[variant]
    return Compiled(problem, forward, device, {"dynamic": False, **options})


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


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

    def __init__(
        self, problem: Problem, forward: Forward, device: str, options: dict[str, Any]
    ) -> None:
        self._problem, self._device, self._options = problem, device, options
        self._batches = batches_of(problem, device)
        self._trained = params_of(problem, grad=True, device=device)
        self._fixed = params_of(problem, grad=False, device=device)

        def loss(
            X: Tensor, Y: Tensor, h: Tensor, params: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            logits, h = forward(X, h, params)
            return nn.functional.cross_entropy(logits, Y.T.reshape(-1)), h

        def pick(id_: Tensor, h: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            logits, h = forward(id_, h, params)
            return logits.argmax(1).reshape(1, 1), h

        self._loss = torch.compile(loss, **options)
        self._pick = torch.compile(pick, **options)
        self._update = torch.compile(_clip_and_sgd, **options)
        self._hidden_states = torch.compile(hidden_states, **options)

    def train(self, steps: int) -> float:
        h, losses = self._zeros(len(self._batches[0][0])), []
        for X, Y in self._batches[:steps]:
            torch.compiler.cudagraph_mark_step_begin()
            loss, new = self._loss(X, Y, h, self._trained)
            grads = torch.autograd.grad(loss, self._trained)
            self._update(self._trained, grads)
            h.copy_(new.detach())  # its memory belongs to the graph
            losses.append(loss.detach().clone())
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
        id_ = torch.tensor([[FIRST]], device=self._device)
        h, ids = self._zeros(1), []
        for _ in range(GENERATED):
            torch.compiler.cudagraph_mark_step_begin()
            id_, h = self._pick(id_.clone(), h.clone(), self._fixed)
            ids.append(int(id_))
        return ids

    @torch.no_grad()
    def states(self) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        hs: Tensor = self._hidden_states(self._batches[0][0], *self._fixed[:3])
        return hs

    def gradients(self) -> tuple[Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        hs = self._hidden_states(self._batches[0][0], *self._trained[:3])
        return hs.detach(), *torch.autograd.grad(hs, self._trained[:3], self._grad_hs)

    @cached_property
    def _grad_hs(self) -> Tensor:
        return torch.from_numpy(self._problem.grad_hs).to(self._device)

    def _zeros(self, batch: int) -> Tensor:
        return torch.zeros(batch, len(self._trained[1]), device=self._device)


@torch.no_grad()
def _clip_and_sgd(params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    norm = torch.stack([torch.sum(g * g) for g in grads]).sum().sqrt()
    scale = LEARNING_RATE * torch.clamp(CLIP / norm, max=1.0)
    for p, g in zip(params, grads, strict=True):
        p -= scale * g
