"""The Python side of csrc/cuda/: answers the launcher's questions, asks for a device's limits.

The library calls back with the name of a kernel's variant and gets its image, or with a call's
sizes and gets the variant to run; see csrc/cuda/host/callbacks.cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rnnfast.backends.cuda import image_cache, nvrtc, precision
from rnnfast.backends.library import LIBRARY


@dataclass(frozen=True)
class Limits:
    """What a device has; asked of its driver."""

    compute_capability: int  # 90
    multiprocessors: int
    shared_bytes: int  # that a block may have


@dataclass(frozen=True)
class Geometry:
    """A launch, as in csrc/cuda/host/launch.h."""

    grid: int
    cluster: int
    block: int
    shared_bytes: int


@dataclass(frozen=True)
class Question:
    """What the choice of a variant depends on, as in csrc/cuda/host/launch.h."""

    operation: str
    B: int
    H: int
    V: int
    dtype_bits: int
    cell: int  # its code in csrc/cells/cells.h
    has_options: bool  # of a recurrence: lengths, resets or a leak
    device: int
    least_exact: str  # of the products that are allowed; see precision.py
    launches: int = 1  # at the same time: 2 for the directions of a layer with both


@dataclass(frozen=True)
class Plan:
    """A kernel's variant and its launch."""

    unit: str
    kernel: str
    options: str
    geometry: Geometry
    rows: int  # of the batch per cluster
    scratch_bytes: int = 0  # of global memory, for all blocks


@dataclass(frozen=True)
class TrainingChoice:
    """What serves a training step beside the recurrence."""

    reads_out: bool
    product: int  # of csrc/cuda/host/training_choice.h

    def __str__(self) -> str:
        readout = "one kernel for readout, loss and their gradients"
        product = ("by cuBLAS", "in one kernel with those of other weights", "by 3xTF32 products")
        return (
            f"{readout if self.reads_out else 'cuBLAS around a kernel for the loss'}; "
            f"the gradient of W_hh {product[self.product]}"
        )


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
    """Let the library ask: for images here, for plans `choose`. None: step by step."""

    def image(answer: int, unit: bytes, options: bytes, capability: int) -> None:
        with _errors_answered(answer):
            made = make_image(unit.decode(), options.decode(), capability)
            _answer(answer, good=True, data=made)

    def plan(answer: int, operation: bytes, *rest: int) -> None:
        B, H, V, dtype_bits, cell, has_options, device, launches, product = rest
        with _errors_answered(answer):
            least_exact = precision.EXACTNESS[product]
            call = operation.decode(), B, H, V, dtype_bits, cell, bool(has_options)
            chosen = choose(Question(*call, device, least_exact, launches))
            if chosen is None:
                _answer(answer, good=True, data=b"")
            else:
                _answer_plan(answer, chosen)

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


def resident(plan: Plan, device: int) -> int:
    """How many clusters of a plan, or blocks where it has none, the device runs at once.

    Compiles and loads its kernel.
    """
    g, count = plan.geometry, ctypes.c_int()
    names = [text.encode() for text in (plan.unit, plan.kernel, plan.options)]
    sizes = (g.cluster, g.block, g.shared_bytes)
    _call("rnnfast_cuda_resident", *names, *sizes, device, ctypes.byref(count))
    return count.value


def training_choice(H: int, V: int, dtype_bits: int, device: int) -> TrainingChoice:
    """What serves a training step beside the recurrence; see csrc/cuda/host/training_choice.h."""
    found = [ctypes.c_int() for _ in range(2)]
    sizes = (ctypes.c_int64(H), ctypes.c_int64(V), dtype_bits // 8, device)
    _call("rnnfast_cuda_training_choice", *sizes, *map(ctypes.byref, found))
    return TrainingChoice(bool(found[0].value), found[1].value)


def needs(
    unit: str, macros: Sequence[int], H: int, V: int, found: ctypes.Array[ctypes.c_int64]
) -> bool:
    """Fills `found` with what csrc/cuda/host/shapes.cpp says; False: there is no such shape."""
    values = (ctypes.c_int * len(macros))(*macros)
    return bool(_library().rnnfast_cuda_needs(unit.encode(), values, H, V, found))


def check(device: int) -> None:
    """Raise what the kernels that have run on a device had to complain about.

    Every operator does so at its start, without waiting for the device; after a synchronisation
    this finds the errors of all calls before it.
    """
    _call("rnnfast_cuda_check", device)


def set_least_exact(product: str) -> None:
    """Let the library take plans whose products are at least as exact as this one."""
    _library().rnnfast_cuda_set_least_exact(precision.EXACTNESS.index(product))


def forget_plans() -> None:
    """Let the library ask for its plans anew: the table has changed."""
    _library().rnnfast_cuda_forget_plans()


_IMAGE_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int
)
_PLAN_CALLBACK = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_char_p,
    *[ctypes.c_int64] * 3,
    *[ctypes.c_int] * 6,
)
_kept: list[object] = []


@contextlib.contextmanager
def _errors_answered(answer: int) -> Iterator[None]:
    """An error inside crosses the C interface as text and is raised on the other side."""
    try:
        yield
    except Exception as error:
        _answer(answer, good=False, data=f"{type(error).__name__}: {error}".encode())


def _answer(answer: int, good: bool, data: bytes) -> None:
    _library().rnnfast_cuda_answer(ctypes.c_void_p(answer), good, data, ctypes.c_size_t(len(data)))


def _answer_plan(answer: int, plan: Plan) -> None:
    g = plan.geometry
    names = [text.encode() for text in (plan.unit, plan.kernel, plan.options)]
    sizes = (g.grid, g.cluster, g.block, g.shared_bytes)
    wide = map(ctypes.c_int64, (plan.rows, plan.scratch_bytes))
    _library().rnnfast_cuda_answer_plan(ctypes.c_void_p(answer), *names, *sizes, *wide)


def _call(name: str, *arguments: object) -> None:
    message = ctypes.create_string_buffer(4096)
    if getattr(_library(), name)(*arguments, message, ctypes.c_size_t(len(message))):
        raise DriverError(message.value.decode(errors="replace"))


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))  # loaded before, by torch
    library.rnnfast_cuda_needs.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    ]
    for name in ("rnnfast_cuda_source_name", "rnnfast_cuda_source_text"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_size_t]
    return library
