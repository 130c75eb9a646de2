"""Numbers of any size on the tensor cores of large_batch.cu, on the CPU, against float64."""

from dataclasses import replace

import pytest
import torch

from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import check, plain, run
from support.emulator.recurrence import Launch, large_batch
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

SMALL = large_batch(256, rows=8)  # the smallest cluster: 4 blocks


def test_gradients_of_any_size():
    """float16 has a range of its own; each row, in each step, is scaled into it."""
    p = make(4, 5, 256)
    sizes = torch.tensor([1e-38, 1e-20, 0.0, 1.0, 1e30])
    p = replace(p, grad_hs=p.grad_hs * sizes[:, None], grad_h_last=None)
    got = run(Launch(SMALL), p)
    same, truth = plain(p), plain(p.to(torch.float64))
    for row in range(5):  # each to its own size
        for name in ("dz", "grad_h0"):
            at = name, got[name][..., row, :], same[name][..., row, :], truth[name][..., row, :]
            assert_close_to_f64(*at)


def test_first_states_and_weights_of_any_size():
    p = make(2, 3, 256)
    p.h0.mul_(torch.tensor([1e6, 1.0, 1e-30])[:, None])
    p.W_hh[:, :8] *= torch.tensor([1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e30, 0.0, 1.0])
    hs, _ = Launch(SMALL).forward(p.x, None, p.W_hh, p.b_h, p.h0)
    assert_close_to_f64("hs", hs, plain(p)["hs"], plain(p.to(torch.float64))["hs"])


def test_states_of_any_size():
    """Those of relu have no bound: each row has a factor of its own, by all of its columns."""
    p = make(3, 3, 256, relu=True)
    sizes = torch.tensor([1e-6, 1.0, 1e6])[:, None]
    p = replace(p, x=p.x * sizes, h0=p.h0 * sizes, b_h=None)
    p.x[0, 1, 33] = 1e3  # much larger than all others of its row
    hs, _ = Launch(SMALL).forward(p.x, None, p.W_hh, None, p.h0, relu=True)
    same, truth = plain(p)["hs"], plain(p.to(torch.float64))["hs"]
    for row in range(3):
        assert_close_to_f64("hs", hs[:, row], same[:, row], truth[:, row])


@pytest.mark.parametrize("buffers", [1, 2])
def test_infinity_and_nan_are_where_float32_has_them(buffers):
    p = make(3, 6, 250)
    p.W_hh[3, 5], p.W_hh[7, 9], p.W_hh[4, 70] = torch.inf, -torch.inf, torch.nan
    p.h0[1, 2], p.h0[2, 3], p.h0[2, 9] = torch.inf, torch.inf, -torch.inf
    p.x[1, 3, 5], p.x[0, 4, 8] = torch.nan, torch.inf
    p.grad_hs[1, 3, 5], p.grad_hs[2, 4, 8] = torch.nan, torch.inf
    got = run(Launch(large_batch(256, rows=8, buffers=buffers)), p)
    same, truth = plain(p), plain(p.to(torch.float64))
    for name, value in got.items():
        assert torch.equal(value.isnan(), same[name].isnan()), name
        assert torch.equal(value.isposinf(), same[name].isposinf()), name
        assert_close_to_f64(name, value, same[name], truth[name])


@pytest.mark.full
def test_clusters_that_run_at_once_do_not_share_their_scratch():
    variant, p = large_batch(256, rows=1, buffers=1, multicasts=1), make(8, 2, 250)
    launch = Launch(variant, resident=2)
    check(launch, p)
    shared = "large_batch_exchange.cuh", "int>(blockIdx.x)", "int>(rank_)"
    with pytest.raises(AssertionError, match="differs with seed"):
        check(replace(launch, patch=shared), p, seeds=6)
