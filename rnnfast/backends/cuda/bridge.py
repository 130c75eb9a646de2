"""The Python side of csrc/cuda/: answers the launcher's questions, asks for a device's limits.

The library calls back with the name of a kernel's variant and gets its image, or with a call's
sizes and gets the variant to run; see csrc/cuda/callbacks.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnnfast.backends.cuda import image_cache, nvrtc

LIBRARY = Path(__file__).parents[2] / "_C.so"


@dataclass(frozen=True)
class Limits:
    """What a device has; asked of its driver."""

    compute_capability: int  # 90
    multiprocessors: int
    shared_bytes: int  # that a block may have


@dataclass(frozen=True)
class Geometry:
    """A launch, as in csrc/cuda/launch.h."""

    grid: int
    cluster: int
    block: int
    shared_bytes: int


@dataclass(frozen=True)
class Question:
    """What the choice of a variant depends on, as in csrc/cuda/launch.h."""

    operation: str
    B: int
    H: int
    V: int
    dtype_bits: int
    relu: bool
    ids: bool
    device: int


@dataclass(frozen=True)
class Plan:
    """A kernel's variant and its launch."""

    unit: str
    kernel: str
    options: str
    geometry: Geometry
    rows: int  # of the batch per cluster
    transpose: bool  # the kernel takes W_hh transposed

    def line(self) -> str:
        g = self.geometry
        fields = (self.unit, self.kernel, self.options, g.grid, g.cluster, g.block, g.shared_bytes)
        return "\t".join(map(str, (*fields, self.rows, int(self.transpose))))


class DriverError(RuntimeError):
    """The CUDA driver is missing or refused something. The message has its own words."""


@functools.cache
def sources() -> dict[str, str]:
    """The device code that the library was built with, by file name."""
    library, found, i = _library(), dict[str, str](), 0
    while (name := library.rnnfast_cuda_source_name(i)) is not None:
        found[name.decode()] = library.rnnfast_cuda_source_text(i).decode()
        i += 1
    return found


def start(choose: Callable[[Question], Plan | None]) -> None:
    """Let the library ask: for images here, for variants `choose`. None: no resident variant."""

    def image(answer: int, unit: bytes, options: bytes, capability: int) -> None:
        _answer(answer, lambda: make_image(unit.decode(), options.decode(), capability))

    def plan(answer: int, operation: bytes, *rest: int) -> None:
        B, H, V, dtype_bits, relu, ids, device = rest

        def line() -> bytes:
            question = Question(
                operation.decode(), B, H, V, dtype_bits, bool(relu), bool(ids), device
            )
            chosen = choose(question)
            return chosen.line().encode() if chosen else b""

        _answer(answer, line)

    _kept[:] = [_IMAGE_CALLBACK(image), _PLAN_CALLBACK(plan)]  # the library has addresses alone
    _library().rnnfast_cuda_install(*_kept)


def make_image(unit: str, options: str, capability: int) -> bytes:
    """The image of a variant for a device of this compute capability."""
    return image_cache.image(unit, options, nvrtc.architecture(capability), sources()).image


def emulate() -> None:
    """Register the operators for CPU tensors as torch.ops.rnnfast_emulated, once."""
    _library().rnnfast_cuda_emulate()


def limits(device: int) -> Limits:
    """Raises DriverError where there is no driver or no such device."""
    values = [ctypes.c_int() for _ in range(3)]
    _call("rnnfast_cuda_limits", device, *map(ctypes.byref, values))
    return Limits(*(value.value for value in values))


def max_active_clusters(plan: Plan, device: int) -> int:
    """How many clusters of a plan the device runs at once; compiles and loads its kernel."""
    g, clusters = plan.geometry, ctypes.c_int()
    _call(
        "rnnfast_cuda_max_active_clusters",
        plan.unit.encode(),
        plan.kernel.encode(),
        plan.options.encode(),
        g.cluster,
        g.block,
        g.shared_bytes,
        device,
        ctypes.byref(clusters),
    )
    return clusters.value


def shape(macros: ctypes.Array[ctypes.c_int], backward: int, facts: object) -> bool:
    """Fills `facts` with what csrc/cuda/recurrence_shape.h says; False: there is no such shape."""
    return bool(_library().rnnfast_cuda_shape(macros, backward, facts))


def decode_bytes(macros: Sequence[int], H: int, V: int, holds_tables: bool) -> int:
    """Shared memory of a block of decode.cu, by csrc/cuda/decode_shape.h; -1: no such shape."""
    values = (ctypes.c_int * len(macros))(*macros)
    return int(_library().rnnfast_cuda_decode_bytes(values, H, V, holds_tables))


def check(device: int) -> None:
    """Raise what the kernels that have run on a device had to complain about.

    Every operator does so at its start, without waiting for the device; after a synchronisation
    this finds the errors of all calls before it.
    """
    _call("rnnfast_cuda_check", device)


def use_plans(generation: int) -> None:
    """Let the library ask for its plans anew, or go back to those of an earlier generation."""
    _library().rnnfast_cuda_use_plans(generation)


_IMAGE_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int
)
_PLAN_CALLBACK = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_char_p,
    *[ctypes.c_int64] * 3,
    *[ctypes.c_int] * 4,
)
_kept: list[object] = []


def _answer(answer: int, make: Callable[[], bytes]) -> None:
    try:
        good, data = 1, make()
    except Exception as error:  # crosses the C interface as text and is raised on the other side
        good, data = 0, f"{type(error).__name__}: {error}".encode()
    _library().rnnfast_cuda_answer(ctypes.c_void_p(answer), good, data, ctypes.c_size_t(len(data)))


def _call(name: str, *arguments: object) -> None:
    message = ctypes.create_string_buffer(4096)
    if getattr(_library(), name)(*arguments, message, ctypes.c_size_t(len(message))):
        raise DriverError(message.value.decode(errors="replace"))


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))  # loaded before, by torch
    library.rnnfast_cuda_source_name.restype = ctypes.c_char_p
    library.rnnfast_cuda_source_text.restype = ctypes.c_char_p
    library.rnnfast_cuda_decode_bytes.restype = ctypes.c_int64
    library.rnnfast_cuda_decode_bytes.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    ]
    for name in ("rnnfast_cuda_source_name", "rnnfast_cuda_source_text"):
        getattr(library, name).argtypes = [ctypes.c_size_t]
    return library
