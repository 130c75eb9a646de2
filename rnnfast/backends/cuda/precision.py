"""How exactly the CUDA kernels multiply float32: as torch's setting or RNNFAST_CUDA_PRODUCT allows.

A product is named by how it is made: FFMA, which is IEEE float32; 3xTF32, TF32 on tensor cores with
the three products that bring it near float32; TF32; and 16-bit, of bfloat16 weights.
"""

from __future__ import annotations

import os

import torch

EXACTNESS = ("FFMA", "3xTF32", "TF32", "16-bit")  # the most exact first
# The least exact product under each torch.set_float32_matmul_precision.
_BY_TORCH = {"highest": "FFMA", "high": "TF32", "medium": "16-bit"}
_VARIABLE = "RNNFAST_CUDA_PRODUCT"


def least_exact() -> str:
    """The least exact product that is allowed; each more exact one is as well.

    Raises ValueError where RNNFAST_CUDA_PRODUCT is set to something that is no product.
    """
    chosen = os.environ.get(_VARIABLE)
    if not chosen:
        return _BY_TORCH[torch.get_float32_matmul_precision()]
    if chosen not in EXACTNESS:
        raise ValueError(f"{_VARIABLE} is {chosen!r}; it must be one of: {' '.join(EXACTNESS)}")
    return chosen


def allowed(least: str) -> tuple[str, ...]:
    """The products that are at least as exact."""
    return EXACTNESS[: EXACTNESS.index(least) + 1]


def explain() -> str:
    """The products that are allowed, and by which setting."""
    products = " or ".join(allowed(least_exact()))
    if chosen := os.environ.get(_VARIABLE):
        return f"{products} products, as {_VARIABLE}={chosen} allows"
    setting = torch.get_float32_matmul_precision()
    return f"{products} products, as torch's float32_matmul_precision {setting!r} allows"
