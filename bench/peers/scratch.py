"""The textbook's loop: over one-hot inputs exactly as the notebook has it, and over indices."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from bench.cases import CLIP, LEARNING_RATE, Task
from bench.peers.shared import Networks, params_of
from rnnfast.book import textbook

VERSIONS = {"torch": torch.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> Scratch:
    torch.set_num_threads(threads)
    return Scratch(task, {"onehot": textbook.Model, "ids": IndexModel}[variant], device)


class IndexModel(textbook.Model):
    """The textbook's model with the one-hot product replaced by indexing the rows of W_xh."""

    def __call__(self, X: Tensor, state: textbook.State) -> tuple[Tensor, textbook.State]:
        W_xh, W_hh, b_h, W_hq, b_q = self.params
        (H,) = state
        outputs = []
        for ids in X.T:
            H = torch.tanh(W_xh[ids] + torch.mm(H, W_hh) + b_h)
            outputs.append(torch.mm(H, W_hq) + b_q)
        return torch.cat(outputs, dim=0), (H,)


class Scratch(Networks):
    def __init__(self, task: Task, model: type[textbook.Model], device: str) -> None:
        super().__init__(task, device, lambda: model(params_of(task, grad=True, device=device)))
        self._task = task

    def train(self, steps: int) -> float:
        return textbook.train_epoch(
            self._net,
            self._batches[:steps],
            self._net.begin_state(len(self._batches[0][0]), self._device),
            lambda: textbook.clip(self._net.params, CLIP),
            lambda: textbook.sgd(self._net.params, LEARNING_RATE, 1),
        )

    @torch.no_grad()
    def states(self) -> Tensor:
        return self._hidden_states()

    def gradients(self) -> tuple[Tensor, ...]:
        hs = self._hidden_states()
        return hs.detach(), *torch.autograd.grad(hs, self._fixed.params[:3], self._grad_hs)

    def clip(self) -> tuple[Tensor, ...]:
        """After the first call the norm is at its limit, and nothing is scaled any more."""
        grads = self._clipped
        textbook.clip(self._fixed.params, CLIP)
        return tuple(grads)

    @cached_property
    def _grad_hs(self) -> Tensor:
        return torch.from_numpy(self._task.grad_hs).to(self._device)

    @cached_property
    def _clipped(self) -> list[Tensor]:
        for p in self._fixed.params:
            p.grad = p.detach().clone()
        return [p.grad for p in self._fixed.params]

    def _hidden_states(self) -> Tensor:
        """The textbook's loop [T,B,H] over ids [B,T], without the readout."""
        W_xh, W_hh, b_h, *_ = self._fixed.params
        X, _ = self._batches[0]
        h, hs = torch.zeros(len(X), len(W_hh), device=X.device), []
        for x in torch.nn.functional.one_hot(X.T, len(W_xh)).type(W_xh.dtype):
            h = torch.tanh(torch.mm(x, W_xh) + torch.mm(h, W_hh) + b_h)
            hs.append(h)
        return torch.stack(hs)
