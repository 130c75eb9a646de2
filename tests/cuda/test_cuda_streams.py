"""Both directions of a layer run at the same time: what their streams wait for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnnfast.backends.cuda import cuda
from support import recurrences
from support.emulator import build
from support.threads import check_same_bits

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]


@pytest.fixture
def driver(emulated):
    yield emulated.driver()
    emulated.driver().emulated_driver_log(0)
    emulated.driver().emulated_driver_skip_wait(0)


def before(driver, count: int) -> set[tuple[int, int]]:
    """Which of so many launches end before which others begin."""
    pairs = ((i, j) for i in range(count) for j in range(count) if i != j)
    return {pair for pair in pairs if driver.emulated_driver_is_before(*pair)}


def launch_order(driver, skipped_wait: int = 0, dtype=torch.float32) -> set[tuple[int, int]]:
    """Of a launch for one direction, two for both, and one for one again."""
    one, both = (recurrences.make(3, 2, 12, both=both, dtype=dtype).call for both in (False, True))
    cuda.rnn_forward(both, True)
    driver.emulated_driver_log(1)
    driver.emulated_driver_skip_wait(skipped_wait)
    for call in (one, both, one):
        cuda.rnn_forward(call, True)
    return before(driver, 4)


BESIDE = {(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)}  # all but 1 and 2


def test_both_directions_run_between_what_was_before_and_what_comes_after(driver):
    assert launch_order(driver) == BESIDE


@pytest.mark.parametrize(("wait", "missing"), [(1, (0, 2)), (2, (2, 3))], ids=["fork", "join"])
def test_a_wait_that_is_left_out_is_seen(wait, missing, driver):
    assert launch_order(driver, skipped_wait=wait) == BESIDE - {missing}


def test_the_gradients_wait_for_both_directions(driver):
    case = recurrences.make(3, 2, 12, both=True)
    recurrences.run(cuda, case)
    driver.emulated_driver_log(1)
    recurrences.run(cuda, case)
    assert before(driver, 5) >= {(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)}
    assert not before(driver, 5) & {(2, 3), (3, 2)}


def test_step_by_step_all_is_on_one_stream(driver):
    """3 steps of each direction, between those of one."""
    launch_order(driver, dtype=torch.float64)
    assert before(driver, 12) == {(i, j) for j in range(12) for i in range(j)}


def test_threads_of_one_stream():
    cases = [recurrences.make(T, 2, 12, both=True) for T in (3, 4, 5)]
    check_same_bits(lambda case: recurrences.run(cuda, case), cases)


def test_a_second_stream_may_be_needed_first_inside_a_capture():
    """Its kernels may not: here they are known from a call that got no second stream."""
    code = """
import ctypes
import pytest
import torch
from rnnfast.backends import library
from support import recurrences
from support.emulator import cuda as emulated
from rnnfast.backends.cuda import cuda
assert library.load_error() == ""
emulated.start()
assert cuda.load_error() == ""
both = recurrences.make(3, 2, 12, both=True).call
emulated.driver().emulated_driver_next_stream(2)
with pytest.raises(RuntimeError, match="no second stream on cuda:0"):
    cuda.rnn_forward(both, True)
emulated.driver().emulated_driver_capturing(1)
inside = cuda.rnn_forward(both, True)
emulated.driver().emulated_driver_capturing(0)
mode = ctypes.c_int(0)
emulated.driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
assert mode.value == 0, "the thread may do in a capture what it must not"
assert all(map(torch.equal, inside[:2], cuda.rnn_forward(both, True)[:2]))
"""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests)))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
