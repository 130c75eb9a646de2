"""On which backends a layer is tested."""

import pytest

from rnnfast import use_backend
from rnnfast.backends.compiled import native


@pytest.fixture(params=["auto", "reference"])
def backend_of_module(request: pytest.FixtureRequest) -> object:
    """What serves a layer by itself, and the specification."""
    with use_backend(request.param):
        yield request.param


_ASKED = {"transposed", "batch_sizes", "both_directions", "resets", "leak"}
_NEED_KERNELS = ("test_layers_by_name", "test_compile", "test_double", "auto")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Until the CPU's kernels serve every form of a layer, these tests may fail."""
    if native.features >= _ASKED:
        return
    for item in items:
        if "tests/nn" in str(item.path) and any(name in item.name for name in _NEED_KERNELS):
            item.add_marker(pytest.mark.xfail(reason="the kernels do not serve it", strict=False))
