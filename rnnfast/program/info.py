"""`rnnfast info`: versions, the native build, and which backend runs where."""

from __future__ import annotations

import argparse

from rnnfast import dispatch
from rnnfast.book.console import show


def run(options: argparse.Namespace) -> int:
    """Print what `dispatch.info` has to say."""
    show(dispatch.info())
    return 0
