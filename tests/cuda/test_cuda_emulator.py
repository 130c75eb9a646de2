"""The CUDA recurrence, executed on the CPU: every tier, both directions, against float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import FP32, TENSOR_CORES, check, plain, run
from support.emulator.recurrence import BAD_ID, TF32, TIMEOUT, Launch, Variant
from support.problems import make
from support.sweep import sweep

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())


def test_the_reference_here_is_the_reference():
    p = make(5, 3, 8, V=4)
    hs, h_last = untyped.rnn_forward(reference, p.x, p.ids, p.W_hh, p.b_h, p.h0, p.relu)
    p = replace(p, hs=hs)
    dz, _, _, grad_h0 = untyped.rnn_backward(
        reference, p.grad_hs, p.grad_h_last, hs, None, 0, p.W_hh, p.h0, p.relu, False, False, True
    )
    mine = plain(p)
    for name, value in {"hs": hs, "h_last": h_last, "dz": dz, "grad_h0": grad_h0}.items():
        torch.testing.assert_close(mine[name], value)


@pytest.mark.parametrize("variant", sweep(FP32, FP32[0], FP32[5]), ids=str)
def test_ffma(variant):
    check(Launch(variant, rows=2 * variant.rows), make(4, 3 * variant.rows, variant.hp))


@pytest.mark.parametrize("variant", sweep(TENSOR_CORES, TENSOR_CORES[1]), ids=str)
def test_tensor_cores(variant):
    check(Launch(variant, rows=2 * variant.rows), make(4, 3 * variant.rows, variant.hp - 3))


@pytest.mark.parametrize(
    ("T", "B", "H", "rows"),
    [(1, 1, 128, 1), (1, 7, 97, 3), (2, 1, 126, 5), (7, 5, 127, 2), (6, 9, 100, 4)],
)
@pytest.mark.parametrize("variant", [FP32[5], TENSOR_CORES[1]], ids=str)
def test_odd_sizes(variant, T, B, H, rows):
    check(Launch(variant, rows=rows), make(T, B, H, V=5))


@pytest.mark.parametrize(("variant", "H"), [(FP32[0], 1), (FP32[1], 33), (FP32[3], 65)], ids=str)
def test_odd_states_in_one_block(variant, H):
    check(Launch(variant, rows=3, resident=2), make(3, 7, H, V=6))


@pytest.mark.parametrize(
    "variant", sweep([FP32[3], FP32[4], TENSOR_CORES[1]], FP32[4], TENSOR_CORES[1]), ids=str
)
def test_relu(variant):
    check(Launch(variant, rows=variant.rows), make(4, 5, variant.hp - 2, V=5, relu=True))


@pytest.mark.parametrize("variant", sweep([FP32[2], TENSOR_CORES[0]], FP32[2]), ids=str)
def test_many_steps_near_spectral_radius_1(variant):
    check(Launch(variant, rows=variant.rows), make(200, 3, 60, radius=1.0), seeds=2)


@pytest.mark.full
def test_more_seeds():
    """The orders of all threads and stores are many; some more of them."""
    check(Launch(FP32[4], rows=16), make(6, 16, 128), seeds=8)


def test_what_may_be_absent():
    p = replace(make(4, 3, 64), b_h=None, grad_hs=None)
    check(Launch(FP32[2]), p)
    p = replace(p, grad_hs=torch.randn_like(p.hs), grad_h_last=None)
    check(Launch(FP32[2]), p)
    dz, _ = Launch(FP32[2]).backward(p.grad_hs, None, p.hs, p.W_hh, False, need_h0=False)
    assert_close_to_f64("dz", dz, plain(p)["dz"], plain(p.to(torch.float64))["dz"])


def test_storage_that_is_aligned_to_nothing():
    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    p = make(4, 3, 64)
    values = {k: shifted(v) for k, v in vars(p).items() if isinstance(v, Tensor)}
    assert values["x"].data_ptr() % 16 == 4
    check(Launch(FP32[2]), replace(p, **values))


def test_an_id_out_of_range_is_reported_and_taken_as_0():
    p = make(5, 3, 64, V=4)
    for bad in (-1, 4, 1 << 40):
        wrong, right = p.ids.clone(), p.ids.clone()
        wrong[2, 1], right[2, 1] = bad, 0
        launch = Launch(FP32[2])
        hs, _ = launch.forward(p.x, wrong, p.W_hh, p.b_h, p.h0, False)
        assert launch.error.item() == BAD_ID
        assert torch.equal(hs, run(Launch(FP32[2]), replace(p, ids=right))["hs"])


@pytest.mark.parametrize("variant", [FP32[1], FP32[2], TENSOR_CORES[0]], ids=str)
def test_infinity_and_nan_stay_in_their_row(variant):
    """H is padded: infinity times a weight of 0 must not spread from there."""
    p = make(6, 3, 61, relu=True)
    p.x[1, 0, 5], p.x[1, 1, 7] = torch.inf, torch.nan
    got, want = run(Launch(variant), p)["hs"], plain(p)["hs"]
    assert got[:, 2].isfinite().all()
    assert not got[~want.isfinite()].isfinite().any()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("variant", [FP32[4], TENSOR_CORES[1]], ids=str)
def test_a_wait_that_takes_too_long_ends_the_kernel(variant):
    p = make(20, 16, 128)
    launch = Launch(variant, rows=16, seed=1, wait_limit=0)
    launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    assert launch.error.item() == TIMEOUT


def test_tf32_error_is_what_its_mantissa_gives():
    """Both factors are rounded by at most 2^-11 of themselves, the sum by 2^-23 a term."""
    p = make(1, 8, 128)
    hs, _ = Launch(TENSOR_CORES[3], rows=8).forward(p.x, None, p.W_hh, p.b_h, p.h0, False)
    wide = p.to(torch.float64)
    sums = wide.h0.abs() @ wide.W_hh.abs()
    bound = (2**-10 + 2**-22 + 128 * 2**-23) * sums + 4 * 2**-24
    assert ((hs[0] - plain(wide)["hs"][0]).abs() <= bound).all()


def test_a_variant_that_cannot_be_is_refused():
    assert Variant(512, 16, 8, 1).is_valid()
    for wrong in (
        Variant(96, 1, 2, 1),  # H is padded to 32, 64 or a multiple of 128
        Variant(512, 3, 8, 1),
        Variant(512, 16, 16, 1),  # two columns per warp
        Variant(128, 1, 4, 1, smem_chunks=2),  # has one chunk
        Variant(128, 1, 4, 1, product=TF32),  # eight rows at least
    ):
        assert not wrong.is_valid(), str(wrong)
