"""The emulated kernels around the recurrence against torch and the reference."""

import math
from functools import partial

import pytest
import torch

from support import clipping
from support.cuda_kernels import clip, cross_entropy
from support.emulator import build


def check_finds(check, bug, schedules):
    """`check` passes for each of some schedules, and for one of them not with the bug."""

    def check_all(**options):
        for seed in range(schedules):
            check(seed=seed, **options)

    check_all()
    with pytest.raises((AssertionError, build.EmulationError)):
        check_all(bug=bug)


def before_nan(x):
    """The same, with NaN behind it in memory."""
    return torch.cat((x.flatten(), x.new_full((1000,), math.nan)))[: x.numel()].view(x.shape)


def check_clip(grads, max_norm, d2l, **options):
    clipping.check(partial(clip, **options), grads, max_norm, d2l)


def torch_cross_entropy(logits, targets):
    logits = logits.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, targets.reshape(-1), reduction="none")
    loss.mean().backward()
    return loss.detach() / len(loss), logits.grad


def check_extreme_logits(warps, **options):
    logits = torch.randn(6, 40)
    logits[0, 7], logits[1, 3], logits[2, 4] = math.inf, math.nan, -math.inf
    logits[3] = 3e38
    logits[4] = -math.inf
    logits[5] = -3e38
    targets = torch.tensor([[7], [0], [4], [1], [0], [2]])
    want = torch_cross_entropy(logits, targets)
    losses, _ = cross_entropy(logits, targets, warps=warps, **options)
    torch.testing.assert_close(losses, want[0], equal_nan=True)
    torch.testing.assert_close(logits, want[1], equal_nan=True)


def sums_by_torch(x, ids, V):
    out = x.new_zeros(V, x.shape[1])
    return out.index_add(0, torch.zeros(len(x), dtype=int) if ids is None else ids.reshape(-1), x)
