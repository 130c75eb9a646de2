"""The clip norm over the five gradients: ours, torch's foreach, the book's.

After the first call the norm is at its limit: from then on the book's does not scale any more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import CLIP
from bench.gpu import work
from bench.gpu.stage import Stage
from bench.summary import quantiles
from rnnfast import dispatch, optim
from rnnfast.book import textbook

HIDDENS = (512, 64, 256, 1024)


def run(stage: Stage) -> None:
    for H in stage.items([8] if stage.dry else list(HIDDENS)):
        params = work.make(stage, H, 1, 2).params
        for p in params:
            p.grad = torch.randn_like(p)
        grads = [p.grad for p in params if p.grad is not None]
        calls = {
            "book": lambda params=params: textbook.clip(params, CLIP),
            "torch foreach": lambda params=params: torch.nn.utils.clip_grad_norm_(
                params, CLIP, foreach=True
            ),
        }
        for backend in stage.backends():
            for d2l in (True, False):
                rule = "d2l" if d2l else "torch"
                calls[f"{backend} {rule}"] = _ours(backend, grads, d2l)
        agreed = {name: call for name, call in calls.items() if _agrees(stage, name, call, grads)}
        graphed = stage.graphed({n: call for n, call in agreed.items() if n != "book"})
        for name, seconds in stage.clock.race(agreed | graphed, rounds=7, turn=0.005).items():
            stage.emit(kind="clip", peer=name, H=H, us=quantiles([1e6 * s for s in seconds]))
        for name, call in agreed.items():
            stage.emit(kind="launches", what="clip", peer=name, count=stage.clock.launches(call))


def _ours(backend: str, grads: list[Tensor], d2l: bool):
    def call() -> None:
        with dispatch.use_backend(backend):
            optim.clip_grads_(grads, CLIP, d2l=d2l)

    return call


def _agrees(stage: Stage, name: str, call, grads: list[Tensor]) -> bool:
    """The gradients afterwards, against float64; they are put back."""
    before = [g.clone() for g in grads]
    norm = torch.stack([g.double().pow(2).sum() for g in grads]).sum().sqrt()
    call()
    truth = [g.double() * (CLIP / norm).clamp(max=1) for g in before]
    errors = [work.error(g, t) for g, t in zip(grads, truth, strict=True)]
    for g, b in zip(grads, before, strict=True):
        g.copy_(b)
    ok = max(errors) < 3e-6  # torch's rule adds 1e-6 to the norm
    stage.emit(kind="agree", what="clip", peer=name, ok=ok, errors=errors)
    return ok
