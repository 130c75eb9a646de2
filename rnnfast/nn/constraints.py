"""Constraints on recurrent weights, as parametrizations.

    from torch.nn.utils.parametrize import register_parametrization
    register_parametrization(rnn, "weight_hh_l0", Dale(signs))

The layer computes a constrained weight once per call; several constraints can be registered one
after the other. In weight_hh [H, H] row i holds what unit i receives, and column j what unit j
sends.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Sparse(torch.nn.Module):
    """W = V * mask: connections that are not there, and get no gradient.

    Args:
        mask: bool, or numbers of which those that are not 0 count, of the shape of the weight.

    Raises ValueError at registration for a mask of another shape.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask != 0)

    def forward(self, V: Tensor) -> Tensor:
        """The weight [H, H] of the free parameter V [H, H]."""
        return V * self.mask

    def right_inverse(self, W: Tensor) -> Tensor:
        """The free parameter for a weight that is assigned: a copy of it."""
        if self.mask.shape != W.shape:
            raise ValueError(f"mask has shape {tuple(self.mask.shape)}, must be {tuple(W.shape)}")
        return W.clone()


class Dale(torch.nn.Module):
    """W[i, j] = |V[i, j]| * signs[j]: what a unit sends is all excitatory or all inhibitory.

    Args:
        signs: [H], of which those above 0 excite and the others inhibit.

    Raises ValueError at registration for another number of signs.
    Source: Dale's law; Song, Yang and Wang (2016), with |V| in place of max(V, 0), which would give
    no gradient to a weight that once became zero.
    """

    signs: Tensor

    def __init__(self, signs: Tensor) -> None:
        super().__init__()
        self.register_buffer("signs", signs > 0)

    def forward(self, V: Tensor) -> Tensor:
        """The weight [H, H] of the free parameter V [H, H]."""
        return torch.where(self.signs, V.abs(), -V.abs())

    def right_inverse(self, W: Tensor) -> Tensor:
        """The free parameter for a weight that is assigned: its magnitude."""
        if self.signs.shape != W.shape[1:]:
            expected = tuple(W.shape[1:])
            raise ValueError(f"signs has shape {tuple(self.signs.shape)}, must be {expected}")
        return W.abs()
