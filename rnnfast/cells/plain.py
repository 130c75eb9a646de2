"""The plain cell: h_t = act(z_t), act being tanh or relu. Source: torch.nn.RNN."""

from __future__ import annotations

import torch
from torch import Tensor

tanh, relu = torch.tanh, torch.relu


def tanh_backward(grad: Tensor, h: Tensor) -> Tensor:
    """The gradient of z for that of h = tanh(z)."""
    return grad * (1 - h * h)


def relu_backward(grad: Tensor, h: Tensor) -> Tensor:
    """The gradient of z for that of h = relu(z): 0 where h is, also of an infinite gradient."""
    return torch.where(h > 0, grad, 0)
