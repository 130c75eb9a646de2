"""The recurrence in one block, executed on the CPU: all inputs, against float64, and its bugs."""

from dataclasses import replace

import pytest
import torch

from rnnfast.backends import library
from support.compare import assert_close_to_f64
from support.emulator import build
from support.emulator.checks import check, plain, run
from support.emulator.recurrence import BAD_ID, NONE, Launch, SingleBlock
from support.problems import make

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.skipif(bool(library.load_error()), reason=library.load_error()),
]

# One warp and several, each number of lanes, h in registers and not, weights in both places, one
# row, two at once, and two turns of two.
VARIANTS = [
    SingleBlock(32, 2),
    SingleBlock(64, 4),
    SingleBlock(64, 8, rows=4),
    SingleBlock(192, 8, rows=2),
    SingleBlock(256, 16, smem_slots=5),
    SingleBlock(256, 8, rows=2, smem_slots=2),
]
SMALL, TWO_ROWS = SingleBlock(64, 4), SingleBlock(64, 4, rows=2)


@pytest.mark.parametrize("V", [None, 5])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variants(variant, V):
    check(Launch(variant), make(7, 2 * variant.rows + 1, variant.hp, V=V), seeds=2)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 5), (3, 1), (4, 2), (5, 3), (33, 2), (68, 1)])
@pytest.mark.parametrize("V", [None, 6])
@pytest.mark.parametrize(("variant", "H"), [(SMALL, 61), (TWO_ROWS, 64), (SMALL, 1)], ids=str)
def test_odd_sizes(variant, H, V, T, B):
    check(Launch(variant), make(T, B, H, V=V), seeds=2)


@pytest.mark.parametrize("V", [None, 5])
def test_relu(V):
    check(Launch(TWO_ROWS), make(6, 5, 62, V=V, relu=True))


def test_many_steps_near_spectral_radius_1():
    check(Launch(SMALL), make(300, 2, 60, radius=1.0), seeds=2)


def test_more_seeds():
    check(Launch(TWO_ROWS, resident=2), make(40, 7, 64, V=5), seeds=8)


def test_what_may_be_absent():
    p = replace(make(6, 3, 64), b_h=None, grad_hs=None)
    check(Launch(SMALL), p)
    p = replace(p, grad_hs=torch.randn_like(p.hs), grad_h_last=None)
    check(Launch(SMALL), p)
    dz, _ = Launch(SMALL).backward(p.grad_hs, None, p.hs, p.W_hh, False, need_h0=False)
    assert_close_to_f64("dz", dz, plain(p)["dz"], plain(p.to(torch.float64))["dz"])


def test_storage_that_is_aligned_to_nothing():
    def shifted(x):
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    p = make(4, 3, 64)
    values = {k: shifted(v) for k, v in vars(p).items() if isinstance(v, torch.Tensor)}
    check(Launch(SMALL), replace(p, **values))


def test_an_id_out_of_range_is_reported_and_taken_as_0():
    p = make(40, 3, 64, V=4)
    for t, bad in ((0, -1), (5, 4), (39, 1 << 40)):
        wrong, right = p.ids.clone(), p.ids.clone()
        wrong[t, 1], right[t, 1] = bad, 0
        launch = Launch(SMALL)
        hs, _ = launch.forward(p.x, wrong, p.W_hh, p.b_h, p.h0, False)
        assert launch.error.item() == BAD_ID
        assert torch.equal(hs, run(Launch(SMALL), replace(p, ids=right))["hs"])


@pytest.mark.parametrize("variant", [SMALL, TWO_ROWS], ids=str)
def test_infinity_and_nan_stay_in_their_row(variant):
    """H is padded: infinity times a weight of 0 must not spread from there."""
    p = make(6, 3, 61, relu=True)
    p.x[1, 0, 5], p.x[1, 1, 7] = torch.inf, torch.nan
    got, want = run(Launch(variant), p)["hs"], plain(p)["hs"]
    assert got[:, 2].isfinite().all()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


def test_tanh_is_within_two_units_in_the_last_place():
    """Of all z, those below 0.8 and near it, huge and tiny ones; by a step of no product."""
    z = torch.cat([torch.linspace(-12, 12, 40001), torch.linspace(-0.9, 0.9, 20001)])
    tiny = 10.0 ** torch.linspace(-38, 38, 2001)
    z = torch.cat([z, tiny, -tiny, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])])
    x = torch.zeros(1, -(-len(z) // 32), 32)
    x.view(-1)[: len(z)] = z
    nothing = torch.zeros(x.shape[1:])
    launch = Launch(SingleBlock(32, 2))
    hs, _ = launch.forward(x, None, torch.zeros(32, 32), None, nothing, False)
    assert launch.error.item() == NONE
    got, want = hs.view(-1)[: len(z)], z.double().tanh()
    unit = torch.finfo(torch.float32).eps * 2.0 ** want.abs().clamp_min(1e-38).log2().floor()
    assert ((got - want).abs() / unit)[:-1].max() < 2
    assert got[-5:].tolist()[:4] == [0, 0, 1, -1]
    assert got[-1].isnan()


# ---- what is wrong is found

STEPS, INPUTS, PRODUCT = (f"single_block_{part}.cuh" for part in ("steps", "inputs", "product"))
BUGS = {
    "no barrier between steps": (STEPS, "    } else {\n      __syncthreads();\n    }", "    }"),
    "h is kept once": (STEPS, "return h_ + u % 2 * kRows * kHp;", "return h_;"),
    "padding is written": (STEPS, "if (place_.is_real) to[", "to["),
    "inputs are read before they have come": (INPUTS, "wait_copies_but<kAhead - 1>();", ""),
    "inputs are waited for a step too late": (INPUTS, "but<kAhead - 1>", "but<kAhead>"),
    "ids are those of the step before": (INPUTS, "now_[r], s);", "now_[r], s - 1);"),
    "ids of later steps are not loaded": (INPUTS, "load(r, s + 32 + first_)", "next_[r]"),
    "grad_h_last is left out": (INPUTS, "if (kBackward && p.first != nullptr) add_to_first();", ""),
    "a lane sends the wrong half of its sums": (PRODUCT, "slots[r][s + n], n)", "slots[r][s], n)"),
}


def is_found(bug):
    """Whether some order of threads and copies gives a wrong result or an error."""
    p = make(9, 3, 62, V=5, relu=True)  # infinity makes NaN in padding that is written
    p = replace(p, W_hh=p.W_hh.abs())
    p.x[3] = torch.inf
    q = make(41, 3, 62, V=5)
    for seed in range(6):
        for problem in (p, q):
            try:
                got = run(Launch(SMALL, seed=seed, patch=bug), problem)
            except (build.EmulationError, AssertionError):
                return True
            want = plain(problem)
            for name, value in got.items():
                if not torch.allclose(value, want[name], rtol=1e-3, atol=1e-4, equal_nan=True):
                    return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name):
    assert is_found(BUGS[name])


def test_without_a_bug_nothing_is_found():
    assert not is_found(())


def races(patch=()):
    return build.races("single_block", SMALL.options(False, False, True), patch)


def test_no_thread_races_another():
    assert races() == ""


def test_the_sanitizer_names_a_planted_race():
    assert "data race" in races(BUGS["no barrier between steps"])
