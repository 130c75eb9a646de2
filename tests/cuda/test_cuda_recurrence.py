"""What every kernel of the recurrence does alike, executed on the CPU, against float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rnnfast.backends.reference import reference
from support import untyped
from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import backwards, check, plain, run
from support.emulator.recurrence import (
    BAD_ID,
    TIMEOUT,
    Launch,
    cluster,
    large_batch,
    name_of,
    single_block,
)
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

# One, two and four rows of a cluster; tensor cores; one and two rows of a block.
TENSOR_CORES = [large_batch(256, 3), large_batch(256, 3, buffers=1, multicasts=1)]
CLUSTERS = [cluster(128, 4, 1), cluster(128, 2, 2), cluster(128, 4, 4), *TENSOR_CORES]
KERNELS = [*CLUSTERS, single_block(64, 4), single_block(64, 4, rows=2)]
every_kernel = pytest.mark.parametrize("variant", KERNELS, ids=name_of)


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


@every_kernel
def test_dense_inputs(variant):
    launch = Launch(variant)
    check(launch, make(4, launch.rows + 1, variant.hp), seeds=2)


@pytest.mark.parametrize(
    ("T", "B", "odd", "V"),
    [(1, 1, 0, 5), (1, 5, 31, None), (2, 1, 2, 5), (9, 3, 1, None), (20, 2, 28, 5)],
)
@every_kernel
def test_odd_sizes(variant, T, B, odd, V):
    """Inputs and ids are on their way for up to 16 steps: less than that, and more."""
    check(Launch(variant, resident=2), make(T, B, variant.hp - odd, V=V), seeds=2)


@pytest.mark.parametrize("V", [None, 5])
@every_kernel
def test_time_that_runs_backwards(variant, V):
    """The same bits as of the sequence turned round."""
    p = make(5, 3, variant.hp - 1, V=V)
    got, want = run(Launch(variant, reverse=True), p), run(Launch(variant), backwards(p))
    for name in ("hs", "dz"):
        assert torch.equal(got[name], want[name].flip(0)), name
    for name in ("h_last", "grad_h0"):
        assert torch.equal(got[name], want[name]), name


@pytest.mark.parametrize(
    ("T", "B", "odd", "half"), [(5, 3, 1, 0), (5, 3, 2, 1), (1, 1, 0, 1), (4, 9, 31, 1)]
)
@every_kernel
def test_half_of_each_row(variant, T, B, odd, half):
    """The same bits as of rows that have nothing else, and the other half stays as it is."""
    p = make(T, B, variant.hp - odd)
    got, want = (run(Launch(variant, half=each), p) for each in (half, None))
    for name, value in want.items():
        assert torch.equal(got[name], value), name
    for name in ("hs", "dz"):
        assert got[name]._base.chunk(2, -1)[1 - half].isnan().all(), name


@every_kernel
def test_relu(variant):
    check(Launch(variant), make(4, 3, variant.hp - 3, V=5, relu=True), seeds=2)


@every_kernel
def test_many_steps_near_spectral_radius_1(variant):
    check(Launch(variant), make(60, 1, variant.hp - 4, radius=1.0), seeds=1)


@pytest.mark.full
@every_kernel
def test_more_seeds(variant):
    """The orders of all threads and stores are many; some more of them."""
    launch = Launch(variant)
    check(launch, make(10, launch.rows, variant.hp, V=4), seeds=8)


@every_kernel
def test_what_may_be_absent(variant):
    p = replace(make(4, 3, variant.hp), b_h=None, grad_hs=None)
    check(Launch(variant), p, seeds=1)
    p = replace(p, grad_hs=torch.randn_like(p.hs), grad_h_last=None)
    check(Launch(variant), p, seeds=1)
    dz, _ = Launch(variant).backward(p.grad_hs, None, p.hs, p.W_hh, need_h0=False)
    assert_close_to_f64("dz", dz, plain(p)["dz"], plain(p.to(torch.float64))["dz"])


@every_kernel
def test_storage_that_is_aligned_to_nothing(variant):
    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    p = make(3, 3, variant.hp)
    values = {k: shifted(v) for k, v in vars(p).items() if isinstance(v, Tensor)}
    assert values["x"].data_ptr() % 16 == 4
    check(Launch(variant), replace(p, **values), seeds=1)


@pytest.mark.parametrize(("t", "bad"), [(0, -1), (5, 4), (13, 1 << 40)])
@every_kernel
def test_an_id_out_of_range_is_reported_and_taken_as_0(variant, t, bad):
    p = make(14, 2, variant.hp, V=4)
    wrong, right = p.ids.clone(), p.ids.clone()
    wrong[t, 1], right[t, 1] = bad, 0
    launch = Launch(variant)
    hs, _ = launch.forward(p.x, wrong, p.W_hh, p.b_h, p.h0)
    assert launch.error.item() == BAD_ID
    assert torch.equal(hs, run(Launch(variant), replace(p, ids=right))["hs"])


@every_kernel
def test_infinity_and_nan_stay_in_their_row(variant):
    """H is padded: infinity times a weight of 0 must not spread from there."""
    p = make(6, 3, variant.hp - 3, relu=True)
    p.x[1, 0, 5], p.x[1, 1, 7] = torch.inf, torch.nan
    got, want = run(Launch(variant), p)["hs"], plain(p)["hs"]
    assert got[:, 2].isfinite().all()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("variant", CLUSTERS, ids=name_of)
def test_a_wait_that_takes_too_long_ends_the_kernel(variant):
    launch = Launch(variant, seed=1, wait_limit=0)
    p = make(20, launch.rows, variant.hp)
    launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0)
    assert launch.error.item() == TIMEOUT


@pytest.mark.parametrize(
    "wrong",
    [
        cluster(448, 8, 1),  # H is padded to a multiple of 128
        cluster(512, 3, 1),
        cluster(128, 32, 1),
        cluster(512, 8, 3),
        cluster(512, 8, 1, smem_chunks=5),  # has four
        large_batch(384, 12),  # a group of warps has the parts of whole blocks
        large_batch(512, 21),  # the largest tile has 40 rows for two halves
        large_batch(512, 12, product=3),
        large_batch(1024, 12),  # more shared memory than there is
        large_batch(1024, 20, buffers=1, multicasts=1),
        large_batch(512, 8, buffers=3),
        large_batch(512, 8, multicasts=2),
        single_block(64, 3),
        single_block(64, 4, rows=3),
    ],
    ids=name_of,
)
def test_a_variant_that_cannot_be_is_refused(wrong):
    assert all(right.needs(False, False) for right in KERNELS)
    assert wrong.needs(False, False) is None
