"""Which variant of the recurrence's kernels runs: by the table, and by what the device says."""

import dataclasses
import itertools

import pytest

from rnnfast.backends import library
from rnnfast.backends.cuda import choose_recurrence, kernel_table
from rnnfast.backends.cuda.bridge import Limits, Question
from rnnfast.backends.cuda.kernel_table import OPERATIONS, Cycles
from rnnfast.backends.cuda.precision import EXACTNESS

H100 = Limits(90, 132, 227 * 1024)
A100 = Limits(80, 108, 163 * 1024)
SMALL = Limits(89, 20, 99 * 1024)
RTX5090 = Limits(120, 170, 99 * 1024)

pytestmark = pytest.mark.skipif(bool(library.load_error()), reason=library.load_error())


def recurrences():
    return [variant for variant in kernel_table.table() if variant.unit != "decode"]


def question(H, B, operation="rnn_forward", **changes):
    plain = Question(
        operation, B, H, 28, 32, cell=0, has_options=False, device=0, least_exact="FFMA"
    )
    return dataclasses.replace(plain, **changes)


def test_every_row_of_the_table_is_a_shape_of_its_kernel():
    assert len(recurrences()) >= 10
    for variant in recurrences():
        for operation in OPERATIONS:
            needs = variant.needs(operation == "rnn_backward", False)
            assert needs is not None, variant
            assert needs.shared_bytes <= H100.shared_bytes, variant
        assert variant.least_capability >= (90 if variant.cluster > 1 else 80)
    assert len(set(recurrences())) == len(recurrences())


def test_kernels_with_options_run_up_to_where_they_spill():
    row = {"unit": "single_block", "HP": 64, "LANES": 4, "ROWS": 1}
    variant = kernel_table.from_row({**row, "most_capability_with_options": 90})
    assert [variant.runs_on(each, has_options=True) for each in (75, 80, 90, 100)] == [0, 1, 1, 0]
    assert variant.runs_on(100)


def test_what_has_the_instructions_of_one_device_runs_on_no_later_one():
    """What multiplies large batches takes wgmma, of 9.0 alone."""
    large = [variant for variant in recurrences() if variant.unit == "large_batch"]
    assert large
    for variant in large:
        assert [variant.runs_on(each) for each in (89, 90, 100, 120)] == [0, 1, 0, 0], variant


@pytest.mark.parametrize("limits", [H100, A100, SMALL, RTX5090])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_plan_covers_the_batch_and_fits_the_device(operation, limits):
    for H in (1, 31, 64, 100, 256, 300, 512, 700, 1000, 1024):
        for B in (1, 2, 7, 32, 100, 1000):
            asked = question(H, B, operation, least_exact="TF32")
            for choice in choose_recurrence.candidates(asked, limits, {}):
                g, v = choice.plan.geometry, choice.variant
                assert v.hp >= H
                scratch_bytes = v.needs(operation == "rnn_backward", False).scratch_bytes
                assert choice.plan.scratch_bytes == g.grid * scratch_bytes
                assert g.grid % g.cluster == 0
                assert g.grid // g.cluster == -(-B // choice.plan.rows)
                assert g.shared_bytes <= limits.shared_bytes
                assert g.cluster == 1 or limits.compute_capability >= 90


def products_of(least_exact, cell=0):
    """Of all that is chosen for some sizes, where this is allowed and all that is more exact."""
    sizes = itertools.product((64, 256, 384, 512, 768, 1024), (1, 32, 128, 256, 1000))
    asked = (question(*size, least_exact=least_exact, cell=cell) for size in sizes)
    chosen = [choose_recurrence.decide(each, H100) for each in asked]
    return {best.variant.product for best in chosen if best}


def test_products_are_as_exact_as_is_asked_for():
    relu = 1
    assert products_of("FFMA", relu) == {"FFMA"}
    assert products_of("TF32") == {"FFMA", "2xFP16", "TF32"}


def test_a_bounded_state_is_multiplied_in_pairs_where_that_is_faster():
    assert products_of("FFMA") == {"FFMA", "2xFP16"}
    assert choose_recurrence.decide(question(512, 1), H100).variant.product == "FFMA"
    assert choose_recurrence.decide(question(512, 128), H100).variant.product == "2xFP16"


def test_a_less_exact_product_is_chosen_where_it_is_faster():
    for H, B in itertools.product((128, 256, 512, 1024), (1, 8, 32, 128, 256)):
        times = [choose_recurrence.by_steps(question(H, B), H100)]
        for least_exact in EXACTNESS:
            best = choose_recurrence.decide(question(H, B, least_exact=least_exact), H100)
            times.append(best.microseconds if best else times[0])
        assert times == sorted(times, reverse=True), (H, B)


