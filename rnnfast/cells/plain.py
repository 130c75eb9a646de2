"""The plain cell: h_t = act(z_t), act being tanh or relu. Source: torch.nn.RNN."""

from __future__ import annotations

import torch
from torch import Tensor

tanh, relu = torch.tanh, torch.relu


def tanh_slope(h: Tensor) -> Tensor:
    """1 - h^2 for h = tanh(z)."""
    return 1 - h * h


def relu_slope(h: Tensor) -> Tensor:
    """1 where h = relu(z) is above 0, else 0."""
    return (h > 0).to(h.dtype)
