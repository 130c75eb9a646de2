"""Lengths, resets and leaky cells in the kernels of the recurrence, executed on the CPU."""

import pytest
import torch

from support.emulator import build
from support.emulator.options import NO_ID, Kernels, check, run
from support.emulator.params import params
from support.emulator.planted_options import BUGS, QUICK
from support.emulator.recurrence import BAD_ID, Launch, cluster, name_of, single_block
from support.recurrences import make
from support.sweep import sweep

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

KERNELS = [single_block(64, 4), single_block(64, 4, rows=2), cluster(128, 4, 1), cluster(128, 2, 2)]
every_kernel = pytest.mark.parametrize(
    "variant", sweep(KERNELS, KERNELS[1], KERNELS[3]), ids=name_of
)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
by_ids = pytest.mark.parametrize("V", [None, 5], ids=["dense", "ids"])

LENGTHS = [[7, 5, 5, 2, 1], [4, 4, 4], [1, 1, 1], [9], [6, 1, 1, 1, 1, 1]]
of_lengths = pytest.mark.parametrize("lengths", sweep(LENGTHS, LENGTHS[0]), ids=str)


def case_of(variant, lengths=None, T=6, B=3, odd=3, **options):
    """Some lengths, or T steps of B sequences."""
    T, B = (T, B) if lengths is None else (lengths[0], len(lengths))
    return make(T, B, variant.hp - odd, lengths=lengths, **options)


def with_resets(case, resets):
    return case._replace(call=case.call._replace(resets=resets))


@by_ids
@both_ways
@of_lengths
@every_kernel
def test_lengths(variant, lengths, reverse, V):
    check(Launch(variant), case_of(variant, lengths, V=V, reverse=reverse))


def resets_of(T, B):
    """Some at random; the first and the last step; steps side by side; all rows, and always."""
    none = torch.zeros(T, B, dtype=torch.bool)
    random, ends, adjacent, rows = none.clone(), none.clone(), none.clone(), none.clone()
    random[:] = torch.rand(T, B) < 1 / 3
    ends[0, 0] = ends[-1, -1] = adjacent[2:5, 0] = rows[3] = True
    return [random, ends, adjacent, rows, ~none]


@pytest.mark.parametrize("to_h0", [False, True], ids=["to zero", "to h0"])
@both_ways
@pytest.mark.parametrize("cell", sweep(["tanh", "leaky_tanh"], "leaky_tanh"))
@every_kernel
def test_resets(variant, cell, reverse, to_h0):
    V = 5 if reverse else None
    case = case_of(variant, V=V, cell=cell, reverse=reverse, resets_to_h0=to_h0)
    for resets in resets_of(6, 3):
        check(Launch(variant), with_resets(case, resets), seeds=1)


@both_ways
@pytest.mark.parametrize("cell", sweep(["leaky_tanh", "leaky_relu"], "leaky_tanh"))
@every_kernel
def test_leaky_cells(variant, cell, reverse):
    case = case_of(variant, cell=cell, reverse=reverse)
    check(Launch(variant), case)
    for leak in (0.0, 1.0):
        call = case.call._replace(leak=torch.full_like(case.call.leak, leak))
        check(Launch(variant), case._replace(call=call), seeds=1)


@pytest.mark.parametrize("cell", sweep(["tanh", "relu", "leaky_tanh", "leaky_relu"], "leaky_tanh"))
@pytest.mark.parametrize("to_h0", [False, True], ids=["to zero", "to h0"])
@both_ways
@every_kernel
def test_all_at_once(variant, reverse, to_h0, cell):
    options = {"reverse": reverse, "resets": True, "resets_to_h0": to_h0, "cell": cell}
    check(Launch(variant, resident=2), case_of(variant, LENGTHS[0], V=5, **options))


