"""The book, for the tests that cannot do without it."""

import functools

import pytest

from rnnfast.book import texts


@functools.cache
def _why_no_book() -> str:
    try:
        texts.download("time_machine")
    except OSError as error:
        return str(error)
    return ""


def skip_without_book() -> None:
    """Skip the calling test where the book is not on this machine and cannot be fetched."""
    if reason := _why_no_book():
        pytest.skip(f"the book is not at hand: {reason}")
