"""CUDA's whole path without a GPU: an emulating driver in place of the real one."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from rnnfast.backends import library
from rnnfast.backends.cuda import bridge, cuda
from rnnfast.backends.cuda.bridge import DriverError


@pytest.fixture(scope="module")
def emulated() -> Iterator[ModuleType]:
    """`support.emulator.cuda`, started."""
    from support.emulator import cuda as emulated

    assert library.load_error() == ""
    make_image = bridge.make_image
    emulated.start()
    assert cuda.load_error() == ""
    yield emulated
    emulated.stop()
    bridge.make_image = make_image


@pytest.fixture
def driver(emulated: ModuleType) -> Iterator[Any]:
    """The driver's twin, which a test may set up otherwise for itself."""
    yield emulated.driver()
    emulated.driver().emulated_driver_seed(0)
    emulated.driver().emulated_driver_capturing(0)
    emulated.driver().emulated_driver_next_launch(0)
    torch.set_float32_matmul_precision("highest")
    try:
        bridge.check(0)
    except DriverError as left_over:
        raise AssertionError("a test left an error in the error word") from left_over
