"""CUDA's whole path without a GPU: an emulating driver in place of the real one."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from rnnfast.backends import library
from rnnfast.backends.cuda import bridge, cuda


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
