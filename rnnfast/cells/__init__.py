"""The cells: what one step of a recurrence computes.

z_t = u_t + h_{t-1} @ W_hh + b_h, and then h_t from act(z_t), for all units at once. A cell has a
file here, in plain torch, which defines it, and one of the same name in `csrc/cells/`, from which
the kernels of all devices are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rnnfast.cells import plain


@dataclass(frozen=True)
class Cell:
    """code: the number that names it to the operators (csrc/cells/cells.h)."""

    code: int
    activation: Callable[[Tensor], Tensor]
    # The gradient of z from that of act(z) and from act(z), so that no z has to be kept.
    backward: Callable[[Tensor, Tensor], Tensor]


CELLS = {
    "tanh": Cell(0, plain.tanh, plain.tanh_backward),
    "relu": Cell(1, plain.relu, plain.relu_backward),
    "leaky_tanh": Cell(2, plain.tanh, plain.tanh_backward),
    "leaky_relu": Cell(3, plain.relu, plain.relu_backward),
}
