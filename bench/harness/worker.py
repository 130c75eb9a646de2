"""One peer in a process of its own, as a suite's `Workers` start it.

    python -m bench.harness.worker MODULE VARIANT THREADS DEVICE CHECKOUT PIPE

CHECKOUT, where it is not empty, decides which checkout's rnnfast is measured.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import AnyCase, Case, CharVocab
from bench.harness.clock import clock_for
from bench.harness.protocol import Message, serve


class Host:
    """Holds the peer between requests."""

    def __init__(self, module: str, variant: str, threads: int, device: str) -> None:
        self._name, self._variant = f"bench.peers.{module}", variant
        self._threads, self._device = threads, device
        self._peer: Any = None  # a Peer

    def setup(self, case: AnyCase) -> Message:
        """Make the peer for a case; says which of the case's operations it has."""
        self._case = case
        module = importlib.import_module(self._name)
        self.calls: dict[str, Callable[[], Any]] = {}
        self._peer = None  # the one of the case before may hold much memory
        gc.unfreeze()
        self._peer = module.make(self._variant, case.task(), self._threads, self._device)
        self._clock = clock_for(self._device)
        self.calls = {op: self._call(op) for op in case.ops if hasattr(self._peer, op)}
        return {"ops": list(self.calls), "versions": module.VERSIONS}

    def check(self, op: str) -> Message:
        """The first result of an operation as arrays, and its seconds with what it compiles.

        Of training it is the loss of the first step and the parameters after it.
        """
        start = time.perf_counter()
        if op == "train":
            result = (self._peer.train(1), *self._peer.params())
        else:
            found = self.calls[op]()
            result = found if isinstance(found, tuple) else (found,)
        arrays = [self._array(value) for value in result]
        return {"results": arrays, "seconds": time.perf_counter() - start}

    def time(self, op: str, budget: float) -> Message:
        """The seconds of one call, from a turn of about `budget` seconds."""
        gc.collect()
        gc.freeze()  # To look through all that torch imports takes 0.3 s: once is enough.
        return {"seconds": self._clock.seconds(self.calls[op], lambda: self.prepare(op), budget)}

    def prepare(self, op: str) -> None:
        """Every epoch starts from the same parameters.

        Otherwise a net that has learnt the text by heart is timed: its gradients are denormal
        numbers, which made 100 epochs of N1_H512 end 2.5 times slower than they began.
        """
        if op == "train":
            self._peer.reset()

    def _array(self, value: Any) -> Any:
        """Of a number, a list of ids, a text, or a tensor."""
        if isinstance(value, str):
            assert isinstance(self._case, Case)
            vocab = CharVocab(self._case.vocab)
            value = [vocab[character] for character in value]
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        return np.asarray(value)

    def _call(self, op: str) -> Callable[[], Any]:
        """The operation as it is timed; training runs over a whole epoch."""
        method: Callable[..., Any] = getattr(self._peer, op)
        if op == "train":
            assert isinstance(self._case, Case)
            epoch = self._case.epoch
            return lambda: method(epoch)
        return method


def main() -> None:
    module, variant, threads, device, checkout, pipe = sys.argv[1:]
    if checkout:
        sys.path.insert(0, checkout)
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    host = Host(module, variant, int(threads), device)
    serve(int(pipe), {"setup": host.setup, "check": host.check, "time": host.time})


if __name__ == "__main__":
    main()