@both_ways
@every_kernel
def test_what_is_looked_up_turns_of_steps_ahead(variant, reverse):
    """Of the tables of steps, a warp has 32 at a time."""
    options = {"reverse": reverse, "resets": True, "resets_to_h0": True, "cell": "leaky_tanh"}
    for lengths, V in (([99, 97, 66], 5), ([65, 64], None), ([33, 32, 31], 5)):
        check(Launch(variant), case_of(variant, lengths, V=V, **options), seeds=1)


@both_ways
@every_kernel
def test_a_last_step_that_is_in_a_turn_of_its_own(variant, reverse):
    """Of 33: backwards, the state before it is reset, and no other."""
    case = case_of(variant, T=33, cell="leaky_tanh", reverse=reverse)
    resets = torch.zeros(33, 3, dtype=torch.bool)
    resets[-1 if reverse else 0, 1] = True
    check(Launch(variant), with_resets(case, resets), seeds=1)


def test_the_gradient_of_a_leak_of_many_steps():
    """A sum of equal terms, step by step, would lose more than is allowed."""
    variant = single_block(32, 2)
    case = case_of(variant, T=500, B=1, cell="leaky_tanh")
    call = case.call._replace(x=torch.full_like(case.call.x, 0.3))
    case = case._replace(call=call, grad_hs=torch.ones_like(case.grad_hs))
    check(Launch(variant), with_resets(case, torch.ones(500, 1, dtype=torch.bool)), seeds=1)


@every_kernel
def test_one_step_and_one_sequence(variant):
    for cell in ("tanh", "leaky_tanh"):
        case = case_of(variant, T=1, B=1, odd=63 if variant.hp == 64 else 5, cell=cell)
        check(Launch(variant), with_resets(case, torch.ones(1, 1, dtype=torch.bool)), seeds=1)


@by_ids
@both_ways
@every_kernel
def test_rows_that_do_not_exist_are_not_touched(variant, reverse, V):
    case = case_of(variant, [7, 5, 5, 2, 1], V=V, reverse=reverse, cell="leaky_tanh", resets=True)
    check(Launch(variant), case, padded=True, seeds=1)
    check(Launch(variant, half=1), case, seeds=1)


@both_ways
@every_kernel
def test_what_may_be_absent(variant, reverse):
    case = case_of(variant, [5, 3, 3], cell="leaky_tanh", resets=True, reverse=reverse)
    check(Launch(variant), case._replace(grad_hs=None), seeds=1)
    check(Launch(variant), case._replace(grad_h_last=None), seeds=1)
    check(Launch(variant), case._replace(call=case.call._replace(b_h=None)), seeds=1)
    everything, kernels = run(Launch(variant), case), Kernels(Launch(variant), case)
    hs, h_last, saved = kernels.forward(saves=False)
    assert saved is None
    assert torch.equal(hs, everything["hs"])
    assert torch.equal(h_last, everything["h_last"])
    gradients = kernels.backward(hs, everything["saved"], needs=False)
    assert list(gradients) == ["dz"]
    assert torch.equal(gradients["dz"], everything["dz"])


@by_ids
@every_kernel
def test_a_call_without_options_has_the_bits_of_the_plain_kernel(variant, V):
    case = case_of(variant, T=37, V=V)
    r = case.call
    got, plain = run(Launch(variant), case), Launch(variant)
    hs, h_last = plain.forward(r.x, r.ids, r.W_hh, r.b_h, r.h0)
    dz, grad_h0 = plain.backward(case.grad_hs, case.grad_h_last, hs, r.W_hh)
    for name, value in {"hs": hs, "h_last": h_last, "dz": dz, "grad_h0": grad_h0}.items():
        assert torch.equal(got[name], value), name


@every_kernel
def test_an_id_out_of_range_is_reported(variant):
    case = case_of(variant, [5, 3, 3], V=5)
    case.call.ids[-1] = NO_ID
    kernels = Kernels(Launch(variant), case)
    with pytest.raises(AssertionError):
        kernels.forward()
    assert kernels.launch.error.item() == BAD_ID


