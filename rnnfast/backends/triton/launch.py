"""How a kernel is launched: on its tensors' device, with the same arithmetic in every version."""

import contextlib
import functools
import math
from typing import Any

import torch
import triton
from torch import Tensor

from rnnfast.backends.triton import is_interpreted


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """kernel[grid](*args, **options) on the device and the current stream of the first tensor.

    An empty grid is no launch. Triton 3.10 stops fusing a * b + c unless asked for.
    """
    if not math.prod(grid):
        return
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    if not is_interpreted():
        options["enable_fp_fusion"] = True
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **options)


def padded(size: int) -> int:
    """The power of two that a block of `size` elements takes; 16 is the least that tl.dot takes."""
    return max(16, int(triton.next_power_of_2(size)))


def dot_precision(dtype: torch.dtype) -> str:
    """tl.dot's input_precision under torch.set_float32_matmul_precision."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


@functools.cache
def shared_memory(device: torch.device) -> int:
    """KiB that one program may have: 99 on some GPUs, 163 or 227 on those of data centres."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 227  # in the interpreter; or asked where there is no GPU
    limits = torch.cuda.get_device_properties(device)
    # AMD's have no larger limit to opt in to
    return (
        int(getattr(limits, "shared_memory_per_block_optin", limits.shared_memory_per_block)) >> 10
    )
