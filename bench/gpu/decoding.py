"""Greedy generation of one sequence: the notebook's loop, cuDNN's step as a graph, ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.cases import FIRST
from bench.gpu import work
from bench.gpu.peers import CuDNN
from bench.gpu.stage import Stage
from bench.summary import quantiles
from rnnfast import dispatch, functional
from rnnfast.backends import reference
from rnnfast.book import textbook

HIDDENS = (512, 64, 256, 1024)
_NEAR_TIE = 1e-3


def run(stage: Stage) -> None:
    count = 10 if stage.dry else 1000
    for H in stage.items([8] if stage.dry else list(HIDDENS)):
        shape = work.make(stage, H, 1, 4)
        sure, agreed = _sure(shape, count), {}
        everyone = _everyone(stage, shape, count)
        for name, (decode, _) in everyone.items():
            ok = _agree(decode(), sure)
            stage.emit(kind="agree", what="decode", peer=name, H=H, ok=ok, sure=len(sure))
            if ok:
                agreed[name] = decode
        for name, seconds in stage.clock.race(agreed, rounds=5, turn=0.01).items():
            us = quantiles([1e6 * s / everyone[name][1] for s in seconds])
            stage.emit(kind="decode", peer=name, H=H, us=us)


def _everyone(
    stage: Stage, shape: work.Work, count: int
) -> dict[str, tuple[Callable[[], Tensor], int]]:
    """What decodes, and how many ids; the notebook's loop waits for each, so it does few."""
    few = min(count, 50)
    found = {"notebook": (_notebook(shape, few), few)}
    for tf32 in (False, True):
        peer = CuDNN(shape, tf32)
        found[f"{peer.name}+graph"] = (_graphed(stage, peer, shape, count), count)
    for backend in stage.backends():
        found[backend] = (_ours(shape, backend, count), count)
    return found


def _notebook(shape: work.Work, count: int) -> Callable[[], Tensor]:
    net, device = textbook.Model(shape.params), shape.h0.device

    def call() -> Tensor:
        ids, state = [FIRST], net.begin_state(1, device)
        for _ in range(count):
            logits, state = net(torch.tensor([[ids[-1]]], device=device), state)
            ids.append(int(logits.argmax(dim=1).reshape(1)))
        return torch.tensor(ids[1:])

    return call


def _graphed(stage: Stage, peer: CuDNN, shape: work.Work, count: int) -> Callable[[], Tensor]:
    """One step as a graph, replayed; the ids stay on the device until the end."""
    device = shape.h0.device
    token, h = torch.full((1,), FIRST, device=device), shape.h0.clone()
    ids, place = torch.zeros(count + 8, dtype=torch.int64, device=device), token.clone()

    def step() -> None:
        peer.decode_step(token, h)
        ids.index_copy_(0, place, token)
        place.add_(1)

    graph = stage.clock.graphed(step)

    def call() -> Tensor:
        token.fill_(FIRST)
        h.zero_()
        place.zero_()
        for _ in range(count):
            graph()
        return ids[:count].cpu()

    return call


def _ours(shape: work.Work, backend: str, count: int) -> Callable[[], Tensor]:
    first = torch.full((1,), FIRST, device=shape.h0.device)
    params = tuple(p.detach() for p in shape.params)

    def call() -> Tensor:
        with dispatch.use_backend(backend):
            return functional.greedy_decode(first, shape.h0, params, count)[0][:, 0].cpu()

    return call


def _sure(shape: work.Work, count: int) -> list[int]:
    """float64's ids up to the first near tie."""
    W_xh, W_hh, b_h, W_hq, b_q = (p.detach().double() for p in shape.params)
    first = torch.full((1,), FIRST, device=shape.h0.device)
    h0 = shape.h0.double()
    ids, _ = reference.decode(first, W_xh, W_hh, b_h, W_hq, b_q, h0, count, 1.0, None, False)
    inputs = torch.cat((first[None], ids[:-1]))
    hs, _ = reference.rnn_forward(W_xh, inputs, W_hh, b_h, h0, False)
    best = (hs[:, 0] @ W_hq + b_q).topk(2, 1).values
    near = (best[:, 0] - best[:, 1] < _NEAR_TIE).nonzero()
    end = int(near[0]) if len(near) else count
    chosen: list[int] = ids[:end, 0].tolist()
    return chosen


def _agree(ids: Tensor, sure: list[int]) -> bool:
    found: list[int] = ids[: len(sure)].tolist()
    return found == sure[: len(found)]
