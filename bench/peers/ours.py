"""rnnfast, at the levels at which a program can use it.

It uses public names alone, so that `tools/compare.py` can measure other commits with it.
"""

from __future__ import annotations

import math
import sys
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import rnnfast
from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, CharVocab, Task
from bench.peers.captured import Captured
from bench.peers.shared import Networks, params_of
from rnnfast import d2l, functional

try:
    from rnnfast.book import textbook
except ImportError:  # up to ea4864a the package had no rooms
    from rnnfast import textbook  # type: ignore[no-redef,attr-defined]  # of another commit

VERSIONS = {"torch": torch.__version__, "rnnfast": rnnfast.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> Level | Functional:
    """variant: a level, or any of "functional", "graph" and a precision, joined by "+"."""
    torch.set_num_threads(threads)
    warnings.simplefilter("error", rnnfast.FallbackWarning)  # or the reference would be timed
    _tell_backend(device)
    level, *rest = variant.split("+")
    for precision in set(rest) - {"graph"}:
        torch.set_float32_matmul_precision(precision)
    if level == "functional":
        return Functional(task, device, graph="graph" in rest)
    return {"step": Step, "loss": Loss, "loop": Loop}[level](task, device)


@cache
def _tell_backend(device: str) -> None:
    """For the log, once in a process."""
    print(rnnfast.explain(device=device), file=sys.stderr)


class Level(Networks):
    """What the levels share: forward by the layer, and generation by the book's call.

    The batches stay on the host, from which `train_epoch_ch8` takes them.
    """

    def __init__(self, task: Task, device: str) -> None:
        super().__init__(task, "cpu", lambda: _net(task, device))
        self._device = device
        self._vocab = CharVocab(len(task.params[0]))
        self._sgd = torch.optim.SGD(self._net.params, LEARNING_RATE)

    def generate(self) -> str:  # type: ignore[override]  # the book's call gives a text
        first = self._vocab.idx_to_token[FIRST]
        text: str = rnnfast.predict_ch8(first, GENERATED, self._fixed, self._vocab, self._device)
        return text[1:]

    def _epoch(self, steps: int, updater: Any) -> float:
        batches, loss = self._batches[:steps], nn.CrossEntropyLoss()
        perplexity, _ = rnnfast.train_epoch_ch8(
            self._net, batches, loss, updater, self._device, False
        )
        return math.log(perplexity)


class Step(Level):
    """`train_epoch_ch8` with torch.optim.SGD. States are those of ids that lie ready."""

    def __init__(self, task: Task, device: str) -> None:
        super().__init__(task, device)
        self._ids = self._batches[0][0].T
        (self._h0,) = self._fixed.begin_state(self._ids.shape[1], device)

    def train(self, steps: int) -> float:
        return self._epoch(steps, self._sgd)

    @torch.no_grad()
    def states(self) -> Tensor:
        W_xh, W_hh, b_h, *_ = self._fixed.params
        hs, _ = functional.rnn(self._ids, self._h0, W_xh, W_hh, b_h)
        return hs


class Loss(Level):
    """`train_epoch_ch8` with an updater that cannot be looked into. Forward by the loss op."""

    def train(self, steps: int) -> float:
        return self._epoch(
            steps, lambda batch_size: d2l.sgd(self._net.params, LEARNING_RATE, batch_size)
        )

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        (h0,) = self._fixed.begin_state(len(X), "cpu")
        loss, _ = functional.rnn_cross_entropy(X.T, Y.T, h0, tuple(self._fixed.params))
        return loss.item()


class Loop(Level):
    """The notebook's own loop, with only its model, clipping and SGD replaced."""

    def train(self, steps: int) -> float:
        return textbook.train_epoch(
            self._net,
            self._batches[:steps],
            self._net.begin_state(len(self._batches[0][0]), "cpu"),
            lambda: rnnfast.grad_clipping(self._net, CLIP),
            lambda: d2l.sgd(self._net.params, LEARNING_RATE, 1),
        )


class Functional(Captured):
    """`rnnfast.functional` on tensors of the device."""

    def __init__(self, task: Task, device: str, graph: bool) -> None:
        leaves = params_of(task, grad=True, device=device)
        trained = params_of(task, grad=False, device=device)
        super().__init__(task, device, graph, leaves, trained)
        self._X, self._Y = self._X.T.contiguous(), self._Y.T.contiguous()
        self._batches = [(X.T.contiguous(), Y.T.contiguous()) for X, Y in self._batches]
        self._grads = [torch.empty_like(p) for p in trained]
        self._h0 = torch.zeros_like(self._h)

    def generate(self) -> list[int]:
        """All ids in one call."""
        params, first = tuple(self._leaves), torch.full((1,), FIRST, device=self._device)
        ids, _ = functional.greedy_decode(first, self._h0[:1], params, GENERATED)
        chosen: list[int] = ids[:, 0].tolist()
        return chosen

    @torch.no_grad()
    def _states(self) -> Tensor:
        return functional.rnn(self._X, self._h0, *self._leaves[:3])[0]

    def _gradients(self) -> tuple[Tensor, ...]:
        hs, _ = functional.rnn(self._X, self._h0, *self._leaves[:3])
        return hs.detach(), *torch.autograd.grad(hs, self._leaves[:3], self._grad_hs)

    def _step(self) -> None:
        params, rates = tuple(self._trained), (LEARNING_RATE, CLIP)
        loss = functional.train_step_(self._X, self._Y, params, self._grads, self._h, *rates)
        self._loss.add_(loss)

    def _clip(self) -> tuple[Tensor, ...]:
        rnnfast.clip_grad_norm_(self._leaves, CLIP)
        return tuple(p.grad for p in self._leaves if p.grad is not None)


def _net(task: Task, device: str) -> rnnfast.RNNModelScratch:
    V, H = task.params[0].shape

    def parameters(*_: object) -> list[Tensor]:
        return params_of(task, grad=True, device=device)

    return rnnfast.RNNModelScratch(V, H, device, parameters, rnnfast.init_rnn_state, rnnfast.rnn)