@every_kernel
def test_nan_stays_in_its_row(variant):
    """A reset ends it; a row that holds its state keeps it from the others."""
    case = case_of(variant, [6, 4, 2], cell="leaky_tanh", reverse=True)
    case.call.x[[0, -1]] = torch.nan  # of sequence 0, in its last step backwards and its first one
    resets = torch.zeros(6, 3, dtype=torch.bool)
    resets[4] = True
    got = run(Launch(variant), with_resets(case, resets))
    assert got["hs"][-1].isnan().all()
    assert got["hs"][1:-1].isfinite().all()
    assert got["h_last"][0].isnan().all()
    assert got["h_last"][1:].isfinite().all()


def test_threads_behind_the_last_element_touch_nothing():
    """In the kernels of a step and of the states before them: of 256 threads, 12 or 60 have one."""

    def launch(unit, kernel, name, **values):
        options = "-DRF_REAL=float -DRF_CELL=0"
        geometry = {"grid": 1, "cluster": 1, "block": 256, "shared_bytes": 0, "seed": 0}
        build.Unit(unit, options, kernel).launch(kernel, params(name, **values), **geometry)

    sizes, step = {"H": 4, "row": 4}, {"rows": 3, "rows_after": 3}
    x, product, grad_hs, h0, dz, state = (torch.randn(3, 4) for _ in range(6))
    hs = product.clone()
    steps = {"rows": 3, "x": x, "hs": hs, "state": state}
    launch("streamed", "step_forward", "StepForwardParams", **sizes, **steps)
    torch.testing.assert_close(hs, (x + product).tanh())
    assert torch.equal(state, hs)
    given = {"grad_hs": grad_hs, "grad_h_last": h0, "product": product, "activity": hs, "dz": dz}
    launch("streamed", "step_backward", "StepBackwardParams", **sizes, **step, **given)
    torch.testing.assert_close(dz, (grad_hs + product) * (1 - hs * hs))

    hs, before = (torch.randn(5, 3, 4) for _ in range(2))
    sizes |= {"T": 5, "B": 3, "options": params("RecurrenceOptionsParams", way=1)}
    states = {"h0": h0, "hs": hs, "before": before}
    launch("states_before", "states_before", "StatesBeforeParams", **sizes, **states)
    assert torch.equal(before, torch.cat([h0[None], hs[:-1]]))


# The parts of the table that these do not have: one warp, four rows, weights in shared memory.
OTHERS = [
    single_block(32, 2),
    single_block(64, 8, rows=4),
    single_block(192, 8),
    single_block(256, 16, smem_slots=5),
    single_block(256, 8, rows=2, smem_slots=2),
    cluster(256, 8, 2, 1),
    cluster(384, 8, 1),
]


@by_ids
@both_ways
@pytest.mark.parametrize("variant", sweep(OTHERS, OTHERS[1]), ids=name_of)
def test_other_variants(variant, reverse, V):
    options = {"reverse": reverse, "resets": True, "resets_to_h0": True, "cell": "leaky_tanh"}
    check(Launch(variant), case_of(variant, [9, 8, 8, 2, 1], V=V, **options))


def check_everything(launch):
    """What shows every planted bug: turns, unequal lengths, either way, both kinds of resets."""
    lengths = [71, 70, 68, 2, 1]
    for reverse in (True, False):
        options = {"V": 5, "reverse": reverse, "resets": True, "cell": "leaky_tanh"}
        case = case_of(launch.variant, lengths, **options)
        case.call.resets[[0, 70], [0, 0]] = True
        check(launch, case, seeds=1, padded=True)
        check(launch, case._replace(call=case.call._replace(resets_to_h0=True)), seeds=1)


@pytest.mark.parametrize("variant", [single_block(64, 4, rows=2), cluster(128, 2, 2)], ids=name_of)
def test_without_a_bug_nothing_is_found(variant):
    check_everything(Launch(variant))


@pytest.mark.parametrize("bug", sweep(BUGS, *QUICK))
def test_a_planted_bug_is_found(bug):
    variant, patch = BUGS[bug]
    with pytest.raises((AssertionError, build.EmulationError)):
        check_everything(Launch(variant, patch=patch))
