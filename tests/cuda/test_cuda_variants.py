"""Variants of the recurrence's kernels that divide their work in other ways, on the CPU."""

import pytest
import torch

from rnnfast.backends.cuda import kernel_table
from support.emulator import build
from support.emulator.checks import check
from support.emulator.recurrence import (
    NONE,
    Launch,
    cluster,
    large_batch,
    name_of,
    single_block,
)
from support.problems import make
from support.sweep import sweep

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

# Weights in shared memory, several turns of sending, blocks of 2 to 12 warps; and the table's.
CLUSTERS = [cluster(256, 8, 2, 1), cluster(256, 16, 4), cluster(384, 4, 1, 3), cluster(384, 8, 2)]
LARGE = [v for v in kernel_table.table() if v.unit == "cluster" and v.hp >= 384]
# Two and four blocks' parts of h for each group of warps, low halves in shared memory, every tile.
TENSOR_CORES = [
    large_batch(256, 16, product=1),
    large_batch(256, 20),
    large_batch(512, 12),
    large_batch(512, 40, product=1),
    large_batch(1024, 10),
    large_batch(1024, 19, buffers=1, multicasts=1),
    large_batch(1024, 19, product=1, multicasts=1),
]
# One warp and several, each number of lanes, h in registers and not, weights in both places, one
# row, two at once, and two turns of two.
ONE_BLOCK = [
    single_block(32, 2),
    single_block(64, 4),
    single_block(64, 8, rows=4),
    single_block(192, 8, rows=2),
    single_block(256, 16, smem_slots=5),
    single_block(256, 8, rows=2, smem_slots=2),
]
ALL = [*CLUSTERS, *LARGE, *TENSOR_CORES, *ONE_BLOCK]
QUICK = [*CLUSTERS, *ONE_BLOCK]


@pytest.mark.parametrize("V", [None, 7])
@pytest.mark.parametrize("variant", sweep(ALL, *QUICK), ids=name_of)
def test_a_variant(variant, V):
    check(Launch(variant), make(5, variant["ROWS"] + 1, variant.hp - 3, V=V), seeds=2)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 5), (3, 1), (4, 2), (5, 3), (33, 2), (68, 1)])
@pytest.mark.parametrize("V", [None, 6])
@pytest.mark.parametrize(("rows", "H"), [(1, 61), (2, 64), (1, 1)])
def test_turns_of_a_single_block(rows, H, V, T, B):
    """Its loop goes by turns of steps, its ids come 32 steps at a time."""
    check(Launch(single_block(64, 4, rows)), make(T, B, H, V=V), seeds=2)


def test_tanh_is_within_two_units_in_the_last_place():
    """Of all z, those below 0.8 and near it, huge and tiny ones; by a step of no product."""
    z = torch.cat([torch.linspace(-12, 12, 40001), torch.linspace(-0.9, 0.9, 20001)])
    tiny = 10.0 ** torch.linspace(-38, 38, 2001)
    z = torch.cat([z, tiny, -tiny, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])])
    x = torch.zeros(1, -(-len(z) // 32), 32)
    x.view(-1)[: len(z)] = z
    nothing = torch.zeros(x.shape[1:])
    launch = Launch(single_block(32, 2))
    hs, _ = launch.forward(x, None, torch.zeros(32, 32), None, nothing)
    assert launch.error.item() == NONE
    got, want = hs.view(-1)[: len(z)], z.double().tanh()
    unit = torch.finfo(torch.float32).eps * 2.0 ** want.abs().clamp_min(1e-38).log2().floor()
    assert ((got - want).abs() / unit)[:-1].max() < 2
    assert got[-5:].tolist()[:4] == [0, 0, 1, -1]
    assert got[-1].isnan()