def test_every_row_of_the_table_wins_for_some_call():
    """On the device it was measured on; else it is not worth its kernels."""
    batches = [2**i for i in range(11)]
    calls = itertools.product(
        {v.hp for v in recurrences()},
        batches,
        OPERATIONS,
        EXACTNESS,
        kernel_table.CELLS,
        (False, True),
    )
    asked = [
        question(H, B, operation, least_exact=each, cell=cell, has_options=has_options)
        for H, B, operation, each, cell, has_options in calls
    ]
    chosen = [choose_recurrence.decide(each, H100) for each in asked]
    assert {best.variant for best in chosen if best} == set(recurrences())


@pytest.mark.parametrize(("H", "clusters"), [(64, False), (128, False), (512, True), (1024, True)])
def test_small_nets_fit_one_block(H, clusters):
    assert (choose_recurrence.decide(question(H, 32), H100).variant.cluster > 1) == clusters


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("cell", range(4))
def test_a_call_with_options_takes_a_kernel_that_knows_them(cell, operation):
    options = {"cell": cell, "has_options": True}
    for H, B in itertools.product((64, 256, 384, 512, 1024), (1, 8, 32, 256)):
        for choice in choose_recurrence.candidates(question(H, B, operation, **options), H100, {}):
            assert choice.variant.runs_on(H100.compute_capability, has_options=True)
            assert "-DRF_OPTIONS=1" in choice.plan.options
            assert "without options" in str(choice)
            needs = choice.variant.needs(operation == "rnn_backward", cell > 1)
            assert choice.plan.geometry.shared_bytes == needs.shared_bytes
    for H, unit in ((64, "single_block"), (512, "cluster")):
        asked = question(H, 1, operation, **options)
        assert choose_recurrence.decide(asked, H100).variant.unit == unit
    assert choose_recurrence.decide(question(512, 1000, operation, **options), H100) is None


def test_what_no_kernel_serves_goes_step_by_step():
    assert choose_recurrence.decide(question(4096, 32), H100) is None
    assert choose_recurrence.decide(question(1024, 32), A100) is None
    assert choose_recurrence.chosen(question(64, 32, dtype_bits=64)) is None


@pytest.mark.parametrize(
    ("asked", "limits", "why"),
    [
        (question(64, 1, dtype_bits=64), H100, "no kernel for all steps is of float64"),
        (question(1025, 1), H100, "W_hh does not fit on the chip"),
        (question(1024, 1), A100, "no kernel for all steps fits a device of 8.0"),
        (question(512, 1000, has_options=True), H100, " us, against a cluster of "),
    ],
)
def test_why_a_call_goes_step_by_step(asked, limits, why):
    assert why in choose_recurrence._why_by_steps(asked, limits)


def test_the_device_decides_how_many_clusters_run():
    asked = []

    def none_of_16(plan):
        asked.append(plan)
        return 0 if plan.geometry.cluster == 16 else 15

    best = choose_recurrence.decide(question(512, 1), H100, none_of_16)
    assert best.variant.cluster < 16
    assert best.resident == 15
    assert len(asked) == len({plan.options for plan in asked})  # nothing is asked twice
    one = choose_recurrence.decide(question(512, 32), H100, lambda plan: 1)
    many = choose_recurrence.decide(question(512, 32), H100, lambda plan: 30)
    assert one is None or one.waves * one.plan.rows >= 32
    slowest = choose_recurrence.by_steps(question(512, 32), H100)
    assert many.microseconds < (one.microseconds if one else slowest)


