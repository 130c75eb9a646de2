"""The recurrence of few rows in a cluster of blocks, executed on the CPU, against float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import check, plain, run
from support.emulator.clusters import Cluster, Launch
from support.emulator.recurrence import BAD_ID, TIMEOUT
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

ONE_ROW, TWO_ROWS = Cluster(128, 4, 1), Cluster(128, 2, 2)
# Weights in shared memory, several turns of sending, blocks of 2 to 12 warps.
OTHERS = [Cluster(256, 8, 2, 1), Cluster(256, 16, 2), Cluster(384, 4, 1, 3), Cluster(384, 8, 2)]
SIZES = [(Cluster(512, 16, 1), 500), (Cluster(512, 8, 2), 511), (Cluster(1024, 16, 2, 3), 999)]


@pytest.mark.parametrize("variant", [ONE_ROW, TWO_ROWS, *OTHERS], ids=str)
def test_dense_inputs(variant):
    check(Launch(variant, rows=variant.rows), make(4, 3, variant.hp))


@pytest.mark.parametrize(
    ("T", "B", "H", "rows"),
    [(1, 1, 128, 1), (1, 3, 97, 2), (2, 1, 126, 2), (9, 3, 127, 1), (20, 2, 100, 2)],
)
def test_ids_and_odd_sizes(T, B, H, rows):
    """Ids are on their way for 16 steps: less than that, and more."""
    check(Launch(TWO_ROWS, rows=rows, resident=2), make(T, B, H, V=5))


@pytest.mark.full
@pytest.mark.parametrize(("variant", "H"), SIZES, ids=str)
def test_sizes_of_the_table(variant, H):
    check(Launch(variant, rows=variant.rows), make(3, 3, H, V=7), seeds=2)


@pytest.mark.parametrize("variant", [ONE_ROW, TWO_ROWS], ids=str)
def test_relu(variant):
    check(Launch(variant, rows=variant.rows), make(4, 3, 125, V=5, relu=True))


def test_many_steps_near_spectral_radius_1():
    check(Launch(ONE_ROW, rows=1), make(60, 1, 128, radius=1.0), seeds=2)


@pytest.mark.full
def test_more_seeds():
    check(Launch(TWO_ROWS, rows=2), make(20, 2, 128, V=4), seeds=20)


def test_what_may_be_absent():
    p = replace(make(4, 3, 128), b_h=None, grad_hs=None)
    check(Launch(ONE_ROW, rows=1), p)
    p = replace(p, grad_hs=torch.randn_like(p.hs), grad_h_last=None)
    check(Launch(ONE_ROW, rows=1), p)
    dz, _ = Launch(ONE_ROW, rows=1).backward(p.grad_hs, None, p.hs, p.W_hh, need_h0=False)
    assert_close_to_f64("dz", dz, plain(p)["dz"], plain(p.to(torch.float64))["dz"])


def test_storage_that_is_aligned_to_nothing():
    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    p = make(4, 3, 128)
    values = {k: shifted(v) for k, v in vars(p).items() if isinstance(v, Tensor)}
    check(Launch(TWO_ROWS, rows=2), replace(p, **values))


def test_an_id_out_of_range_is_reported_and_taken_as_0():
    p = make(20, 2, 128, V=4)
    for bad in (-1, 4, 1 << 40):
        wrong, right = p.ids.clone(), p.ids.clone()
        wrong[13, 1], right[13, 1] = bad, 0
        launch = Launch(TWO_ROWS, rows=2)
        hs, _ = launch.forward(p.x, wrong, p.W_hh, p.b_h, p.h0)
        assert launch.error.item() == BAD_ID
        assert torch.equal(hs, run(Launch(TWO_ROWS, rows=2), replace(p, ids=right))["hs"])


def test_infinity_and_nan_stay_in_their_row():
    """H is padded: infinity times a weight of 0 must not spread from there."""
    p = make(6, 3, 125, relu=True)
    p.x[1, 0, 5], p.x[1, 1, 7] = torch.inf, torch.nan
    got, want = run(Launch(TWO_ROWS, rows=2), p)["hs"], plain(p)["hs"]
    assert got[:, 2].isfinite().all()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


def test_a_wait_that_takes_too_long_ends_the_kernel():
    p = make(20, 2, 128)
    launch = Launch(TWO_ROWS, rows=2, seed=1, wait_limit=0)
    launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0)
    assert launch.error.item() == TIMEOUT


def test_a_variant_that_cannot_be_is_refused():
    assert Cluster(512, 16, 1).shared_bytes() > 0
    for wrong in (
        Cluster(448, 8, 1),  # H is padded to a multiple of 128
        Cluster(512, 3, 1),
        Cluster(128, 32, 1),
        Cluster(512, 8, 3),
        Cluster(512, 8, 1, smem_chunks=5),  # has four
    ):
        assert wrong.shared_bytes() == -1, str(wrong)
