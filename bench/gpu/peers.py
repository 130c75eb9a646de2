"""Everyone who is timed on one shape: the textbook's loop, cuDNN with and without TF32, ours.

A peer has `states()` (all hidden states), `gradients()` (they and the recurrence's gradients) and
`step(ids, targets, h)` (one training step; its parameters and h [B, H] change in place, the loss is
returned). None of them waits for the device but the textbook's step, whose clipping does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.cases import CLIP, LEARNING_RATE
from bench.gpu.work import Work
from rnnfast import dispatch, functional
from rnnfast.book import textbook


class Scratch:
    """The textbook's loop over one-hot inputs."""

    name = "scratch"

    def __init__(self, work: Work) -> None:
        self.work, self.params = work, work.copies()

    def reset(self) -> None:
        with torch.no_grad():
            for mine, given in zip(self.params, self.work.params, strict=True):
                mine.copy_(given)

    @torch.no_grad()
    def states(self) -> Tensor:
        return self.run()

    def gradients(self) -> tuple[Tensor, ...]:
        hs = self.run()
        return hs.detach(), *torch.autograd.grad(hs, self.params[:3], self.work.grad_hs)

    def step(self, ids: Tensor, targets: Tensor, h: Tensor) -> Tensor:
        logits, (new,) = textbook.Model(self.params)(ids.T, (h,))
        loss = nn.functional.cross_entropy(logits, targets.reshape(-1))
        loss.backward()
        textbook.clip(self.params, CLIP)
        textbook.sgd(self.params, LEARNING_RATE, 1)
        h.copy_(new.detach())
        return loss.detach()

    def run(self) -> Tensor:
        W_xh, W_hh, b_h, *_ = self.params
        h, hs = self.work.h0, []
        for X in nn.functional.one_hot(self.work.ids, len(W_xh)).type(W_xh.dtype):
            h = torch.tanh(torch.mm(X, W_xh) + torch.mm(h, W_hh) + b_h)
            hs.append(h)
        return torch.stack(hs)


class CuDNN:
    """torch.nn.RNN over one-hot vectors that are made beforehand; foreach clipping and update."""

    def __init__(self, work: Work, tf32: bool) -> None:
        self.work, self.tf32 = work, tf32
        self.name = "cudnn_tf32" if tf32 else "cudnn"
        (self.V, self.H), device = work.params[0].shape, work.h0.device
        self._rnn = nn.RNN(self.V, self.H).to(device)
        self._one_hot = nn.functional.one_hot(work.ids, self.V).float()
        self._readout = nn.Linear(self.H, self.V).to(device)
        self._rnn.bias_hh_l0.requires_grad_(False)  # the model has one bias
        both = (*self._rnn.parameters(), *self._readout.parameters())
        self._leaves = [p for p in both if p.requires_grad]
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        self._rnn.bias_hh_l0.zero_()
        for leaf, given in zip(self._leaves, self.work.params, strict=True):
            leaf.copy_(given.T if given.dim() == 2 else given)

    @property
    def params(self) -> list[Tensor]:
        return [p.detach().T if p.dim() == 2 else p.detach() for p in self._leaves]

    @torch.no_grad()
    def states(self) -> Tensor:
        with tf32(self.tf32):
            hs: Tensor = self._rnn(self._one_hot, self.work.h0[None])[0]
        return hs

    def gradients(self) -> tuple[Tensor, ...]:
        with tf32(self.tf32):
            hs, _ = self._rnn(self._one_hot, self.work.h0[None])
            W_xh, W_hh, b_h = torch.autograd.grad(hs, self._leaves[:3], self.work.grad_hs)
        return hs.detach(), W_xh.T, W_hh.T, b_h

    def step(self, ids: Tensor, targets: Tensor, h: Tensor) -> Tensor:
        with tf32(self.tf32):
            hs, new = self._rnn(nn.functional.one_hot(ids, self.V).float(), h[None])
            logits = self._readout(hs.flatten(0, 1))
            loss = nn.functional.cross_entropy(logits, targets.reshape(-1))
            for leaf in self._leaves:
                leaf.grad = None
            loss.backward()
        nn.utils.clip_grad_norm_(self._leaves, CLIP, foreach=True)
        with torch.no_grad():
            torch._foreach_add_(self._leaves, [p.grad for p in self._leaves], alpha=-LEARNING_RATE)
            h.copy_(new[0])
        return loss.detach()

    @torch.no_grad()
    def decode_step(self, token: Tensor, h: Tensor) -> None:
        """token [B] and h [B, H] become the next ones."""
        with tf32(self.tf32):
            hs, new = self._rnn(nn.functional.one_hot(token, self.V).float()[None], h[None])
            token.copy_(self._readout(hs[0]).argmax(1))
        h.copy_(new[0])


class Ours:
    """rnnfast by one backend; "high" lets it multiply in TF32 as torch's setting of that name."""

    def __init__(self, work: Work, backend: str, precision: str = "highest") -> None:
        self.work, self.backend, self.precision = work, backend, precision
        self.name = backend if precision == "highest" else f"{backend}_{precision}"
        self.params = work.copies()
        self.grads = [torch.empty_like(p) for p in self.params]

    def reset(self) -> None:
        with torch.no_grad():
            for mine, given in zip(self.params, self.work.params, strict=True):
                mine.copy_(given)

    @torch.no_grad()
    def states(self) -> Tensor:
        return self.run()

    def gradients(self) -> tuple[Tensor, ...]:
        hs = self.run()
        with self._chosen():
            return hs.detach(), *torch.autograd.grad(hs, self.params[:3], self.work.grad_hs)

    @torch.no_grad()
    def step(self, ids: Tensor, targets: Tensor, h: Tensor) -> Tensor:
        with self._chosen():
            params = tuple(self.params)
            return functional.train_step_(ids, targets, params, self.grads, h, LEARNING_RATE, CLIP)

    def run(self) -> Tensor:
        W_xh, W_hh, b_h, *_ = self.params
        with self._chosen():
            return functional.rnn(self.work.ids, self.work.h0, W_xh, W_hh, b_h)[0]

    @contextmanager
    def _chosen(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        with dispatch.use_backend(self.backend):
            try:
                if before != self.precision:
                    torch.set_float32_matmul_precision(self.precision)
                yield
            finally:
                if before != self.precision:
                    torch.set_float32_matmul_precision(before)


Peer = Scratch | CuDNN | Ours


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """What cuDNN and cuBLAS may do with float32; torch's own default allows it to cuDNN alone."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    matmul, products = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before, products
