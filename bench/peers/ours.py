"""rnnfast, at the three levels at which a program can use it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

import rnnfast
from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, CharVocab, Floats, Problem
from bench.peers.scratch import copy, tensors
from rnnfast import d2l, functional
from rnnfast.backends import native
from rnnfast.book import textbook


def make(variant: str, problem: Problem, threads: int) -> Level:
    torch.set_num_threads(threads)
    warnings.simplefilter("error", rnnfast.FallbackWarning)  # or the reference would be timed
    return {"step": Step, "loss": Loss, "loop": Loop}[variant](problem)


def versions() -> dict[str, str]:
    build = native.load_error() or native.build_info()
    return {"torch": torch.__version__, "rnnfast": f"{rnnfast.__version__}, {build}"}


class Level:
    """What the levels share: a net with the problem's parameters, and its batches."""

    def __init__(self, problem: Problem) -> None:
        self._batches = [(torch.from_numpy(X), torch.from_numpy(Y)) for X, Y in problem.batches]
        self._net, self._fixed = _net(problem), _net(problem)
        self._vocab = CharVocab(len(problem.params[0]))
        self._sgd = torch.optim.SGD(self._net.params, LEARNING_RATE)

    def params(self) -> list[Floats]:
        return [p.detach().numpy() for p in self._net.params]

    def reset(self) -> None:
        copy(self._fixed.params, self._net.params)

    def _epoch(self, steps: int, updater: Any) -> float:
        perplexity, _ = rnnfast.train_epoch_ch8(
            self._net, self._batches[:steps], nn.CrossEntropyLoss(), updater, "cpu", False
        )
        return math.log(perplexity)


class Step(Level):
    """`train_epoch_ch8` with torch.optim.SGD. Forward and generation, alike at all levels."""

    def train(self, steps: int) -> float:
        return self._epoch(steps, self._sgd)

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        logits, _ = self._fixed(X, self._fixed.begin_state(len(X), "cpu"))
        return nn.functional.cross_entropy(logits, Y.T.reshape(-1)).item()

    def generate(self) -> str:
        first = self._vocab.idx_to_token[FIRST]
        return rnnfast.predict_ch8(first, GENERATED, self._fixed, self._vocab, "cpu")[1:]


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
        W_xh, W_hh, b_h, W_hq, b_q = self._fixed.params
        loss, _ = functional.rnn_cross_entropy(X.T, Y.T, h0, (W_xh, W_hh, b_h, W_hq, b_q))
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


def _net(problem: Problem) -> rnnfast.RNNModelScratch:
    V, H = problem.params[0].shape
    return rnnfast.RNNModelScratch(
        V, H, "cpu", lambda *_: tensors(problem, grad=True), rnnfast.init_rnn_state, rnnfast.rnn
    )
