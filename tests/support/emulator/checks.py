"""The emulated recurrence against float64: what its kernels must agree with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from support.compare import assert_close_to_f64
from support.emulator.recurrence import NONE, Launch
from support.problems import Problem


def exact(x: Tensor) -> Tensor:
    return x


def to_tf32(x: Tensor) -> Tensor:  # the nearest float of 10 bits after the point
    return ((x.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def plain(p: Problem, rounded=exact) -> dict[str, Tensor]:
    """The reference's results, the factors of each product rounded before."""
    u, b_h = p.x if p.ids is None else p.x[p.ids], 0 if p.b_h is None else p.b_h
    act = torch.relu if p.relu else torch.tanh
    W, h, hs = rounded(p.W_hh), p.h0, []
    for u_t in u:
        h = act(u_t + rounded(h) @ W + b_h)
        hs.append(h)
    slope = (p.hs > 0).to(p.hs.dtype) if p.relu else 1 - p.hs * p.hs
    carry = torch.zeros_like(p.h0) if p.grad_h_last is None else p.grad_h_last
    dz = []
    for t in range(len(p.hs) - 1, -1, -1):
        dz.append((carry + (0 if p.grad_hs is None else p.grad_hs[t])) * slope[t])
        carry = rounded(dz[-1]) @ W.T
    return {"hs": torch.stack(hs), "h_last": h, "dz": torch.stack(dz[::-1]), "grad_h0": carry}


def backwards(p: Problem) -> Problem:
    """The same problem with time turned round."""
    names = ("ids", "grad_hs", "hs") if p.ids is not None else ("x", "grad_hs", "hs")
    turned = {name: getattr(p, name).flip(0) for name in names if getattr(p, name) is not None}
    return replace(p, **turned)


def run(launch: Launch, p: Problem) -> dict[str, Tensor]:
    """The same from the kernels, which must report nothing."""
    hs, h_last = launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0, p.relu)
    dz, grad_h0 = launch.backward(p.grad_hs, p.grad_h_last, p.hs, p.W_hh, p.relu)
    assert launch.error.item() == NONE
    assert grad_h0 is not None
    return {"hs": hs, "h_last": h_last, "dz": dz, "grad_h0": grad_h0}


def check(launch: Launch, p: Problem, seeds: int = 3) -> None:
    """As far from float64 as torch is, or as torch with the variant's roundings is.

    Whatever the order in which threads run and stores arrive: the same bits.
    """
    got = run(launch, p)
    rounded = plain(p, to_tf32 if launch.variant.product == "TF32" else exact)
    truth = plain(p.to(torch.float64))
    for name, value in got.items():
        assert_close_to_f64(name, value, rounded[name], truth[name])
    for seed in range(1, seeds):
        for name, value in run(launch.with_seed(seed), p).items():
            assert torch.equal(value, got[name]), f"{name} differs with seed {seed}"
