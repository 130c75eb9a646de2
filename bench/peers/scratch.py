"""The textbook's loop: over one-hot inputs exactly as the notebook has it, and over indices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Floats, Problem
from rnnfast.book import textbook


def make(variant: str, problem: Problem, threads: int) -> Scratch:
    torch.set_num_threads(threads)
    return Scratch(problem, {"onehot": textbook.Model, "ids": IndexModel}[variant])


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


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


class Scratch:
    def __init__(self, problem: Problem, model: type[textbook.Model]) -> None:
        self._batches = [(torch.from_numpy(X), torch.from_numpy(Y)) for X, Y in problem.batches]
        self._trained = tensors(problem, grad=True)
        self._net, self._fixed = model(self._trained), model(tensors(problem, grad=True))

    def train(self, steps: int) -> float:
        return textbook.train_epoch(
            self._net,
            self._batches[:steps],
            self._net.begin_state(len(self._batches[0][0])),
            lambda: textbook.clip(self._trained, CLIP),
            lambda: textbook.sgd(self._trained, LEARNING_RATE, 1),
        )

    def params(self) -> list[Floats]:
        return [p.detach().numpy() for p in self._trained]

    def reset(self) -> None:
        copy(self._fixed.params, self._trained)

    @torch.no_grad()
    def forward(self) -> float:
        X, Y = self._batches[0]
        logits, _ = self._fixed(X, self._fixed.begin_state(len(X)))
        return torch.nn.functional.cross_entropy(logits, Y.T.reshape(-1)).item()

    def generate(self) -> list[int]:
        """With gradients on, as the notebook runs it."""
        return textbook.predict(FIRST, GENERATED, self._fixed, self._fixed.begin_state(1))


def tensors(problem: Problem, grad: bool) -> list[Tensor]:
    """The problem's parameters as fresh torch tensors."""
    return [torch.tensor(p, requires_grad=grad) for p in problem.params]


@torch.no_grad()
def copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Overwrite parameters in place."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
