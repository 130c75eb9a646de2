"""torch.nn.RNN on a GPU, which is cuDNN: with and without TF32, as it is and as CUDA graphs.

Clipping and the update are torch's foreach functions. The layer alone is given its one-hot inputs
ready-made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Task
from bench.peers.captured import Captured
from bench.peers.torch_rnn import CharRNN, as_task

VERSIONS = {
    "torch": torch.__version__,
    "cuda": str(torch.version.cuda),
    "cudnn": str(torch.backends.cudnn.version()),
}


def make(variant: str, task: Task, threads: int, device: str) -> CuDNN:
    """variant: any of "tf32" and "graph", joined by "+"."""
    allowed = "tf32" in variant
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    return CuDNN(task, device, graph="graph" in variant)


class CuDNN(Captured):
    def __init__(self, task: Task, device: str, graph: bool) -> None:
        self._net, self._fixed = CharRNN(task, device), CharRNN(task, device)
        super().__init__(task, device, graph, self._fixed.params, self._net.params)
        self._one_hot = self._fixed.one_hot(self._X)
        self._id = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._ids = torch.zeros(GENERATED + 8, dtype=torch.int64, device=device)
        self._place, self._state = self._ids[:1].clone(), self._fixed.begin_state(1, device)

    def generate(self) -> list[int]:
        """The ids stay on the device until the end."""
        step = self._call("_one_id")
        self._id.fill_(FIRST)
        self._place.zero_()
        self._state.zero_()
        for _ in range(GENERATED):
            step()
        ids: list[int] = self._ids[:GENERATED].tolist()
        return ids

    def params(self) -> list[Tensor]:
        return as_task(self._trained)

    @torch.no_grad()
    def _states(self) -> Tensor:
        return self._hidden_states()

    def _gradients(self) -> tuple[Tensor, ...]:
        hs = self._hidden_states()
        W_xh, W_hh, b_h = torch.autograd.grad(hs, self._leaves[:3], self._grad_hs)
        return hs.detach(), W_xh.T, W_hh.T, b_h

    def _step(self) -> None:
        logits, h = self._net(self._X, self._h[None])
        loss = nn.functional.cross_entropy(logits, self._Y.T.reshape(-1))
        for p in self._trained:
            p.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, CLIP, foreach=True)
        grads = [p.grad for p in self._trained if p.grad is not None]
        with torch.no_grad():
            torch._foreach_add_(self._trained, grads, alpha=-LEARNING_RATE)
            self._h.copy_(h[0])
            self._loss.add_(loss)

    def _clip(self) -> tuple[Tensor, ...]:
        nn.utils.clip_grad_norm_(self._leaves, CLIP, foreach=True)
        return tuple(as_task([p.grad for p in self._leaves if p.grad is not None]))

    @torch.no_grad()
    def _one_id(self) -> None:
        logits, state = self._fixed(self._id, self._state)
        self._state.copy_(state)
        self._id.copy_(logits.argmax(1, keepdim=True))
        self._ids.index_copy_(0, self._place, self._id[0])
        self._place.add_(1)

    def _hidden_states(self) -> Tensor:
        h0 = self._fixed.begin_state(self._one_hot.shape[1], self._device)
        hs: Tensor = self._fixed.rnn(self._one_hot, h0)[0]
        return hs
