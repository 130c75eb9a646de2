"""Bugs planted into the CUDA kernels around the recurrence are found by the tests' own rules."""

import pytest
import torch

from support.cuda_checks import (
    check_clip,
    check_extreme_logits,
    check_finds,
    sums_by_torch,
    torch_cross_entropy,
)
from support.cuda_kernels import cross_entropy, row_sums
from support.emulator import build
from support.sweep import sweep

pytestmark = pytest.mark.skipif(build.why_not() != "", reason=build.why_not())


def check_cross_entropy(V=40, **options):
    logits, targets = torch.randn(20, V), torch.randint(V, (4, 5))
    want = torch_cross_entropy(logits, targets)
    got = cross_entropy(logits, targets, **options)[0], logits
    torch.testing.assert_close(got, want)


def check_cross_entropy_of_long_rows(**options):
    check_cross_entropy(300, warps=8, **options)


def check_row_sums(**options):
    x, ids = torch.randn(70, 40), torch.randint(5, (14, 5))
    got = row_sums([(x, ids, 5)], warps=3, tile=2, **options)[0]
    torch.testing.assert_close(got, sums_by_torch(x, ids, 5))


def check_clip_of_large_values(**options):
    check_clip([torch.full((3000,), 1e25)], 1.0, True, **options)


def check_clip_of_rows(**options):
    check_clip([torch.randn(5000), torch.randn(70, 90)[:, 5:77]], 0.5, True, **options)


BUGS = {
    "squares in float32": (
        check_clip_of_large_values,
        ("clip_norm.cu", "static_cast<double>(value) * value", "value * value"),
    ),
    "a chunk of the wrong gradient": (
        check_clip_of_rows,
        ("clip_norm.cu", "first_chunk <= chunk", "first_chunk < chunk"),
    ),
    "strides forgotten": (
        check_clip_of_rows,
        ("clip_norm.cu", "i / gradient.row * gradient.row_stride", "i / gradient.row"),
    ),
    "a block's sum read too early": (
        check_clip_of_rows,
        ("reduce.cuh", "__syncthreads();\n  value = parts[0]", "value = parts[0]"),
    ),
    "a target's logit overwritten too early": (
        check_cross_entropy,
        ("cross_entropy.cu", "__syncwarp();", ""),
    ),
    "a long row's target overwritten too early": (
        check_cross_entropy_of_long_rows,
        ("cross_entropy.cu", "    __syncthreads();\n", ""),
    ),
    "a block's sum overwritten too early": (
        check_cross_entropy_of_long_rows,
        ("reduce.cuh", "parts[w]);\n  __syncthreads();", "parts[w]);"),
    ),
    "no maximum subtracted": (
        lambda **options: check_extreme_logits(1, **options),
        ("cross_entropy.cu", "maximum = combine_row(maximum, Larger());", "maximum = 0;"),
    ),
    "the warps' sums read too early": (check_row_sums, ("row_sums.cu", "__syncthreads();", "")),
    "a row added to another's class": (
        check_row_sums,
        ("row_sums.cu", "__shfl_sync(kAllLanes, mine, source[i] & 31)", "max(mine, 0)"),
    ),
}


QUICK = (
    "strides forgotten",
    "a block's sum overwritten too early",
    "no maximum subtracted",
    "the warps' sums read too early",
)


@pytest.mark.parametrize("name", sweep(BUGS, *QUICK))
def test_finds_a_planted_bug(name):
    check_finds(*BUGS[name], schedules=6)
