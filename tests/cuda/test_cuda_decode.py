"""The CUDA generation kernel, emulated on the CPU: every choice checked in float64."""

import math

import pytest
import torch

from rnnfast.backends.reference import reference
from support import cuda_kernels
from support.decoding import (
    ARGMAX_LOGITS,
    SAMPLING_EDGES,
    check_greedy,
    check_sampled,
    constant_logits,
    make,
)
from support.emulator import build
from support.sweep import sweep

pytestmark = pytest.mark.skipif(build.why_not() != "", reason=build.why_not())

NO_ERROR, ERROR_ID, ERROR_TIMEOUT, ERROR_UNIFORM = 0, 1, 3, 4


class Emulated:
    """The kernel as a backend's decode: shape is RF_HP, RF_CLUSTER, RF_WARPS, RF_ROWS and
    RF_SMEM_CHUNKS."""

    def __init__(self, shape=(32, 1, 2, 1, 0), **options):
        self.options = {"shape": shape, **options}
        self.error = NO_ERROR

    def decode(self, d):
        rest = (d.h0, d.steps, d.temperature, d.uniforms, d.cell == "relu")
        ids, h_last, error = cuda_kernels.decode(d.first, *d.params, *rest, **self.options)
        assert error == self.error
        return ids.reshape(d.steps, len(d.first)), h_last


SHAPES = [
    (32, 1, 1, 1, 0),
    (64, 1, 4, 3, 2),  # some weights in shared memory
    (64, 2, 2, 1, 0),
    (128, 4, 2, 2, 3),
    (128, 16, 1, 1, 0),
    (128, 8, 2, 1, 0),
    (0, 1, 2, 1, 0),  # streamed
    (0, 8, 2, 3, 0),
]
SIZES = [(1, 1, 1, 2), (1, 31, 28, 6), (3, 30, 50, 5), (5, 17, 5, 4)]  # B, H, V, steps


@pytest.mark.parametrize("seed", sweep([0, 1, 2], 0))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("B", "H", "V", "steps"), SIZES)
def test_agrees_with_float64(B, H, V, steps, shape, seed):
    model = make(B, H, V, relu=seed == 1)
    emulated = Emulated(shape, seed=seed, resident=seed + 1, holds=seed < 2)
    check_greedy(model, *model.decode(steps, backend=emulated))
    u = torch.rand(steps, B, dtype=torch.float64)
    check_sampled(model, u, 0.7, *model.decode(steps, 0.7, u, backend=emulated))


@pytest.mark.parametrize(
    ("shape", "H", "V"),
    [
        ((64, 1, 4, 1, 0), 64, 28),
        ((256, 4, 8, 1, 0), 256, 28),
        ((512, 16, 4, 1, 2), 509, 28),
        ((64, 4, 2, 2, 0), 64, 1000),
        ((0, 16, 2, 1, 0), 120, 300),
    ],
)
def test_of_real_size(shape, H, V):
    model = make(2, H, V)
    check_greedy(model, *model.decode(4, backend=Emulated(shape, seed=3)))


@pytest.mark.parametrize("logits", ARGMAX_LOGITS)
def test_argmax_is_torchs(logits):
    want = torch.tensor(logits).argmax().item()
    for shape in ((32, 1, 1, 1, 0), (32, 2, 1, 1, 0)):
        ids, _ = constant_logits(logits).decode(3, backend=Emulated(shape))
        assert ids.flatten().tolist() == [want] * 3


@pytest.mark.parametrize(("logits", "u"), SAMPLING_EDGES)
def test_sampling_at_the_edges_is_the_references(logits, u):
    model, uniforms = constant_logits(logits), torch.full((2, 1), u, dtype=torch.float64)
    want = model.decode(2, 1.0, uniforms.float(), reference)[0]
    for shape in ((32, 1, 1, 1, 0), (32, 2, 1, 1, 0)):
        got = model.decode(2, 1.0, uniforms, Emulated(shape))[0]
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    ("logit", "u", "want"),
    [
        (-37.25, 1 - 2**-53, 7),  # each is lost in the sum, all three are not
        (-21.5, 1 - 1.5 * math.exp(-21.5), 6),  # each is lost in a float32 sum
    ],
)
def test_sampling_where_a_sum_rounds(logit, u, want):
    """Five classes of a lane: three have little beside the 1 of the lane before, two nothing."""
    logits = torch.full((100,), -math.inf)
    logits[0], logits[5:8] = 0.0, logit
    model, uniforms = constant_logits(logits.tolist()), torch.full((2, 1), u, dtype=torch.float64)
    ids, _ = model.decode(2, 1.0, uniforms, Emulated((32, 1, 1, 1, 0)))
    assert ids.flatten().tolist() == [want] * 2


