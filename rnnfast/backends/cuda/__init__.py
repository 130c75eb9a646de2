"""The kernels of `csrc/cuda/`, compiled at first use and launched by the library of `csrc/`.

Nothing here waits for the GPU. Ids are checked by the kernels that read them: an id out of range is
clamped, and the next call, or `check_errors` after a synchronisation, raises.

The launcher and what stands below it are imported at first use: 20 ms that a CPU never needs.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnfast.backends import Layer, library
from rnnfast.backends.compiled import Compiled
from rnnfast.backends.cuda import precision
from rnnfast.cells import CELLS

if TYPE_CHECKING:
    from rnnfast.backends.cuda.bridge import Plan, Question

# What `explain` shows.
USUAL_H, USUAL_B, USUAL_V = (64, 128, 256, 512, 1024), (1, 32, 256), 28


def is_emulated() -> bool:
    """Whether a driver that runs kernels on the CPU stands in for the real one."""
    return bool(os.environ.get("RNNFAST_CUDA_DRIVER"))


@functools.cache
def _start(emulated: bool) -> str:
    """Why this backend cannot be used here, or an empty string; starts it otherwise."""
    from rnnfast.backends.cuda import bridge, nvrtc

    if not emulated:
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if reason := nvrtc.load_error():
            return reason
    try:
        limits = bridge.limits(_current(emulated))
    except bridge.DriverError as error:
        return str(error)
    if limits.compute_capability < 80:
        return (
            f"the device has compute capability {limits.compute_capability / 10}, not 8.0 or more"
        )
    bridge.start(plan_for)
    if emulated:
        bridge.emulate()
    return ""


def _current(emulated: bool) -> int:
    return 0 if emulated else torch.cuda.current_device()


def plan_for(question: Question) -> Plan | None:
    """The kernel for a call, its clusters as the device says; None: step by step."""
    from rnnfast.backends.cuda import bridge, choose_decode, choose_recurrence

    if question.operation == "decode":
        limits = bridge.limits(question.device)
        return choose_decode.decide(
            question, limits, lambda plan: bridge.resident(plan, question.device)
        )
    choice = choose_recurrence.chosen(question)
    return choice.plan if choice else None


def _question(
    operation: str,
    B: int,
    H: int,
    V: int,
    device: torch.device,
    dtype: torch.dtype,
    cell: int = 0,
    has_options: bool = False,
    launches: int = 1,
) -> Question:
    """As the launcher asks it, under torch's precision of now."""
    from rnnfast.backends.cuda.bridge import Question

    bits, least_exact = torch.finfo(dtype).bits, precision.least_exact()
    call = operation, B, H, V, bits, cell, has_options, _index(device)
    return Question(*call, least_exact, launches)


def _index(device: torch.device) -> int:
    return device.index if device.index is not None else _current(is_emulated())


class Cuda(Compiled):
    """CUDA C++: one launch for all steps, W_hh kept on the chip. float32; float64 step by step."""

    name = device = "cuda"

    def stands_in(self) -> bool:
        return is_emulated()

    def load_error(self) -> str:
        return library.load_error() or _start(is_emulated())

    def variants(
        self, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int] | None
    ) -> list[str]:
        """The device is asked as a call asks it, so kernels may be compiled."""
        from rnnfast.backends.cuda import bridge, choose_recurrence

        setting = torch.get_float32_matmul_precision()
        exact = precision.least_exact()
        lines = [f"products as exact as {exact}, as torch's precision {setting!r} asks"]
        nets = [sizes] if sizes else [(H, USUAL_V) for H in USUAL_H]
        for H, V in nets:
            for B in USUAL_B if sizes else (32,):
                question = _question("rnn_forward", B, H, V, device, dtype)
                lines.append(f"H={H} B={B}: {choose_recurrence.explain(question)}")
        for H, V in nets:
            choice = bridge.training_choice(H, V, torch.finfo(dtype).bits, _index(device))
            lines.append(f"training H={H} V={V}: {choice}")
        return lines

    def layer_variants(self, device: torch.device, dtype: torch.dtype, layer: Layer) -> list[str]:
        from rnnfast.backends.cuda import choose_recurrence
        from rnnfast.backends.cuda.kernel_table import LEAKY_CELLS, OPERATIONS

        H, cell, has_options, directions = layer
        code = CELLS[cell].code
        call = (device, dtype, code, has_options or code in LEAKY_CELLS, directions)
        lines = []
        for operation in OPERATIONS:
            for B in USUAL_B:
                how = choose_recurrence.explain(_question(operation, B, H, 0, *call))
                lines.append(f"{operation.removeprefix('rnn_')} H={H} B={B}: {how}")
        return lines

    def check_errors(self, device: torch.device) -> None:
        from rnnfast.backends.cuda import bridge

        bridge.check(_index(device))

    def ops(self, tensor: Tensor) -> Any:
        _allow_products()
        return torch.ops.rnnfast if tensor.is_cuda else torch.ops.rnnfast_emulated


cuda = Cuda()

_least_exact = "FFMA"  # the product that the library allows


def _allow_products() -> None:
    """Have the operators take products as exact as torch is set to now."""
    global _least_exact
    least_exact = precision.least_exact()
    if least_exact != _least_exact:
        from rnnfast.backends.cuda import bridge

        bridge.set_least_exact(least_exact)
        _least_exact = least_exact


# torch.compile does so once, while tracing; see dispatch.py.
_allow_products._dynamo_marked_constant = True  # type: ignore[attr-defined]
