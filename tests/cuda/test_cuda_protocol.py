"""How threads and blocks wait for each other: planted bugs are found, no thread races another."""

from dataclasses import replace

import pytest

from support.emulator import build
from support.emulator.checks import plain, run
from support.emulator.planted import PROTOCOLS
from support.emulator.recurrence import Launch, large_batch, needs_of
from support.sweep import sweep

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())


def is_near(got, want):
    """To 1e-4 of the row's largest; infinity and NaN where they belong."""
    largest = want.masked_fill(~want.isfinite(), 0).abs().amax((0, -1), keepdim=True)
    near = (got - want).abs() <= 1e-4 * largest
    return (near | (got == want) | (got.isnan() & want.isnan())).all()


def is_found(protocol, patch=(), seeds=None):
    """Whether some order of threads, stores, copies and products gives a wrong result or error."""
    for p in protocol.problems():
        want = plain(p)
        for seed in range(seeds or protocol.seeds):
            options = {"seed": seed, "patch": patch, "wait_limit": 10_000_000}
            try:
                got = run(Launch(protocol.variant, **options), p)
            except (build.EmulationError, AssertionError):
                return True
            if not all(is_near(value, want[name]) for name, value in got.items()):
                return True
    return False


def cases():
    """(unit, bug), all but the quick ones with --full."""
    every = [(unit, bug) for unit, protocol in PROTOCOLS.items() for bug in protocol.bugs]
    return sweep(every, *(each for each in every if each[1] in PROTOCOLS[each[0]].quick))


@pytest.mark.parametrize(("unit", "bug"), cases())
def test_a_planted_bug_is_found(unit, bug):
    assert is_found(PROTOCOLS[unit], PROTOCOLS[unit].bugs[bug])


@pytest.mark.parametrize("unit", PROTOCOLS)
def test_without_a_bug_nothing_is_found(unit):
    assert not is_found(PROTOCOLS[unit], seeds=3)


@pytest.mark.full
@pytest.mark.parametrize("unit", [unit for unit in PROTOCOLS if PROTOCOLS[unit].harmless])
def test_the_last_barrier_is_not_needed_by_the_proof(unit):
    """Every byte that a block is sent is waited for by that block, so none comes after its end."""
    assert not is_found(PROTOCOLS[unit], PROTOCOLS[unit].harmless, seeds=5)


def races(protocol, patch=(), has_options=False):
    variant, needs = protocol.variant, needs_of(protocol.variant, False)
    launch = {
        "STEPS": protocol.steps,
        "CLUSTERS": 2,
        "CLUSTER": variant.cluster,
        "ROWS": variant["ROWS"],
        "SHARED_BYTES": needs.shared_bytes,
        "SCRATCH_BYTES": needs.scratch_bytes,
    }
    options = [f"-D{name}={value}" for name, value in launch.items()]
    options.append(variant.recurrence_options("rnn_forward", 0, has_options)[-1])
    return build.races(variant.unit, "recurrence", " ".join(options), patch)


@pytest.mark.full
@pytest.mark.parametrize("unit", PROTOCOLS)
def test_no_thread_races_another(unit):
    assert races(PROTOCOLS[unit]) == ""
    if PROTOCOLS[unit].variant.runs_on(90, has_options=True):
        assert races(PROTOCOLS[unit], has_options=True) == ""


@pytest.mark.full
def test_a_slice_stays_in_global_memory_until_all_have_it():
    """By the sanitizer: hardly any order of copies shows the race."""
    twice = replace(PROTOCOLS["large_batch"], variant=large_batch(256, 3, multicasts=1))
    assert races(twice) == ""
    once = "large_batch_exchange.cuh", "(block * kBuffers + buffer)", "block"
    assert "data race" in races(twice, once)


@pytest.mark.full
@pytest.mark.parametrize(
    ("unit", "bug"), [(unit, bug) for unit in PROTOCOLS for bug in PROTOCOLS[unit].races]
)
def test_the_sanitizer_names_a_planted_race(unit, bug):
    assert "data race" in races(PROTOCOLS[unit], PROTOCOLS[unit].bugs[bug])
