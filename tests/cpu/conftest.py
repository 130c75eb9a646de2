"""What every test of the CPU's kernels runs under."""

import pytest
import torch

from rnnfast.backends import library


@pytest.fixture(autouse=True)
def _two_threads(_same_seed_and_one_thread: None) -> None:
    """The kernels share their work out to two threads, where a test does not say otherwise."""
    assert library.load_error() == ""
    torch.set_num_threads(2)
