"""torch.compile of the textbook's loop: forward, gradients, and the train step under graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import CLIP, LEARNING_RATE
from bench.gpu import work
from bench.gpu.peers import Ours, Scratch
from bench.gpu.recurrence import sizes
from bench.gpu.stage import Stage
from bench.gpu.training import one_step
from bench.summary import quantiles
from rnnfast.book import textbook

SHAPES = ((512, 32, 35), (128, 32, 35))  # compiling one for all three takes about a minute


def run(stage: Stage) -> None:
    shapes = [(8, 3, 4)] if stage.dry else list(SHAPES)
    kinds = [_train, _gradients, _states]
    for (H, B, T), kind in stage.items([(shape, kind) for shape in shapes for kind in kinds]):
        kind(stage, work.make(stage, H, B, T))


def _train(stage: Stage, shape: work.Work) -> None:
    calls = {"compile reduce-overhead": _step(stage, shape)}
    calls |= stage.graphed({ours.name: one_step(ours, shape) for ours in _ours(stage, shape)})
    _race(stage, shape, "train", calls)


def _gradients(stage: Stage, shape: work.Work) -> None:
    scratch = Scratch(shape)
    states = _compile(stage, scratch.run)

    def compiled() -> tuple[Tensor, ...]:
        return torch.autograd.grad(states(), scratch.params[:3], shape.grad_hs)

    calls = {"scratch": scratch.gradients, "compile": compiled}
    calls |= stage.graphed({ours.name: ours.gradients for ours in _ours(stage, shape)})
    _race(stage, shape, "gradients", calls)


def _states(stage: Stage, shape: work.Work) -> None:
    scratch = Scratch(shape)
    calls = {"scratch": scratch.states}
    calls["compile reduce-overhead"] = _compile(stage, scratch.states, mode="reduce-overhead")
    calls |= stage.graphed({ours.name: ours.states for ours in _ours(stage, shape)})
    _race(stage, shape, "states", calls)


def _ours(stage: Stage, shape: work.Work) -> list[Ours]:
    return [Ours(shape, name) for name in stage.backends()[:1]]


def _race(stage: Stage, shape: work.Work, op: str, calls: dict[str, Callable[[], object]]) -> None:
    for name, seconds in stage.clock.race(calls, rounds=5, turn=0.01).items():
        us = quantiles([1e6 * s for s in seconds])
        stage.emit(kind="time", op=op, peer=name, against="compile", **sizes(shape), us=us)


def _compile(stage: Stage, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    if stage.dry:
        options = {"backend": "eager"}
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, **options)
    return compiled


def _step(stage: Stage, shape: work.Work) -> Callable[[], object]:
    """Loss, and clipping with SGD, each compiled with graphs of torch's own making."""
    params, h = shape.copies(), shape.h0.clone()

    def loss(ids: Tensor, targets: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        logits, (new,) = textbook.Model(params)(ids.T, (h,))
        return nn.functional.cross_entropy(logits, targets.reshape(-1)), new

    def update(grads: Sequence[Tensor]) -> None:
        norm = torch.stack([torch.sum(g * g) for g in grads]).sum().sqrt()
        scale = LEARNING_RATE * torch.clamp(CLIP / norm, max=1.0)
        for p, g in zip(params, grads, strict=True):
            p.sub_(scale * g)

    compiled = _compile(stage, loss, mode="reduce-overhead")
    updated = _compile(stage, torch.no_grad()(update), mode="reduce-overhead")

    def call() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        value, new = compiled(shape.ids, shape.targets, h)
        grads = torch.autograd.grad(value, params)
        h.copy_(new.detach())
        updated(grads)
        return value

    return call
