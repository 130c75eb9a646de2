"""10,000 graphed steps: no growth in memory, and the loss curve of the ungraphed loop."""

from __future__ import annotations

import math
import os
import resource

import torch
from torch import nn

from bench.gpu import work
from bench.gpu.stage import Stage
from rnnfast import RNNModelScratch, dispatch, init_rnn_state, rnn, train_epoch_ch8
from rnnfast.training import graphs

H, B, T = 512, 32, 35
_PARTS, _STEPS = 20, 500
_RATE = 0.05  # small enough that two roundings stay together, as they do not at rate 1


def run(stage: Stage) -> None:
    parts, steps = (3, 5) if stage.dry else (_PARTS, _STEPS)
    shape = work.make(stage, *((8, 3, 4) if stage.dry else (H, B, T)))
    backend = stage.backends()[0]
    epochs = {kind: _trainer(shape, backend, steps, kind) for kind in ("1", "0")}
    first = None
    for part in range(parts):
        graphed, plain = epochs["1"](), epochs["0"]()
        memory = _memory(stage)
        if part == 1:  # the first part allocated what stays
            first = memory
        stage.emit(
            kind="endurance",
            steps=(part + 1) * steps,
            backend=backend,
            loss=graphed,
            ungraphed=plain,
            relative=abs(graphed - plain) / plain,
            **memory,
        )
    end = _memory(stage)
    grown = {key: end[key] - first[key] for key in end} if first else {}
    stage.emit(kind="growth", steps=parts * steps, **grown)
    for epoch in epochs.values():
        epoch()
        stage.emit(kind="endurance-levels", level=dispatch.explain(shape.h0).training)


def _trainer(shape: work.Work, backend: str, steps: int, switch: str):
    (V, hidden), device = shape.params[0].shape, shape.h0.device
    params = shape.copies()
    net = RNNModelScratch(V, hidden, device, lambda *_: params, init_rnn_state, rnn)
    optimizer, loss = torch.optim.SGD(net.params, _RATE), nn.CrossEntropyLoss()
    few = [(ids.T.cpu(), targets.T.cpu()) for ids, targets in shape.batches]

    def epoch() -> float:
        os.environ[graphs.SWITCH] = switch
        batches = (few[i % len(few)] for i in range(steps))
        with dispatch.use_backend(backend):
            return math.log(train_epoch_ch8(net, batches, loss, optimizer, device, False)[0])

    return epoch


def _memory(stage: Stage) -> dict[str, int]:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if stage.dry:
        return {"host_peak_kb": kilobytes}
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "used_on_device": total - free,
        "host_peak_kb": kilobytes,
    }
