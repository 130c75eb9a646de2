"""What every test runs under: the book where it is at hand, poisoned memory, no silent fallback."""

import ctypes
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from rnnfast import FallbackWarning, dispatch

_BOOK = Path(__file__).parents[2] / "shared" / "data" / "timemachine.txt"
if _BOOK.exists():
    os.environ.setdefault("RNNFAST_DATA", str(_BOOK.parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also the long sweeps: tests marked full")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error::rnnfast.FallbackWarning")
    # For the workers of xdist, before they load libgomp: with one on every core, threads that spin
    # for their next task keep others from theirs, and tests of two threads take 4 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not wants_gpu(config):
        # The CPU's tests would choose the GPU, and the emulated driver's would meet the real one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """On a GPU one after another; elsewhere as many at once as there are cores."""
    return 0 if wants_gpu(config) else None


def wants_gpu(config: pytest.Config) -> bool:
    """Whether the tests that run on a CUDA device are asked for, which are then the only ones."""
    return config.option.markexpr.split()[:1] == ["gpu"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full no test that is marked so; those for a GPU where they are asked for."""
    if not config.getoption("--full"):
        sweeps = {item for item in items if item.get_closest_marker("full")}
        config.hook.pytest_deselected(items=list(sweeps))
        items[:] = [item for item in items if item not in sweeps]
    # Files of few tests, which take long each, come first: the cores then end together.
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])
    if not torch.cuda.is_available():
        reason = (
            "there is no CUDA device" if wants_gpu(config) else "needs -m gpu and a CUDA device"
        )
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


# What our operators allocate comes from malloc, which glibc then fills with 0xFE: -1.7e38.
if hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(-6, 1)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> object:
    """torch.empty gives NaN: a value that nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _fresh_dispatch() -> object:
    """Every test sees the fallback warnings that it causes."""
    dispatch.choose.cache_clear()
    dispatch._warned.clear()
    yield
    dispatch.choose.cache_clear()
    dispatch._warned.clear()


@pytest.fixture(autouse=True)
def _same_seed_and_one_thread() -> None:
    """Most networks here are tiny: on a busy machine a second thread makes them 100 times slower.

    Tests of the kernels set the number of threads themselves.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, _same_seed_and_one_thread: None) -> int:
    """Run the test on one thread of torch's and on several."""
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> object:
    """Run the test on each backend that a CPU has."""
    with dispatch.use_backend(request.param):
        yield request.param


@pytest.fixture
def expects_fallback() -> object:
    """For a test that causes a fallback on purpose: it must warn."""
    with pytest.warns(FallbackWarning):
        yield
