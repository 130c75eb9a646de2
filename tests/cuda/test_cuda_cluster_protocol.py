"""The exchange of cluster.cu: bugs planted into it are found, and no thread races another."""

import pytest

from support.emulator import build
from support.emulator.checks import plain
from support.emulator.clusters import Cluster, Launch
from support.emulator.recurrence import NONE
from support.problems import make

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

SMALL = Cluster(128, 4, 2)

STEPS, EXCHANGE, INPUTS = "cluster.cu", "cluster_exchange.cuh", "cluster_inputs.cuh"
PRODUCT = "cluster_product.cuh"
ANNOUNCE = "threadIdx.x == 0 && s + 2 <= last_) mbarrier_expect(full(s & 1), kBytes)"
WAIT = "if (running_ && !is_done(full(s & 1), (s - 1) >> 1 & 1)) running_ = false;"

BUGS = {
    "h is kept once": (EXCHANGE, "(s & 1) * kRows * kHp", "0 * kRows * kHp"),
    "nothing is announced after the first": (EXCHANGE, ANNOUNCE, "false) return"),
    "half of the bytes are announced": (
        EXCHANGE,
        ANNOUNCE,
        ANNOUNCE.replace("kBytes", "kBytes / 2"),
    ),
    "nobody waits for h": (EXCHANGE, WAIT, ""),
    "waits for the wrong parity": (EXCHANGE, WAIT, WAIT.replace("s - 1", "s")),
    "mbarriers are used before all blocks have them": (
        STEPS,
        "begin_state(p, row0, rows);\n  cluster_barrier();",
        "begin_state(p, row0, rows);\n  __syncthreads();",
    ),
    "a part is sent before it is written": (STEPS, "__syncthreads();\n    exchange", "exchange"),
    "a block sends to all but the last": (
        EXCHANGE,
        "peer(i) >= kCluster",
        "peer(i) >= kCluster - 1",
    ),
    "a row is sent in another's place": (EXCHANGE, "/ (kColumns / 4) * kHp", "/ kColumns * kHp"),
    "inputs are read before they have come": (INPUTS, "wait_copies_but<kAhead - 1>();", ""),
    "ids are read before they have come": (
        INPUTS,
        "wait_copies_but<kAhead - 1>();",
        "wait_copies_but<kAhead>();",
    ),
    "a slot holds another column": (PRODUCT, "c ^ (output.column", "c + 0 * (output.column"),
}
QUICK = ("nobody waits for h", "a part is sent before it is written")
HARMLESS = (STEPS, "cluster_barrier();  // no block leaves", "// no block leaves")


def is_found(patch: tuple[str, ...], seeds: int) -> bool:
    """Whether some order of threads, stores and copies gives a wrong result or an error."""
    p = make(12, 2, 120, V=5)
    want = plain(p)["hs"]
    for seed in range(1, seeds + 1):
        launch = Launch(SMALL, rows=2, seed=seed, patch=patch, wait_limit=10_000_000)
        try:
            hs, _ = launch.forward(p.x, p.ids, p.W_hh, p.b_h, p.h0)
        except build.EmulationError:
            return True
        if launch.error.item() != NONE or not (hs - want).abs().max() < 1e-4:
            return True
    return False


@pytest.mark.parametrize(
    "bug", [b if b in QUICK else pytest.param(b, marks=pytest.mark.full) for b in BUGS]
)
def test_a_planted_bug_is_found(bug):
    assert is_found(BUGS[bug], seeds=30)


def test_without_a_bug_nothing_is_found():
    assert not is_found((), seeds=5)


@pytest.mark.full
def test_the_last_barrier_is_not_needed_by_the_proof():
    """Every byte that a block is sent is waited for by that block, so none comes after its end."""
    assert not is_found(HARMLESS, seeds=10)


def races(patch: tuple[str, ...] = ()) -> str:
    return build.races("cluster", SMALL.options(False, False), patch)


@pytest.mark.full
def test_no_thread_races_another():
    assert races() == ""


@pytest.mark.full
@pytest.mark.parametrize("bug", ["h is kept once", "a part is sent before it is written"])
def test_the_sanitizer_names_a_planted_race(bug):
    assert "data race" in races(BUGS[bug])