@pytest.mark.parametrize("shape", [(64, 1, 4, 1, 0), (0, 2, 2, 1, 0)])
def test_weights_that_are_aligned_to_nothing(shape):
    model = make(2, 32, 28)
    for name in ("W_xh", "W_hh", "b_h", "W_hq", "b_q", "h0"):
        value = getattr(model, name)
        setattr(model, name, torch.cat((torch.zeros(1), value.flatten()))[1:].view(value.shape))
    check_greedy(model, *model.decode(4, backend=Emulated(shape, holds=False)))


def test_a_planted_bug_of_alignment_is_found():
    model = make(1, 32, 28)
    model.W_hq = torch.randn(1 + 32 * 28)[1:].view(32, 28)
    bug = ("decode_products.cuh", " && reinterpret_cast<unsigned long long>(matrix) % 16 == 0", "")
    with pytest.raises(build.EmulationError, match="misaligned"):
        model.decode(1, backend=Emulated((64, 1, 4, 1, 0), holds=False, bug=bug))


def test_no_steps():
    model = make(3, 8, 5)
    _, h_last = model.decode(0, backend=Emulated((32, 2, 1, 1, 0)))
    assert torch.equal(h_last, model.h0)


@pytest.mark.parametrize("first", [-1, 5, 2**40])
def test_reports_an_id_out_of_range(first):
    model, emulated = make(3, 8, 5), Emulated()
    model.first[1], emulated.error = first, ERROR_ID
    ids, _ = model.decode(4, backend=emulated)
    assert ((ids >= 0) & (ids < 5)).all()


@pytest.mark.parametrize("u", [-0.1, 1.0, float("nan")])
def test_reports_a_uniform_number_out_of_range(u):
    model, emulated = make(1, 8, 5), Emulated()
    emulated.error = ERROR_UNIFORM
    ids, _ = model.decode(2, 1.0, torch.full((2, 1), u, dtype=torch.float64), emulated)
    assert ((ids >= 0) & (ids < 5)).all()


def test_a_wait_that_does_not_end_is_reported():
    bug = ("decode.cu", "if (lane < RF_CLUSTER) send", "if (lane == 0) send")
    model, emulated = make(1, 20, 9), Emulated((32, 2, 2, 1, 0), bug=bug, wait_limit=10**6)
    emulated.error = ERROR_TIMEOUT
    model.decode(5, backend=emulated)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_block_leaves_while_one_that_waits_longer_sends_to_it(seed):
    emulated = Emulated((64, 4, 2, 1, 0), seed=seed, wait_limit=0)
    emulated.error = ERROR_TIMEOUT
    make(1, 60, 9).decode(5, backend=emulated)


# Blocks of several warps; and two blocks, the second of which has no logits and its h from the
# second warp of the first.
SCHEDULED = [((64, 4, 4, 1, 0), 60, 9, 6), ((128, 2, 2, 2, 0), 100, 3, 10)]  # shape, H, V, steps


def check(**options):
    for shape, H, V, steps in SCHEDULED:
        model = make(2, H, V)
        for seed in range(1, 13):
            emulated = Emulated(shape, seed=seed, **options)
            check_greedy(model, *model.decode(steps, backend=emulated))


BUGS = {
    "h W_hh kept once": ("(step % 2) * kRows * layout_.columns", "0"),
    "no wait for h": ("expired = expired || !wait(kHidden, step);", ""),
    "no wait for the logits": ("expired = expired || !wait(kLogits, step);", ""),
    "too few bytes announced": ("return 4 * kRows *", "return -16 + 4 * kRows *"),
    "announced once": ("threadIdx.x == 0 && step + 1 < p_.steps", "false"),
    "mbarriers used before they are": ("      cluster_barrier();\n    } else {", "    } else {"),
    "no barrier after the choice": ("if (__syncthreads_or(expired)) break;", ""),
    "sent to the own block alone": ("in_block(to, rank), value", "in_block(to, rank_), value"),
}


def test_the_check_of_the_planted_bugs_passes_without_one():
    check()


@pytest.mark.parametrize("name", BUGS)
def test_finds_a_planted_bug(name):
    with pytest.raises((AssertionError, build.EmulationError)):
        check(bug=("decode.cu", *BUGS[name]), wait_limit=10**6)


TWO_BLOCKS = cuda_kernels.decode_options((128, 2, 2, 2, 0))  # each sends from two warps


def test_no_thread_races_another():
    assert build.races("decode", "decode", TWO_BLOCKS) == ""


KEPT_ONCE = {"h": ("(step % 2) * kRows * layout_.hidden", "0"), "ids": ("step % 2 * kRows", "0")}


@pytest.mark.parametrize("name", KEPT_ONCE)
def test_the_sanitizer_names_what_few_schedules_show(name):
    assert "data race" in build.races(
        "decode", "decode", TWO_BLOCKS, ("decode.cu", *KEPT_ONCE[name])
    )
