"""oneDNN's vanilla_rnn primitive, from C++: see onednn.cpp.

The environment variable BENCH_ONEDNN names the folder with include/ and lib/; without it the
system's own headers and library are tried.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import CLIP, FIRST, GENERATED, LEARNING_RATE, Floats, Ints, Task
from bench.harness import compiler


def make(variant: str, task: Task, threads: int, device: str) -> OneDNN:
    """The thread pool has the size that the worker's environment and processors give it."""
    return OneDNN(task)


def _load() -> ctypes.CDLL:
    flags = ["-fopenmp-simd", "-ldnnl"]
    if prefix := os.environ.get("BENCH_ONEDNN"):
        flags += [f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    library = compiler.load(Path(__file__).with_suffix(".cpp"), flags)
    pointer, long, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    for name, result, *arguments in (
        ("failure", ctypes.c_char_p),
        ("create", pointer, long, long, long, long, pointer),
        ("params", None, pointer, pointer),
        ("reset", None, pointer),
        ("begin", None, pointer),
        ("train", ctypes.c_double, pointer, pointer, pointer, real, real),
        ("forward", ctypes.c_double, pointer, pointer, pointer),
        ("generate", ctypes.c_double, pointer, ctypes.c_int64, long, pointer),
    ):
        function = getattr(library, f"network_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _version() -> str:
    parts = (ctypes.c_int * 3)()
    _library.network_version(parts)
    return ".".join(map(str, parts))


_library = _load()
VERSIONS = {"onednn": _version()}


class OneDNN:
    def __init__(self, task: Task) -> None:
        self._batches = [
            (np.ascontiguousarray(X.T), np.ascontiguousarray(Y.T)) for X, Y in task.batches
        ]
        self._shapes = [p.shape for p in task.params]
        (V, H), (T, B) = self._shapes[0], self._batches[0][0].shape
        self._network = _library.network_create(V, H, T, B, _pointers(task.params))
        if self._network is None:
            raise RuntimeError(_library.network_failure().decode())

    def train(self, steps: int) -> float:
        _library.network_begin(self._network)
        losses = [
            _checked(_library.network_train(self._network, *_ids(batch), CLIP, LEARNING_RATE))
            for batch in self._batches[:steps]
        ]
        return sum(losses) / steps

    def params(self) -> list[Floats]:
        params = [np.empty(shape, np.float32) for shape in self._shapes]
        _library.network_params(self._network, _pointers(params))
        return list(params)

    def reset(self) -> None:
        _library.network_reset(self._network)

    def forward(self) -> float:
        return _checked(_library.network_forward(self._network, *_ids(self._batches[0])))

    def generate(self) -> list[int]:
        ids = np.empty(GENERATED, np.int64)
        _checked(_library.network_generate(self._network, FIRST, GENERATED, ids.ctypes.data))
        chosen: list[int] = ids.tolist()
        return chosen


def _ids(batch: tuple[Ints, Ints]) -> tuple[int, int]:
    X, Y = batch
    return X.ctypes.data, Y.ctypes.data


def _pointers(arrays: Any) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def _checked(value: float) -> float:
    if math.isnan(value):
        raise RuntimeError(_library.network_failure().decode())
    return value
