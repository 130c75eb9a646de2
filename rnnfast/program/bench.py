"""`rnnfast bench`: how much faster than the textbook's loop this machine trains, in a minute."""

from __future__ import annotations

import argparse

from rnnfast import dispatch
from rnnfast.program import quickbench


def run(options: argparse.Namespace) -> int:
    """Measure for about the seconds asked for and print the table."""
    print(dispatch.explain())
    print(quickbench.run(options.seconds))
    return 0
