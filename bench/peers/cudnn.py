"""torch.nn.RNN on a GPU, which is cuDNN: with and without TF32, as it is and as CUDA graphs.

Clipping and the update are torch's foreach functions. The layer alone is given its one-hot inputs
ready-made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Problem
from bench.peers.tensors import Result, batches_of, copy, graphed, with_gradients
from bench.peers.torch_rnn import CharRNN, as_problem


def make(variant: str, problem: Problem, threads: int, device: str) -> CuDNN:
    """variant: any of "tf32" and "graph", joined by "+"."""
    allowed = "tf32" in variant
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    return CuDNN(problem, device, graph="graph" in variant)


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


class CuDNN:
    """What an operation needs is made, and captured, at its first call."""

    def __init__(self, problem: Problem, device: str, graph: bool) -> None:
        self._problem, self._device, self._graph = problem, device, graph
        self._net, self._fixed = CharRNN(problem, device), CharRNN(problem, device)
        self._params, self._leaves = self._net.trained(), self._fixed.trained()
        self._batches = batches_of(problem, device)
        X, Y = self._batches[0]
        self._X, self._Y, self._one_hot = X.clone(), Y.clone(), self._fixed.one_hot(X)
        self._h, self._loss = self._net.begin_state(len(X)), torch.zeros((), device=device)
        self._id = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._ids = torch.zeros(GENERATED + 8, dtype=torch.int64, device=device)
        self._place, self._state = self._ids[:1].clone(), self._fixed.begin_state(1)

    def states(self) -> Tensor:
        return self._states()

    def gradients(self) -> tuple[Tensor, ...]:
        return self._gradients()

    def clip(self) -> tuple[Tensor, ...]:
        return self._clip()

    def train(self, steps: int) -> float:
        step = self._step
        self._h.zero_()
        self._loss.zero_()
        for X, Y in self._batches[:steps]:
            self._X.copy_(X)
            self._Y.copy_(Y)
            step()
        return self._loss.item() / steps

    def params(self) -> list[Tensor]:
        return as_problem(self._params)

    def reset(self) -> None:
        copy(self._leaves, self._params)

    def generate(self) -> list[int]:
        decode = self._decode
        self._id.fill_(FIRST)
        self._place.zero_()
        self._state.zero_()
        for _ in range(GENERATED):
            decode()
        ids: list[int] = self._ids[:GENERATED].tolist()
        return ids

    @cached_property
    def _states(self) -> Callable[[], Tensor]:
        return self._made(torch.no_grad()(self._hidden_states))

    @cached_property
    def _gradients(self) -> Callable[[], tuple[Tensor, ...]]:
        grad_hs = torch.from_numpy(self._problem.grad_hs).to(self._device)

        def call() -> tuple[Tensor, ...]:
            hs = self._hidden_states()
            W_xh, W_hh, b_h = torch.autograd.grad(hs, self._leaves[:3], grad_hs)
            return hs.detach(), W_xh.T, W_hh.T, b_h

        return self._made(call)

    @cached_property
    def _step(self) -> Callable[[], None]:
        """The state, the parameters and the sum of the losses change in place."""

        def call() -> None:
            logits, h = self._net(self._X, self._h)
            loss = nn.functional.cross_entropy(logits, self._Y.T.reshape(-1))
            for p in self._params:
                p.grad = None
            loss.backward()
            nn.utils.clip_grad_norm_(self._params, CLIP, foreach=True)
            with torch.no_grad():
                grads = [p.grad for p in self._params]
                torch._foreach_add_(self._params, grads, alpha=-LEARNING_RATE)
                self._h.copy_(h)
                self._loss.add_(loss)

        made = self._made(call)
        self.reset()  # capturing has trained
        return made

    @cached_property
    def _decode(self) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            logits, state = self._fixed(self._id, self._state)
            self._state.copy_(state)
            self._id.copy_(logits.argmax(1, keepdim=True))
            self._ids.index_copy_(0, self._place, self._id[0])
            self._place.add_(1)

        return self._made(call)

    @cached_property
    def _clip(self) -> Callable[[], tuple[Tensor, ...]]:
        grads = with_gradients(self._leaves)

        def call() -> tuple[Tensor, ...]:
            nn.utils.clip_grad_norm_(self._leaves, CLIP, foreach=True)
            return tuple(g.T if g.dim() == 2 else g for g in grads)

        made = self._made(call)
        copy(self._leaves, grads)  # capturing has clipped
        return made

    def _made(self, call: Callable[[], Result]) -> Callable[[], Result]:
        return graphed(call, self._device) if self._graph else call

    def _hidden_states(self) -> Tensor:
        hs: Tensor = self._fixed.rnn(self._one_hot, self._fixed.begin_state(len(self._X)))[0]
        return hs
