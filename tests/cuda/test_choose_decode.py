"""Which variant of the generation kernel runs: by the device, the table's order and the batch."""

import dataclasses
import itertools

import pytest

from rnnfast.backends import library
from rnnfast.backends.cuda import choose_decode, kernel_table
from rnnfast.backends.cuda.bridge import Limits, Question

H200 = Limits(90, 132, 227 * 1024)
A100 = Limits(80, 108, 163 * 1024)
SMALL = Limits(89, 20, 99 * 1024)
RTX5090 = Limits(120, 170, 99 * 1024)

pytestmark = pytest.mark.skipif(bool(library.load_error()), reason=library.load_error())


def question(H, B=1, V=28):
    return Question("decode", B, H, V, 32, cell=0, has_options=False, device=0, least_exact="FFMA")


def decide(asked, limits, clusters=7):
    return choose_decode.decide(asked, limits, lambda plan: clusters)


@pytest.mark.parametrize("limits", [H200, A100, SMALL, RTX5090])
def test_every_plan_covers_the_batch_and_fits_the_device(limits):
    for H in (1, 64, 65, 200, 256, 300, 512, 700, 1024, 1500, 4000):
        for B in (1, 2, 7, 100):
            for V in (1, 28, 1000, 5000):
                plan = decide(question(H, B, V), limits)
                geometry = plan.geometry
                assert geometry.grid == -(-B // plan.rows) * geometry.cluster
                assert geometry.shared_bytes <= limits.shared_bytes
                assert geometry.cluster == 1 or limits.compute_capability >= 90
                assert "RF_HP=0 " in plan.options or int(plan.options.split()[0][8:]) >= H


def test_w_hh_is_held_where_it_fits():
    for H, variant in (
        (50, "64 1"),
        (128, "128 1"),
        (200, "256 4"),
        (512, "512 8"),
        (900, "1024 16"),
    ):
        hp, cluster = variant.split()
        plan = decide(question(H), H200)
        assert plan.options.startswith(f"-DRF_HP={hp} -DRF_CLUSTER={cluster} ")
        assert "RF_HOLDS_TABLES=1" in plan.options
    assert decide(question(1025), H200).options.startswith("-DRF_HP=0 -DRF_CLUSTER=16 ")
    assert decide(question(200), A100).options.startswith("-DRF_HP=256 -DRF_CLUSTER=1 ")
    assert decide(question(512), A100).options.startswith("-DRF_HP=0 -DRF_CLUSTER=1 ")


def test_tables_without_room_are_read_from_memory():
    assert "RF_HOLDS_TABLES=0" in decide(question(512, V=5000), H200).options


def test_more_sequences_than_clusters_share_them():
    assert decide(question(512, B=7), H200).rows == 1
    assert decide(question(512, B=8), H200).rows == 4


def test_a_cluster_that_the_device_refuses_is_passed_over():
    plan = choose_decode.decide(question(512), H200, lambda plan: plan.geometry.cluster < 8)
    assert plan.options.startswith("-DRF_HP=0 -DRF_CLUSTER=1 ")


def test_the_kernel_is_that_of_the_cell():
    for cell in kernel_table.CELLS:
        plan = decide(dataclasses.replace(question(64), cell=cell), H200)
        assert f"-DRF_CELL={cell}" in plan.options.split()


@pytest.mark.parametrize("limits", [H200, A100, RTX5090])
def test_the_kernels_of_a_device_are_those_that_it_may_run(limits):
    known = {
        each.options
        for each in kernel_table.kernels(limits.compute_capability)
        if each.unit == "decode"
    }
    for H, B, V in itertools.product((64, 300, 512, 1024, 1500), (1, 100), (28, 5000)):
        assert decide(question(H, B, V), limits).options in known


def test_what_no_kernel_serves_goes_step_by_step():
    """Too many classes for any block, and float64, which the kernels would read as float32."""
    assert decide(question(64, V=100_000), H200) is None
    assert decide(dataclasses.replace(question(64), dtype_bits=64), H200) is None


def test_every_row_of_the_table_is_a_shape_of_the_kernel():
    decodes = [variant for variant in kernel_table.table() if variant.unit == "decode"]
    assert len(decodes) >= 5
    for variant in decodes:
        for rows in (1, variant["ROWS"]):
            assert variant.with_rows(rows).needs(True, H=variant.hp or 100, V=1)
    assert kernel_table.Variant("decode", (64, 3, 1, 1, 0)).needs(True, H=10, V=1) is None
