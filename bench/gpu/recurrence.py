"""The recurrence alone, forward and with its gradients, against the same things of others."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.gpu import work
from bench.gpu.peers import CuDNN, Ours, Peer, Scratch
from bench.gpu.stage import Stage
from bench.summary import quantiles

HIDDENS, BATCHES, STEPS = (512, 64, 128, 256, 1024), (32, 1, 8, 128, 256), (35, 512)
OPS = ("states", "gradients")
_TF32_ERROR = 0.05  # relative; TF32 has 10 bits, and errors grow along the sequence


def run(stage: Stage) -> None:
    shapes = [(H, B, T) for T in STEPS for B in BATCHES for H in HIDDENS]
    for H, B, T in stage.items([(8, 3, 4), (12, 1, 5)] if stage.dry else shapes):
        measure(stage, work.make(stage, H, B, T))


def measure(stage: Stage, shape: work.Work) -> None:
    """Everyone who agrees with float64, eager and as a graph, in turns."""
    peers = admitted(stage, shape, everyone(stage, shape))
    for op in OPS:
        calls = {peer.name: getattr(peer, op) for peer in peers}
        few = shape.case.steps < 100  # else the textbook's graph has thousands of nodes
        calls |= stage.graphed({n: call for n, call in calls.items() if few or n != "scratch"})
        for name, seconds in stage.clock.race(calls, rounds=5, turn=0.003).items():
            microseconds = quantiles([1e6 * s for s in seconds])
            stage.emit(kind="time", op=op, peer=name, **sizes(shape), us=microseconds)


def everyone(stage: Stage, shape: work.Work) -> list[Peer]:
    peers: list[Peer] = [Scratch(shape), CuDNN(shape, False), CuDNN(shape, True)]
    for backend in stage.backends():
        peers.append(Ours(shape, backend))
        if not stage.dry and shape.case.hidden >= 128:
            peers.append(Ours(shape, backend, "high"))
    return peers


def admitted(stage: Stage, shape: work.Work, peers: list[Peer]) -> list[Peer]:
    """Those whose states and gradients are right; the others are told and not timed.

    An error may be twice that of torch's own loop at float32, as in the tests; with TF32 it is
    only bounded from above.
    """
    truth = work.states(shape, torch.float64)
    loop = [work.error(a, b) for a, b in zip(work.states(shape, torch.float32), truth, strict=True)]
    good = []
    for peer in peers:
        try:
            errors = _errors(peer, truth)
        except (RuntimeError, ValueError) as error:  # out of memory, or a shape it does not serve
            stage.emit(kind="failed", peer=peer.name, **sizes(shape), why=str(error)[:300])
            continue
        loose = peer.name.endswith(("tf32", "high"))
        allowed = [_TF32_ERROR if loose else 2 * e + 1e-6 for e in loop]
        agrees = all(e <= a for e, a in zip(errors, allowed, strict=True))
        stage.emit(kind="agree", peer=peer.name, **sizes(shape), ok=agrees, errors=errors)
        if agrees:
            good.append(peer)
    return good


def sizes(shape: work.Work) -> dict[str, int]:
    return {"H": shape.case.hidden, "N": shape.case.batch, "T": shape.case.steps}


def _errors(peer: Peer, truth: tuple[Tensor, ...]) -> list[float]:
    both = partial(zip, strict=True)
    return [work.error(got, want) for got, want in both((*peer.gradients(),), truth)]
