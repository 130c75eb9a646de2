"""`rnnfast info`: versions, the native build, and which backend runs where."""

from __future__ import annotations

import argparse

from rnnfast import dispatch


def run(options: argparse.Namespace) -> int:
    print(dispatch.info())
    return 0
