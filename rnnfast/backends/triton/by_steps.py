"""The recurrence where W_hh does not fit one program: a matrix product for each step.

Two launches a step, forward and backward: torch's product with its sum, and what is elementwise.
"""

import torch
from torch import Tensor

from rnnfast.backends import Recurrence
from rnnfast.backends.triton import embedding


def forward(
    r: Recurrence,
    hs: Tensor,  # [T, B, H], or [T + 1, B, H] to have h0 first
    h_last: Tensor,  # [B, H], may be h0
) -> None:
    """Fills hs and h_last."""
    T = (r.x if r.ids is None else r.ids).shape[0]
    if hs.shape[0] > T:
        hs[0].copy_(r.h0)
        hs = hs[1:]
    if r.ids is not None:
        embedding.gather(r.x, r.ids, r.b_h, hs)
    elif r.b_h is None:
        hs.copy_(r.x)
    else:
        torch.add(r.x, r.b_h, out=hs)
    h = r.h0
    for z in hs.unbind(0):
        z.addmm_(h, r.W_hh)
        h = z.relu_() if r.cell == "relu" else z.tanh_()
    h_last.copy_(h)


def backward(
    grad_hs: Tensor | None,  # [T, B, H]
    grad_h_last: Tensor | None,  # [B, H]
    hs: Tensor,  # [T, B, H]
    W_hh: Tensor,  # [H, H]
    relu: bool,
    dz: Tensor,  # [T, B, H]
    grad_h0: Tensor | None,  # [B, H]
) -> None:
    """Fills dz and, where it is given, grad_h0."""
    # All at once before the loop, in which each launch counts; of relu, where it is 0.
    slope = ~(hs > 0) if relu else torch.addcmul(hs.new_ones(()), hs, hs, value=-1)
    dz.zero_() if grad_hs is None else dz.copy_(grad_hs)
    if grad_h_last is not None:
        dz[-1] += grad_h_last
    after: Tensor | None = None
    for d, s in zip(reversed(dz.unbind(0)), reversed(slope.unbind(0)), strict=True):
        if after is not None:
            d.addmm_(after, W_hh.T)
        after = d.masked_fill_(s, 0) if relu else d.mul_(s)
    if grad_h0 is not None:
        torch.mm(dz[0], W_hh.T, out=grad_h0)
