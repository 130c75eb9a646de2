"""The data of one shape on the device, and what it must come to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cases import Case
from bench.gpu.stage import Stage
from rnnfast.backends import reference

NAMES = ("W_xh", "W_hh", "b_h", "W_hq", "b_q")


@dataclass
class Work:
    """Parameters (leaves that require gradients), two minibatches, and a gradient of hs."""

    case: Case
    params: list[Tensor]
    batches: list[tuple[Tensor, Tensor]]  # ids and targets, each [T, B]
    h0: Tensor  # [B, H]
    grad_hs: Tensor  # [T, B, H]

    @property
    def ids(self) -> Tensor:
        return self.batches[0][0]

    @property
    def targets(self) -> Tensor:
        return self.batches[0][1]

    def copies(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The parameters again, as leaves of their own."""
        return [p.detach().to(dtype, copy=True).requires_grad_(True) for p in self.params]


def make(stage: Stage, H: int, B: int, T: int, V: int = 28) -> Work:
    case = Case(f"H{H}_N{B}_T{T}", H, batch=B, steps=T, vocab=V, epoch=2)
    problem, device = case.problem(), stage.device
    return Work(
        case,
        [torch.tensor(p, device=device, requires_grad=True) for p in problem.params],
        [tuple(torch.tensor(ids.T.copy(), device=device) for ids in b) for b in problem.batches],
        torch.zeros(B, H, device=device),
        torch.randn(T, B, H, device=device) / (T * B),
    )


def states(work: Work, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """hs, and the gradients of W_xh, W_hh, b_h for grad_hs, by the reference in a dtype."""
    W_xh, W_hh, b_h, *_ = work.copies(dtype)
    with torch.no_grad():
        hs, _ = reference.rnn_forward(W_xh, work.ids, W_hh, b_h, work.h0.to(dtype), False)
        V = W_xh.shape[0]
        inputs = (work.grad_hs.to(dtype), None, hs, work.ids, V, W_hh, work.h0.to(dtype))
        grads = reference.rnn_backward(*inputs, False, True, True, False)
    return hs, *grads[:3]


def trained(work: Work, dtype: torch.dtype, lr: float, clip: float) -> tuple[Tensor, ...]:
    """The parameters after one step, by the reference in a dtype."""
    params = [p.detach() for p in work.copies(dtype)]
    grads, h = [torch.empty_like(p) for p in params], work.h0.to(dtype, copy=True)
    reference.train_step_(work.ids, work.targets, params, grads, h, lr, clip, False)
    return tuple(params)


def error(got: Tensor, truth: Tensor) -> float:
    """The largest difference, over the largest true value."""
    return ((got.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()
