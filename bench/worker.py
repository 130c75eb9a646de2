"""One peer in a process of its own: `python -m bench.worker MODULE VARIANT THREADS [PATH]`.

PATH, where given, comes first on the import path: it decides which checkout's rnnfast is measured.
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

from bench.cases import Case
from bench.peers import Peer
from bench.protocol import Message, serve


class Host:
    """Holds the peer between requests."""

    def __init__(self, module: str, variant: str, threads: int) -> None:
        self._name, self._variant, self._threads = f"bench.peers.{module}", variant, threads

    def setup(self, case: Message) -> Message:
        self._case = Case(**case)
        module = importlib.import_module(self._name)
        self._peer: Peer = module.make(self._variant, self._case.problem(), self._threads)
        self.ops = [op for op in self._case.ops if hasattr(self._peer, op)]
        return {"ops": self.ops, "versions": module.versions()}

    def check(self, op: str, file: str) -> Message:
        """The first result of an operation, for the runner to compare. Also compiles and warms up.

        After the first training step the parameters go to `file`, in numpy's npz format.
        """
        start = time.perf_counter()
        result: Any = self._peer.train(1) if op == "train" else self.call(op)()
        seconds = time.perf_counter() - start
        if op == "train":
            np.savez(file, *self._peer.params())
        return {"result": result, "seconds": seconds}

    def time(self, op: str, budget: float) -> Message:
        """Seconds of single calls: one that does not count, then as many as the budget allows."""
        call = self.call(op)
        gc.collect()
        seconds: list[float] = []
        while sum(seconds[1:]) < budget:
            self.prepare(op)
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds[1:]}

    def prepare(self, op: str) -> None:
        """Every epoch starts from the same parameters.

        Otherwise a net that has learnt the text by heart is timed: its gradients are denormal
        numbers, which made 100 epochs of N1_H512 end 2.5 times slower than they began.
        """
        if op == "train":
            self._peer.reset()

    def call(self, op: str) -> Callable[[], Any]:
        """The operation as it is timed; training runs over a whole epoch."""
        method: Callable[..., Any] = getattr(self._peer, op)
        return (lambda: method(self._case.epoch)) if op == "train" else method


def main() -> None:
    module, variant, threads, *paths = sys.argv[1:]
    sys.path[:0] = paths
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    host = Host(module, variant, int(threads))
    serve({"setup": host.setup, "check": host.check, "time": host.time})


if __name__ == "__main__":
    main()
