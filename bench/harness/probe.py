"""The machine's own limit, probed beside every sample: see probe.cpp for what is measured."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from bench.cases import AnyCase
from bench.harness import compiler


@dataclass(frozen=True)
class Reading:
    """gflops: multiply-adds on all threads, counted as two. gbytes: reads of the weights' size.
    round_trip_ns: between two cores, None where that cannot be told.
    """

    gflops: float
    gbytes: float
    round_trip_ns: float | None


class Probe:
    """Raises compiler.CompileError where the program cannot be built."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._library = compiler.load(Path(__file__).with_name("probe.cpp"))
        self._library.probe_gflops.restype = ctypes.c_double
        self._library.probe_gbytes.restype = ctypes.c_double
        self._library.probe_gbytes.argtypes = (ctypes.c_int, ctypes.c_long)
        self._library.probe_round_trip.restype = ctypes.c_double

    def __call__(self, case: AnyCase) -> Reading:
        """One sample, about 20 ms. The case's weights are shared out among the threads."""
        weight_bytes = 4 * case.weights()
        round_trip = self._library.probe_round_trip()
        return Reading(
            gflops=self._library.probe_gflops(self._threads),
            gbytes=self._library.probe_gbytes(self._threads, weight_bytes // self._threads),
            round_trip_ns=round_trip if round_trip >= 0 else None,
        )
