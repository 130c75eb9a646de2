"""The exchange between blocks: bugs planted into it are found, and no thread races another."""

import pytest

from support.emulator import build
from support.emulator.checks import plain
from support.emulator.recurrence import FFMA, NONE, TF32, Launch, Variant
from support.problems import make
from support.sweep import sweep

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

CLUSTER = Variant(128, 4, 2, 2)
ONE_BLOCK = Variant(64, 1, 2, 2)
TENSOR_CORES = Variant(128, 2, 8, 8, product=TF32)

EXCHANGE, STEPS = "recurrence_exchange.cuh", "recurrence_steps.cuh"
INPUTS, MMA = "recurrence_inputs.cuh", "recurrence_mma.cuh"
ANNOUNCE = "mbarrier_expect(arrived_, kGroupBytes);"
BEGIN = """  if (kCluster > 1) {
    cluster_barrier();
  } else {
    __syncthreads();
  }"""

# What is wrong, the variant that shows it, and the patch.
BUGS = {
    "h is kept once": (CLUSTER, EXCHANGE, "keep_in_register(R * kStride)", "0"),
    "no bytes are announced after the first": (CLUSTER, EXCHANGE, ANNOUNCE, ";"),
    "16 bytes too few are announced": (
        CLUSTER,
        EXCHANGE,
        ANNOUNCE,
        ANNOUNCE.replace("Bytes", "Bytes - 16"),
    ),
    "16 bytes too many are announced": (
        CLUSTER,
        EXCHANGE,
        ANNOUNCE,
        ANNOUNCE.replace("Bytes", "Bytes + 16"),
    ),
    "mbarriers are used before all blocks have them": (CLUSTER, STEPS, BEGIN, "  __syncthreads();"),
    "nobody waits for h": (CLUSTER, EXCHANGE, "running_ && !is_done()", "false"),
    "waits for the wrong parity": (CLUSTER, EXCHANGE, "parity_ = (s - 1)", "parity_ = s"),
    "a warp of padding does not send": (
        CLUSTER,
        EXCHANGE,
        "if (!sends_) return;",
        "if (!sends_ || to_ % kStride >= 96) return;",
    ),
    "a block sends to all but itself": (
        CLUSTER,
        EXCHANGE,
        "const int block = first_target(lane) + i * kLanesPerValue;",
        "const int block = first_target(lane) + i * kLanesPerValue + (first_target(lane) == 0);",
    ),
    "inputs are read before they have come": (
        CLUSTER,
        INPUTS,
        "    wait_copies();\n    __syncwarp();\n    if",
        "    if",
    ),
    "one block: no barrier between steps": (
        ONE_BLOCK,
        EXCHANGE,
        "if (kCluster == 1) __syncthreads();",
        "",
    ),
    "partial sums are read before they are written": (
        TENSOR_CORES,
        MMA,
        "__syncthreads();  // also",
        "__syncwarp();  // also",
    ),
    "partial sums are kept once": (TENSOR_CORES, MMA, "turn_ ^= 1;", ""),
}  # fmt: skip
HARMLESS = (EXCHANGE, "if (kCluster > 1) cluster_barrier();", "")


def is_found(variant: Variant, patch: tuple[str, ...], seeds: int) -> bool:
    """Whether some order of threads and stores gives a wrong result or an error."""
    p = make(9, 2 * variant.rows, variant.hp - 32)
    want = plain(p)["hs"]
    for seed in range(seeds):
        launch = Launch(variant, rows=len(p.h0), seed=seed, patch=patch)
        try:
            hs, _ = launch.forward(p.x, None, p.W_hh, p.b_h, p.h0, False)
        except build.EmulationError:
            return True
        allowed = 1e-4 if variant.product == FFMA else 1e-2
        if launch.error.item() != NONE or not (hs - want).abs().max() < allowed:
            return True
    return False


@pytest.mark.parametrize("bug", sweep(BUGS, "nobody waits for h", "partial sums are kept once"))
def test_a_planted_bug_is_found(bug):
    variant, *patch = BUGS[bug]
    assert is_found(variant, tuple(patch), seeds=40)


def test_without_a_bug_nothing_is_found():
    for variant in (CLUSTER, ONE_BLOCK, TENSOR_CORES):
        assert not is_found(variant, (), seeds=10)


def test_the_last_barrier_is_not_needed_by_the_proof():
    """Every byte that a block is sent is waited for by that block, so none comes after its end."""
    assert not is_found(CLUSTER, HARMLESS, seeds=10)


def races(variant: Variant, patch: tuple[str, ...] = ()) -> str:
    return build.races("recurrence", variant.options(False, False), patch)


@pytest.mark.parametrize(
    "variant", [Variant(64, 2, 2, 2), Variant(64, 1, 4, 8, product=TF32)], ids=str
)
def test_no_thread_races_another(variant):
    assert races(variant) == ""


@pytest.mark.full
@pytest.mark.parametrize("bug", ["nobody waits for h", "h is kept once"])
def test_the_sanitizer_names_a_planted_race(bug):
    _, *patch = BUGS[bug]
    assert "data race" in races(Variant(64, 2, 2, 2), tuple(patch))
