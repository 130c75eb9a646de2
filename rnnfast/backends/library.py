"""The compiled library of `csrc/`: the kernels of the CPU and the launcher of CUDA's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

LIBRARY = Path(__file__).parents[1] / "_C.so"

# What torch.ops.rnnfast.rnn.plain calls, once the library is loaded: to look it up takes 0.7 us of
# the 7 of a small call, and the call in between 0.35.
plain_rnn: Any = None


@functools.cache
def load_error() -> str:
    """Load the library once; why it cannot be used, or an empty string."""
    global plain_rnn
    if not LIBRARY.exists():
        return f"the kernels were not built when rnnfast was installed: {_build_error()}"
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} does not load into torch {torch.__version__}: {error}"
    from rnnfast.backends import fakes

    fakes.register()
    plain_rnn = torch.ops.rnnfast.rnn.plain._op
    return ""


def _build_error() -> str:
    """What setup.py left in place of the library."""
    reason = LIBRARY.with_name("build_error.txt")
    if not reason.exists():
        return "nothing has been built here (`pip install .` in the source folder builds them)"
    return reason.read_text(encoding="utf-8").strip()


@functools.cache
def build_info() -> str:
    """Compiler, instruction sets compiled in, and the one that this machine runs."""
    return str(torch.ops.rnnfast._build_info())
