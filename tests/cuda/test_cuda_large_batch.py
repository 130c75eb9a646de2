"""The recurrence for large batches on tensor cores, executed on the CPU, against float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import check, plain, run
from support.emulator.clusters import LargeBatch, Launch
from support.emulator.recurrence import BAD_ID, TIMEOUT
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

SMALL = LargeBatch(256, rows=8)  # the smallest cluster: 4 blocks
AS_TF32 = LargeBatch(256, rows=16, product=1)
# Two and four blocks' parts of h for each group of warps, low halves in shared memory, every tile.
OTHERS = [
    LargeBatch(256, rows=20),
    LargeBatch(512, rows=12),
    LargeBatch(512, rows=40, product=1),
    LargeBatch(1024, rows=10),
    LargeBatch(1024, rows=24, product=1),
]


@pytest.mark.parametrize("variant", [SMALL, AS_TF32], ids=str)
def test_dense_inputs(variant):
    check(Launch(variant, rows=5), make(4, 8, 256), seeds=2)


def test_ids_and_odd_sizes():
    check(Launch(SMALL, rows=7), make(3, 7, 199, V=5), seeds=2)


def test_one_step_of_one_row():
    check(Launch(SMALL, rows=1), make(1, 1, 255), seeds=3)


@pytest.mark.full
@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_other_variants(variant):
    rows = variant.rows - 1
    check(Launch(variant, rows=rows), make(3, rows + 3, variant.hp - 3, V=7), seeds=2)


def test_relu():
    check(Launch(SMALL, rows=4), make(3, 4, 254, V=5, relu=True), seeds=1)


def test_many_steps_near_spectral_radius_1():
    check(Launch(SMALL, rows=2), make(50, 2, 250, radius=1.0), seeds=1)


@pytest.mark.full
def test_more_seeds():
    check(Launch(SMALL, rows=8), make(5, 8, 256), seeds=8)


def test_what_may_be_absent():
    p = replace(make(3, 3, 256), b_h=None, grad_hs=None)
    check(Launch(SMALL, rows=3), p, seeds=1)
    p = replace(p, grad_hs=torch.randn_like(p.hs), grad_h_last=None)
    check(Launch(SMALL, rows=3), p, seeds=1)
    dz, _ = Launch(SMALL).backward(p.grad_hs, None, p.hs, p.W_hh, need_h0=False)
    assert_close_to_f64("dz", dz, plain(p)["dz"], plain(p.to(torch.float64))["dz"])


def test_storage_that_is_aligned_to_nothing():
    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    p = make(2, 3, 256)
    values = {k: shifted(v) for k, v in vars(p).items() if isinstance(v, Tensor)}
    check(Launch(SMALL), replace(p, **values), seeds=1)


def test_an_id_out_of_range_is_reported_and_taken_as_0():
    p = make(3, 2, 256, V=4)
    wrong, right = p.ids.clone(), p.ids.clone()
    wrong[1, 1], right[1, 1] = 1 << 40, 0
    launch = Launch(SMALL)
    hs, _ = launch.forward(p.x, wrong, p.W_hh, p.b_h, p.h0)
    assert launch.error.item() == BAD_ID
    assert torch.equal(hs, run(Launch(SMALL), replace(p, ids=right))["hs"])


def test_a_wait_that_takes_too_long_ends_the_kernel():
    p = make(6, 3, 256)
    launch = Launch(SMALL, seed=1, wait_limit=0)
    launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0)
    assert launch.error.item() == TIMEOUT


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


def test_infinity_and_nan_are_where_float32_has_them():
    p = make(3, 6, 250)
    p.W_hh[3, 5], p.W_hh[7, 9], p.W_hh[4, 70] = torch.inf, -torch.inf, torch.nan
    p.h0[1, 2], p.h0[2, 3], p.h0[2, 9] = torch.inf, torch.inf, -torch.inf
    p.x[1, 3, 5], p.x[0, 4, 8] = torch.nan, torch.inf
    p.grad_hs[1, 3, 5], p.grad_hs[2, 4, 8] = torch.nan, torch.inf
    got, same, truth = run(Launch(SMALL), p), plain(p), plain(p.to(torch.float64))
    for name, value in got.items():
        assert torch.equal(value.isnan(), same[name].isnan()), name
        assert torch.equal(value.isposinf(), same[name].isposinf()), name
        assert_close_to_f64(name, value, same[name], truth[name])


def test_a_variant_that_cannot_be_is_refused():
    assert LargeBatch(512, rows=12).shared_bytes() > 0
    for wrong in (
        LargeBatch(384, rows=12),  # a group of warps has the parts of whole blocks
        LargeBatch(512, rows=21),  # the largest tile has 40 rows for two halves
        LargeBatch(512, rows=12, product=3),
        LargeBatch(1024, rows=12),  # more shared memory than there is
    ):
        assert wrong.shared_bytes() == -1, str(wrong)
