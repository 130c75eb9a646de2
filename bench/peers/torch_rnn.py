"""torch.nn.RNN with torch's own clipping and SGD, at their fastest settings, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.cases import CLIP, LEARNING_RATE, Task
from bench.peers.shared import Networks, params_of

VERSIONS = {"torch": torch.__version__}


def make(variant: str, task: Task, threads: int, device: str) -> TorchRNN:
    torch.set_num_threads(threads)
    return TorchRNN(task, fused=variant == "fused")


class CharRNN(nn.Module):
    """One-hot, nn.RNN, nn.Linear. The layer's second bias is fixed at zero: the model has one.

    params: in the order of PARAMETERS, each matrix the transpose of the task's.
    """

    def __init__(self, task: Task, device: str = "cpu") -> None:
        super().__init__()
        W_xh, W_hh, b_h, W_hq, b_q = params_of(task, grad=False)
        self.V, self.H = W_xh.shape
        self.rnn, self.readout = nn.RNN(self.V, self.H), nn.Linear(self.H, self.V)
        self.load_state_dict(
            {
                "rnn.weight_ih_l0": W_xh.T,
                "rnn.weight_hh_l0": W_hh.T,
                "rnn.bias_ih_l0": b_h,
                "rnn.bias_hh_l0": torch.zeros_like(b_h),
                "readout.weight": W_hq.T,
                "readout.bias": b_q,
            }
        )
        self.rnn.get_parameter("bias_hh_l0").requires_grad_(False)
        self.to(device)
        self.params = [p for p in self.parameters() if p.requires_grad]

    def forward(self, X: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,T] and state [1,B,H] to logits [T * B,V] and the last state."""
        hs, state = self.rnn(self.one_hot(X), state)
        return self.readout(hs.reshape(-1, self.H)), state

    def one_hot(self, X: Tensor) -> Tensor:
        return nn.functional.one_hot(X.T, self.V).float()

    def begin_state(self, batch: int, device: str) -> Tensor:
        return torch.zeros(1, batch, self.H, device=device)


def as_task(params: Sequence[Tensor]) -> list[Tensor]:
    """Transposed as the task has them."""
    return [p.detach().T if p.dim() == 2 else p.detach() for p in params]


class TorchRNN(Networks):
    def __init__(self, task: Task, fused: bool) -> None:
        super().__init__(task, "cpu", lambda: CharRNN(task))
        self._sgd = torch.optim.SGD(
            self._net.params, LEARNING_RATE, fused=fused, foreach=None if fused else True
        )

    def train(self, steps: int) -> float:
        state = self._net.begin_state(len(self._batches[0][0]), "cpu")
        losses = []
        for X, Y in self._batches[:steps]:
            logits, state = self._net(X, state.detach())
            loss = nn.functional.cross_entropy(logits, Y.T.reshape(-1))
            self._sgd.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._net.params, CLIP)
            self._sgd.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def params(self) -> list[Tensor]:
        return as_task(super().params())

    @torch.no_grad()
    def states(self) -> Tensor:
        X, _ = self._batches[0]
        hs: Tensor = self._fixed.rnn(
            self._fixed.one_hot(X), self._fixed.begin_state(len(X), "cpu")
        )[0]
        return hs

    @torch.no_grad()
    def generate(self) -> list[int]:
        return super().generate()
