"""The CUDA kernels around the recurrence, emulated on the CPU, against float64."""

import math

import pytest
import torch

from rnnfast.backends.reference import reference
from support.compare import assert_close_to_f64
from support.cuda_checks import (
    check_clip,
    check_extreme_logits,
    sums_by_torch,
    torch_cross_entropy,
)
from support.cuda_kernels import clip, cross_entropy, row_sums
from support.emulator import build
from support.sweep import sweep

pytestmark = pytest.mark.skipif(build.why_not() != "", reason=build.why_not())

SEEDS = sweep([0, 1, 2], 0)
ERROR_TARGET = 2

# ---- clip_norm.cu


SHAPES = [(), (1,), (3,), (31, 33), (2048,), (2049,), (65, 64), (2, 3, 5), (0,), (4096,)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("d2l", [True, False])
def test_clip_agrees_with_float64(d2l, seed):
    for dtype in (torch.float32, torch.float64):
        for max_norm in (0.0, 0.5, 1e4):
            check_clip([torch.randn(s, dtype=dtype) for s in SHAPES], max_norm, d2l, seed=seed)


def test_clip_of_any_layout_and_mixed_dtypes():
    memory = torch.randn(5000)
    grads = [memory[1:2500], torch.randn(7, 3001).T, torch.randn(40, 90)[:, 5:77]]
    check_clip([*grads, torch.randn(70, dtype=torch.float64)], 0.5, True)


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("value", [1e25, 1e-30, math.inf, math.nan])
def test_clip_of_extreme_values(value, d2l):
    check_clip([torch.full((5,), 1.0), torch.full((2100,), value)], 1.0, d2l)


@pytest.mark.parametrize("d2l", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-7])
def test_clip_of_small_norms(value, d2l):
    """A norm of 0 that is the limit, and one that 1e-6 more doubles."""
    check_clip([torch.full((100,), value)], 5 * value, d2l)


def test_clip_does_not_touch_what_is_below_the_limit():
    grads = [torch.randn(3000), torch.tensor([-0.0])]
    before = [g.clone() for g in grads]
    clip(grads, 1e3, True)
    assert all(torch.equal(a, b) for a, b in zip(grads, before, strict=True))


def test_clip_gives_the_same_bits_for_every_schedule():
    grads = [torch.randn(9000), torch.randn(40, 50)]
    runs = []
    for seed in range(4):
        scaled = [g.clone() for g in grads]
        runs.append([clip(scaled, 0.5, True, seed=seed), *scaled])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("max_norm", [0.5, math.inf])
def test_clip_with_sgd(max_norm):
    grads = [torch.randn(s) for s in SHAPES]
    # every second one begins where nothing is aligned
    parameters = [torch.randn(g.numel() + i % 2)[i % 2 :].view_as(g) for i, g in enumerate(grads)]
    truth = [(g.double(), p.double()) for g, p in zip(grads, parameters, strict=True)]
    same = [(g.clone(), p.clone()) for g, p in zip(grads, parameters, strict=True)]
    for pairs in (truth, same):
        reference.clip_grads_([g for g, _ in pairs], max_norm, True)
        for g, p in pairs:
            p.sub_(0.7 * g)
    clip(grads, max_norm, True, parameters, lr=0.7)
    for i, (want, wide) in enumerate(zip(same, truth, strict=True)):
        assert_close_to_f64(f"grads[{i}]", grads[i], want[0], wide[0])
        assert_close_to_f64(f"parameters[{i}]", parameters[i], want[1], wide[1])


# ---- cross_entropy.cu


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("warps", [1, 8])
@pytest.mark.parametrize(("T", "B", "V"), [(1, 1, 1), (3, 5, 28), (1, 9, 33), (4, 1, 1500)])
def test_cross_entropy_agrees_with_float64(T, B, V, warps, seed):
    logits = torch.randn(T * B, V) * 5
    targets, bias = torch.randint(V, (B, T)).T, torch.randn(V)
    same = torch_cross_entropy(logits + bias, targets)
    truth = torch_cross_entropy(logits.double() + bias, targets)
    losses, error = cross_entropy(logits, targets, bias, warps=warps, seed=seed)
    assert error == 0
    assert_close_to_f64("losses", losses, same[0], truth[0])
    assert_close_to_f64("logits", logits, same[1], truth[1])


def test_cross_entropy_in_float64():
    logits, targets = torch.randn(15, 28, dtype=torch.float64), torch.randint(28, (3, 5))
    want = torch_cross_entropy(logits, targets)
    losses, _ = cross_entropy(logits, targets)
    torch.testing.assert_close((losses, logits), want)


def test_cross_entropy_of_the_loss_alone_keeps_the_logits():
    logits, targets = torch.randn(6, 10), torch.randint(10, (2, 3))
    before = logits.clone()
    want = torch_cross_entropy(logits, targets)[0]
    torch.testing.assert_close(cross_entropy(logits, targets, wants_gradient=False)[0], want)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("warps", [1, 8])
def test_cross_entropy_of_extreme_logits(warps):
    check_extreme_logits(warps)


@pytest.mark.parametrize("target", [-1, 10, 2**40])
def test_cross_entropy_reports_a_target_out_of_range(target):
    logits = torch.randn(6, 10)
    targets = torch.randint(10, (2, 3))
    targets[1, 1] = target
    losses, error = cross_entropy(logits, targets)
    assert error == ERROR_TARGET
    assert losses.isfinite().all()


# ---- row_sums.cu


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("warps", "tile", "slices"), [(1, 1, 1), (3, 1, 2), (4, 8, 1), (2, 5, 3)])
@pytest.mark.parametrize(("T", "B", "H", "V"), [(1, 1, 1, 1), (9, 5, 33, 28), (3, 70, 40, 3)])
def test_row_sums_agree_with_float64(T, B, H, V, warps, tile, slices, seed):
    x, y = torch.randn(T * B, H), torch.randn(T * B, V)
    ids = torch.randint(V, (B, T)).T
    jobs = [(x, ids, V), (x, None, 1), (y, None, 1)]
    got = row_sums(jobs, warps, tile, slices, seed)
    for i, (job, sums) in enumerate(zip(jobs, got, strict=True)):
        truth = sums_by_torch(job[0].double(), *job[1:])
        assert_close_to_f64(f"sums[{i}]", sums, sums_by_torch(*job), truth)


def test_row_sums_in_float64():
    x, ids = torch.randn(40, 35, dtype=torch.float64), torch.randint(6, (8, 5))
    for sums, *job in zip(
        row_sums([(x, ids, 6), (x, None, 1)]), (x, x), (ids, None), (6, 1), strict=True
    ):
        torch.testing.assert_close(sums, sums_by_torch(*job))


def test_row_sums_of_many_classes():
    x, ids = torch.randn(40, 35), torch.randint(3000, (8, 5))
    torch.testing.assert_close(
        row_sums([(x, ids, 3000)], warps=4, tile=64)[0], sums_by_torch(x, ids, 3000)
    )


def test_row_sums_leave_out_ids_beyond_the_table():
    x, ids = torch.randn(12, 4), torch.tensor([[-1, 5, 2**40, 1], [0, 1, 2, 3], [4, 4, 4, 4]])
    keep = ((ids >= 0) & (ids < 5)).reshape(-1)
    want = sums_by_torch(x[keep], ids.reshape(-1)[keep], 5)
    for tile in (1, 4, 8):
        torch.testing.assert_close(row_sums([(x, ids, 5)], tile=tile)[0], want)
