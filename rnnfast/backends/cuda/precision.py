"""How exactly the CUDA kernels multiply float32: as torch.set_float32_matmul_precision allows.

A product is named by how it is made: FFMA, which is IEEE float32; 2xFP16, on tensor cores, where
each factor is the sum of two float16 numbers with 22 bits; and TF32, on tensor cores, and what
keeps as many bits.
"""

from __future__ import annotations

import torch

EXACTNESS = ("FFMA", "2xFP16", "TF32")  # the most exact first
_LEAST_EXACT = {"highest": "FFMA", "high": "TF32", "medium": "TF32"}


def least_exact() -> str:
    """The least exact product that is allowed; each more exact one is as well."""
    return _LEAST_EXACT[torch.get_float32_matmul_precision()]


def is_allowed(product: str, least: str) -> bool:
    """Whether a product is at least as exact as another."""
    return EXACTNESS.index(product) <= EXACTNESS.index(least)
