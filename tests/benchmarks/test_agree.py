"""What the benchmark takes for the same result as everybody's."""

import numpy as np
import pytest

from bench.cases import Case
from bench.harness import truth
from bench.harness.agree import DisagreementError, Judge
from bench.harness.truth import BookTruth

CASE = Case("tiny", 8, batch=3, steps=4, epoch=2, ops=("states",))
HS = BookTruth(CASE).of("states")["hs"]
LARGEST = float(np.abs(HS).max())


def judge(error):
    """One whose yardstick has this error."""
    found = Judge(CASE)
    found.errors("states", [HS + error], yardstick=True)
    return found


def is_admitted(error, yardstick=0.0, tolerance=0.0):
    try:
        judge(yardstick).errors("states", [HS + error], tolerance)
    except DisagreementError:
        return False
    return True


def test_an_error_may_be_twice_the_yardsticks():
    assert is_admitted(0.0199, yardstick=0.01)
    assert not is_admitted(0.0201, yardstick=0.01)


def test_an_error_below_a_tolerance_passes_relative_to_the_largest_value():
    assert LARGEST < 0.95
    assert is_admitted(0.099 * LARGEST, tolerance=0.1)
    assert not is_admitted(0.101 * LARGEST, tolerance=0.1)


def test_nan_is_no_result():
    wrong = HS.copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(DisagreementError, match="states hs: error nan"):
        judge(0.0).errors("states", [wrong])


def test_every_result_is_compared():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        judge(0.0).errors("states", [HS, HS])


def test_the_truth_clips_only_a_norm_above_the_limit():
    small, large = [np.array([0.3, 0.4])], [np.array([3.0, 4.0])]
    assert np.array_equal(truth._clipped(small)[0], small[0])
    np.testing.assert_allclose(truth._clipped(large)[0], [0.6, 0.8])
