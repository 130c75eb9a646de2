"""Parameters of which a few are tested always and the others with --full."""

from collections.abc import Iterable
from typing import Any

import pytest


def sweep(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """All cases, those marked full that are not among the quick ones."""
    full = pytest.mark.full
    return [
        case
        if case in quick
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=full)
        for case in cases
    ]
