"""The Triton kernels of a character model, compiled for GPUs that need not be there.

All variants: `python tests/support/triton_resources.py`, about three minutes.
"""

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (Linux only)", allow_module_level=True)

from support import triton_resources
from support.sweep import sweep


@pytest.mark.parametrize("architecture", sweep(triton_resources.ARCHITECTURES, 90))
def test_no_kernel_spills_or_takes_more_than_before(architecture):
    assert triton_resources.complaints(triton_resources.main_launches(), architecture) == []


def test_a_training_step_is_six_kernels_and_generation_one():
    names = [str(launch).split()[0] for launch in triton_resources.main_launches()]
    assert names == ["forward", "cross_entropy", "backward", "sum", "norm", "scale", "decode"]
