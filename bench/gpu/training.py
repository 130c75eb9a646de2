"""The whole train step: the notebook's loop, cuDNN and ours, each as it is and as one graph."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.cases import CLIP, LEARNING_RATE
from bench.gpu import work
from bench.gpu.peers import CuDNN, Ours, Peer, Scratch
from bench.gpu.recurrence import sizes
from bench.gpu.stage import Stage
from bench.summary import quantiles
from rnnfast import RNNModelScratch, dispatch, init_rnn_state, rnn, train_epoch_ch8
from rnnfast.training import graphs

HIDDENS, BATCHES, T = (512, 64, 256, 1024), (32, 1, 256), 35
_EPOCH = 64  # minibatches of one call of train_epoch_ch8


def run(stage: Stage) -> None:
    shapes = [(H, B, T) for B in BATCHES for H in HIDDENS]
    for H, B, steps in stage.items([(8, 3, 4)] if stage.dry else shapes):
        measure(stage, work.make(stage, H, B, steps))


def measure(stage: Stage, shape: work.Work) -> None:
    peers: list[Peer] = [Scratch(shape), CuDNN(shape, False), CuDNN(shape, True)]
    peers += [Ours(shape, name) for name in stage.backends()]
    calls: dict[str, Callable[[], object]] = {}
    admitted = _admitted(stage, shape, peers)
    calls |= {peer.name: one_step(peer, shape) for peer in admitted}
    # the textbook's clipping waits for the device, which no graph can
    rest = [peer for peer in admitted if peer.name != "scratch"]
    calls |= stage.graphed({peer.name: one_step(peer, shape) for peer in rest})
    for backend in stage.backends():
        for graph in ("0", "1"):
            name = f"{backend} train_epoch_ch8" + ("" if graph == "1" else " ungraphed")
            calls[name] = _epoch(shape, backend, graph)
    for name, seconds in stage.clock.race(calls, rounds=5, turn=0.02).items():
        steps = _EPOCH if "train_epoch" in name else 1
        us = quantiles([1e6 * s / steps for s in seconds])
        rate = {key: round(shape.case.tokens / us[key] * 1e6) for key in us}
        stage.emit(kind="train", peer=name, **sizes(shape), us=us, tokens_per_s=rate)
    if shape.case.hidden in (8, 512):
        for peer in peers[3:]:
            count = stage.clock.launches(one_step(peer, shape))
            stage.emit(kind="launches", what="train step", peer=peer.name, count=count)
    stage.emit(kind="level", text=dispatch.explain(shape.h0).training)


def one_step(peer: Peer, shape: work.Work) -> Callable[[], Tensor]:
    """One step on the first minibatch, the state carried along."""
    h = shape.h0.clone()
    ids, targets = shape.batches[0]
    return lambda: peer.step(ids, targets, h)


def _epoch(shape: work.Work, backend: str, graph: str) -> Callable[[], float]:
    """`train_epoch_ch8` over minibatches on the host, as its loaders give them."""
    (V, H), device = shape.params[0].shape, shape.h0.device
    params = shape.copies()
    net = RNNModelScratch(V, H, device, lambda *_: params, init_rnn_state, rnn)
    optimizer, loss = torch.optim.SGD(net.params, LEARNING_RATE), nn.CrossEntropyLoss()
    few = [(ids.T.cpu(), targets.T.cpu()) for ids, targets in shape.batches]
    batches = [few[i % len(few)] for i in range(_EPOCH)]

    def call() -> float:
        os.environ[graphs.SWITCH] = graph
        with dispatch.use_backend(backend):
            return train_epoch_ch8(net, batches, loss, optimizer, device, False, clip=CLIP)[0]

    return call


def _admitted(stage: Stage, shape: work.Work, peers: list[Peer]) -> list[Peer]:
    """Those whose first step changes the parameters as float64 does."""
    before = [p.detach().double() for p in shape.params]

    def moved(after: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
        return [a.detach().double() - b for a, b in zip(after, before, strict=True)]

    truth = moved(work.trained(shape, torch.float64, LEARNING_RATE, CLIP))
    loop = moved(work.trained(shape, torch.float32, LEARNING_RATE, CLIP))
    # a parameter is rounded once when the step is taken from it
    allowed = [
        2 * work.error(a, t) + float(torch.finfo(torch.float32).eps * b.abs().max() / t.abs().max())
        for a, t, b in zip(loop, truth, before, strict=True)
    ]
    good = []
    for peer in peers:
        one_step(peer, shape)()
        errors = [work.error(a, t) for a, t in zip(moved(peer.params), truth, strict=True)]
        bounds = [0.05] * len(allowed) if peer.name.endswith("tf32") else allowed
        agrees = all(e <= a for e, a in zip(errors, bounds, strict=True))
        stage.emit(kind="agree", what="train step", peer=peer.name, ok=agrees, **sizes(shape))
        if agrees:
            good.append(peer)
    return good