def test_until_a_device_is_asked_it_runs_as_many_clusters_for_its_size_as_an_h100():
    half = dataclasses.replace(H100, multiprocessors=66)
    whole, halved = (
        list(choose_recurrence.candidates(question(300, 1), limits, {})) for limits in (H100, half)
    )
    assert {choice.variant.cluster for choice in whole} >= {4, 8, 16}
    assert [choice.resident // 2 for choice in whole] == [choice.resident for choice in halved]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("H", "B"), [(64, 128), (512, 16), (512, 64), (1024, 8), (1024, 128)])
def test_two_directions_share_the_device(H, B, operation):
    """They take what twice the batch does, of which a launch has half."""
    both = choose_recurrence.decide(question(H, B, operation, launches=2), H100)
    double = choose_recurrence.decide(question(H, 2 * B, operation), H100)
    one = choose_recurrence.decide(question(H, B, operation), H100)
    assert both.variant is double.variant
    assert both.microseconds == double.microseconds > one.microseconds
    clusters = 2 * both.plan.geometry.grid // both.variant.cluster
    assert clusters <= both.waves * both.resident
    steps, twice = (
        choose_recurrence.by_steps(question(H, B, operation, launches=each), H100)
        for each in (1, 2)
    )
    assert twice == 2 * steps


def test_clusters_that_run_at_once_share_the_rows():
    """Of up to 4 rows: where there is room for more clusters, each has fewer."""
    variant = next(v for v in recurrences() if v.cluster > 1 and v["ROWS"] == 4)
    for B, rows, clusters in ((7, 1, 7), (31, 3, 11), (60, 4, 15), (61, 3, 21)):
        choice = choose_recurrence.fit(variant, question(variant.hp, B), H100, 15)
        assert choice.plan.rows == rows
        assert choice.plan.geometry.grid == clusters * variant.cluster


def test_blocks_that_share_a_multiprocessor_share_its_time():
    """1024 blocks are 8 on each multiprocessor."""
    row = {"unit": "single_block", "HP": 64, "LANES": 4, "ROWS": 1}
    variant = kernel_table.from_row({**row, "cycles": {"90": {"rnn_forward": [100.0, 300.0]}}})
    for B, cycles in ((1, 400), (256, 400), (1024, 800)):
        choice = choose_recurrence.fit(variant, question(64, B), H100, 9999)
        assert choice.microseconds * choose_recurrence.CYCLES_PER_US == pytest.approx(cycles)
    in_clusters = kernel_table.from_row(
        {"unit": "cluster", "HP": 512, "CLUSTER": 8, "ROWS": 4, "cycles": variant.cycles}
    )
    for B, cycles in ((16, 400), (50, 400), (80, 500)):  # 5 blocks on each
        choice = choose_recurrence.fit(in_clusters, question(512, B), H100, B)
        assert choice.microseconds * choose_recurrence.CYCLES_PER_US == pytest.approx(cycles)
    # where they do not, there are as many waves
    assert choose_recurrence.fit(variant, question(64, 1024), H100, 132).waves == 8


@pytest.mark.parametrize("limits", [H100, A100, RTX5090])
def test_the_kernels_of_a_device_are_those_that_it_may_run(limits):
    """`python -m rnnfast build` compiles these; a call that takes another would wait for it."""
    found = kernel_table.kernels(limits.compute_capability)
    assert all(each.shared_bytes <= limits.shared_bytes for each in found)
    units = {variant.unit for variant in recurrences()}
    known = {(each.unit, each.options) for each in found if each.unit in units}
    cells = [*((cell, False) for cell in kernel_table.CELLS), *((cell, True) for cell in range(4))]
    chosen = set()
    for operation, (cell, has_options), V in itertools.product(OPERATIONS, cells, (0, 28)):
        options = {"cell": cell, "has_options": has_options, "V": V, "least_exact": "TF32"}
        asked = question(1, 1, operation, **options)
        for choice in choose_recurrence.candidates(asked, limits, {}):
            chosen.add((choice.plan.unit, choice.plan.options))
    assert chosen == known


def test_what_was_measured_where_is_told():
    row = {"unit": "single_block", "HP": 64, "LANES": 4, "ROWS": 1}
    measured = kernel_table.from_row({**row, "cycles": {"90": {"rnn_forward": [1.0, 2.0]}}})
    prototype = {"prototype": {"rnn_forward": [3.0, 4.0], "rnn_backward": [5.0, 6.0]}}
    predicted = kernel_table.from_row({**row, "cycles": prototype})
    both = kernel_table.from_row({**row, "cycles": measured.cycles | prototype})
    sizes = kernel_table.from_row({**row, "cycles": {"other sizes": {"rnn_forward": [1.0, 2.0]}}})
    assert measured.cycles_of("rnn_forward", 90).source == "measured"
    elsewhere = "not measured on this device; on one of 9.0"
    assert measured.cycles_of("rnn_forward", 80).source == elsewhere
    source = "predicted, from a prototype on an H100"
    assert predicted.cycles_of("rnn_forward", 90).source == source
    assert both.cycles_of("rnn_forward", 100).source == elsewhere
    assert both.cycles_of("rnn_backward", 90) == Cycles(source, 5.0, 6.0)
    two = {"80": {"rnn_forward": [7.0, 8.0]}, **measured.cycles}
    two = kernel_table.from_row({**row, "cycles": two})
    assert two.cycles_of("rnn_forward", 90) == Cycles("measured", 1.0, 2.0)
    assert measured.cycles_of("rnn_backward", 90) is None
    for variant, told in (
        (measured, "measured)"),
        (predicted, f"{source})"),
        (sizes, "predicted, from other sizes of a prototype on an H100)"),
    ):
        choice = choose_recurrence.fit(variant, question(64, 1), H100)
        assert f"us a step ({told}" in str(choice)


def test_measured_cycles_decide(monkeypatch):
    slow = choose_recurrence.decide(question(512, 32), H100)
    cycles = {"90": {"rnn_forward": [1.0, 1.0]}}
    fastest = dataclasses.replace(slow.variant, cycles=cycles)
    others = [variant for variant in recurrences() if variant != slow.variant]
    monkeypatch.setattr(choose_recurrence, "table", lambda: (fastest, *others))
    fast = choose_recurrence.decide(question(512, 32), H100)
    assert fast.variant is fastest
    assert fast.microseconds < 0.02 * slow.microseconds
    backward = choose_recurrence.decide(question(512, 32, "rnn_backward"), H100)
    assert backward.variant is not fastest
    assert backward.microseconds > 10 * fast.microseconds
