"""On which backends a layer is tested."""

import pytest

from rnnfast import use_backend


@pytest.fixture(params=["auto", "reference"])
def backend_of_module(request: pytest.FixtureRequest) -> object:
    """What serves a layer by itself, and the specification."""
    with use_backend(request.param):
        yield request.param
