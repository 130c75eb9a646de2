"""Which variant of the recurrence's kernel runs, by the model and by what the device says."""

import dataclasses
import itertools

import pytest

from bench.variants import calls
from rnnfast.backends import native
from rnnfast.backends.cuda import choose_recurrence
from rnnfast.backends.cuda.bridge import Limits, Question
from rnnfast.backends.cuda.kernel_table import PRODUCTS
from rnnfast.backends.cuda.precision import EXACTNESS

H200 = Limits(90, 132, 227 * 1024)
A100 = Limits(80, 108, 163 * 1024)
SMALL = Limits(89, 20, 99 * 1024)
RTX5090 = Limits(120, 170, 99 * 1024)

pytestmark = pytest.mark.skipif(bool(native.load_error()), reason=native.load_error())


def question(H, B, operation="rnn_forward", **changes):
    plain = Question(operation, B, H, 0, 32, relu=False, ids=True, device=0)
    return dataclasses.replace(plain, **changes)


def test_every_row_of_the_table_is_a_shape_of_the_kernel():
    assert len(choose_recurrence.table()) >= 10
    for variant in choose_recurrence.table():
        for operation in ("rnn_forward", "rnn_backward"):
            facts = choose_recurrence.facts_of(variant, operation)
            assert facts is not None, variant
            assert facts.fixed_bytes + facts.group_bytes <= H200.shared_bytes, variant
        assert variant.least_capability >= (90 if variant.cluster > 1 else 80)
    assert len(set(choose_recurrence.table())) == len(choose_recurrence.table())


@pytest.mark.parametrize("limits", [H200, A100, SMALL, RTX5090])
@pytest.mark.parametrize("operation", ["rnn_forward", "rnn_backward"])
def test_every_plan_covers_the_batch_and_fits_the_device(operation, limits):
    for H in (1, 31, 64, 100, 256, 300, 512, 700, 1000, 1024):
        for B in (1, 2, 7, 32, 100, 1000):
            for choice in choose_recurrence.candidates(question(H, B, operation), limits, "16-bit"):
                g, v = choice.plan.geometry, choice.variant
                assert v.hp >= H
                assert g.grid % g.cluster == 0
                assert g.grid // g.cluster == -(-B // choice.plan.rows)
                assert g.shared_bytes <= limits.shared_bytes
                groups = -(-choice.plan.rows // v.rows)
                facts = choose_recurrence.facts_of(v, operation)
                assert g.shared_bytes == facts.fixed_bytes + groups * facts.group_bytes
                assert g.block == facts.threads <= 1024
                assert g.cluster == 1 or limits.compute_capability >= 90


def products_of(least_exact, limits=H200):
    """Of all that is chosen for some sizes, where this is allowed and all that is more exact."""
    sizes = itertools.product((64, 256, 384, 512, 768, 1024), (1, 32, 128, 256, 1000))
    chosen = [choose_recurrence.decide(question(*size), limits, least_exact) for size in sizes]
    return {PRODUCTS[best.variant.product] for best in chosen if best}


def test_products_are_as_exact_as_is_asked_for():
    assert products_of("FFMA") == {"FFMA"}
    assert products_of("3xTF32") == {"FFMA", "3xTF32"}
    assert products_of("TF32") == {"FFMA", "TF32"}  # which is never slower than 3xTF32
    assert "16-bit" in products_of("16-bit")


def test_a_less_exact_product_is_chosen_where_it_is_faster():
    for H, B in itertools.product((128, 256, 512, 1024), (1, 8, 32, 128, 256)):
        times = [choose_recurrence.by_steps(question(H, B), H200)]
        for least_exact in EXACTNESS:
            best = choose_recurrence.decide(question(H, B), H200, least_exact)
            times.append(best.microseconds if best else times[0])
        assert times == sorted(times, reverse=True), (H, B)


def test_every_row_of_the_table_is_chosen_for_some_call(monkeypatch):
    """Of those for which bench/variants.py has written it, by the same model."""
    modelled = tuple(
        dataclasses.replace(variant, cycles={}) for variant in choose_recurrence.table()
    )
    monkeypatch.setattr(choose_recurrence, "table", lambda: modelled)
    chosen = {best.variant for call in calls() if (best := choose_recurrence.decide(*call))}
    assert chosen == set(modelled)


@pytest.mark.parametrize(("H", "tier"), [(64, "S"), (128, "S"), (512, "C"), (1024, "C")])
def test_tiers_on_a_device_with_clusters(H, tier):
    assert choose_recurrence.decide(question(H, 32), H200, "FFMA").variant.tier() == tier


def test_large_nets_go_step_by_step():
    assert choose_recurrence.decide(question(4096, 32), H200, "FFMA") is None
    assert choose_recurrence.decide(question(1024, 32), A100, "FFMA") is None


def test_the_device_decides_how_many_clusters_run():
    asked = []

    def none_of_16(plan):
        asked.append(plan.geometry.cluster)
        return 0 if plan.geometry.cluster == 16 else 15

    best = choose_recurrence.decide(question(512, 1), H200, "FFMA", none_of_16)
    assert best.variant.cluster < 16
    assert len(asked) == len(set(asked)) or len(asked) <= len(choose_recurrence.table())
    one = choose_recurrence.decide(question(512, 32), H200, "FFMA", lambda plan: 1)
    many = choose_recurrence.decide(question(512, 32), H200, "FFMA", lambda plan: 30)
    assert one is None or one.waves * one.plan.rows >= 32
    assert many.microseconds < (
        one.microseconds if one else choose_recurrence.by_steps(question(512, 32), H200)
    )


def test_measured_cycles_win_over_the_model(monkeypatch):
    slow = choose_recurrence.decide(question(512, 32), H200, "FFMA")
    measured = dataclasses.replace(slow.variant, cycles={"90": {"rnn_forward": [1.0, 1.0]}})
    others = [v for v in choose_recurrence.table() if v != slow.variant]
    monkeypatch.setattr(choose_recurrence, "table", lambda: (measured, *others))
    fast = choose_recurrence.decide(question(512, 32), H200, "FFMA")
    assert fast.variant is measured
    assert fast.microseconds < 0.02 * slow.microseconds
    backward = choose_recurrence.decide(question(512, 32, "rnn_backward"), H200, "FFMA")
    assert backward.microseconds > 10 * fast.microseconds


def test_padded_sizes_are_those_of_the_kernel():
    assert [choose_recurrence.padded(H) for H in (1, 32, 33, 64, 65, 128, 129, 1000)] == [
        *(32, 32, 64, 64, 128, 128, 256, 1024)
    ]
