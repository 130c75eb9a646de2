"""The exchange of large_batch.cu: bugs planted into it are found, and no thread races another."""

from dataclasses import replace

import pytest
import torch

from support.emulator import build
from support.emulator.checks import plain
from support.emulator.clusters import LargeBatch, Launch
from support.emulator.recurrence import NONE
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

SMALL = LargeBatch(256, rows=8)

STEPS, EXCHANGE = "large_batch.cu", "large_batch_exchange.cuh"
PRODUCT, PTX = "large_batch_product.cuh", "large_batch_ptx.cuh"
ANNOUNCE = "if (running_ && announces) mbarrier_expect(arrived, state_.slice_bytes());"
MULTIPLY = "if (!kBackward || s > 0) product.multiply(state, exchange, s);"
WAIT = "if (running_ && !is_done(arrived, (s - 1) >> 1 & 1)) running_ = false;"

BUGS = {
    "h is kept once": (STEPS, "state.slice(~s & 1, rank)", "state.slice(s & 1, rank)"),
    "nothing is announced after the first": (EXCHANGE, ANNOUNCE, ""),
    "16 bytes too few are announced": (
        EXCHANGE,
        ANNOUNCE,
        ANNOUNCE.replace("_bytes()", "_bytes() - 16"),
    ),
    "nobody waits for h": (EXCHANGE, WAIT, ""),
    "waits for the wrong parity": (EXCHANGE, WAIT, WAIT.replace("s - 1", "s")),
    "mbarriers are used before all blocks have them": (
        STEPS,
        "begin_state(p, state, own);\n  cluster_barrier();",
        "begin_state(p, state, own);\n  __syncthreads();",
    ),
    "partial sums are read before they are written": (
        STEPS,
        f"{MULTIPLY}\n    __syncthreads();",
        MULTIPLY,
    ),
    "a slice is sent before it is written": (
        STEPS,
        "fence_async();\n    __syncthreads();\n",
        "fence_async();\n",
    ),
    "nobody waits for the products": (PRODUCT, "multiply_wait(chain);", ""),
    "a slice goes where another block's belongs": (
        EXCHANGE,
        "copy_to_block(in_block(slice, block)",
        "copy_to_block(in_block(state_.slice(buffer, rank_ ^ 1), block)",
    ),
    "a row has the factor of another": (PRODUCT, "factors[min(row(i), rows_ - 1)]", "factors[0]"),
}
QUICK = ("nobody waits for h", "partial sums are read before they are written")
HARMLESS = (STEPS, "cluster_barrier();  // no block leaves", "// no block leaves")


def is_found(patch: tuple[str, ...], seeds: int) -> bool:
    """Whether some order of threads, copies and products gives a wrong result or an error."""
    p = make(4, 3, 250)
    p.grad_hs.mul_(torch.tensor([1.0, 1e3, 1e-3])[:, None])
    want = plain(replace(p, grad_h_last=None))
    for seed in range(1, seeds + 1):
        launch = Launch(SMALL, rows=3, seed=seed, patch=patch, wait_limit=10_000_000)
        try:
            hs, _ = launch.forward(p.x, None, p.W_hh, p.b_h, p.h0)
            dz, _ = launch.backward(p.grad_hs, None, p.hs, p.W_hh)
        except build.EmulationError:
            return True
        for got, value in (hs, want["hs"]), (dz, want["dz"]):
            if not ((got - value).abs() <= 1e-4 * value.abs().amax((0, 2), keepdim=True)).all():
                return True
        if launch.error.item() != NONE:
            return True
    return False


@pytest.mark.parametrize(
    "bug", [b if b in QUICK else pytest.param(b, marks=pytest.mark.full) for b in BUGS]
)
def test_a_planted_bug_is_found(bug):
    assert is_found(BUGS[bug], seeds=8)


def test_without_a_bug_nothing_is_found():
    assert not is_found((), seeds=2)


@pytest.mark.full
def test_the_last_barrier_is_not_needed_by_the_proof():
    """Every byte that a block is sent is waited for by that block, so none comes after its end."""
    assert not is_found(HARMLESS, seeds=4)


def races(patch: tuple[str, ...] = ()) -> str:
    return build.races("large_batch", SMALL.options(False, False), patch)


@pytest.mark.full
def test_no_thread_races_another():
    assert races() == ""


@pytest.mark.full
@pytest.mark.parametrize("bug", ["h is kept once", "partial sums are read before they are written"])
def test_the_sanitizer_names_a_planted_race(bug):
    assert "data race" in races(BUGS[bug])
