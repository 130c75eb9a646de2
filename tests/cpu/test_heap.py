"""Freed memory stays with the process: page faults cost more than a small minibatch."""

import os
import platform
import subprocess
import sys

import pytest

# Blocks up to a threshold come from the heap, whose end is given back only where twice that much is
# free; a larger block is mapped, and unmapped when it is freed.
PROGRAM = """
import torch
from rnnfast.backends import native

def is_on_heap(tensor):
    for line in open("/proc/self/maps"):
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.rstrip().endswith("[heap]")

mapped = torch.empty(2**21)  # and kept: freeing it would set the threshold
assert not is_on_heap(mapped), "glibc keeps 8 MiB by itself"
assert native.load_error() == ""
assert is_on_heap(torch.empty(2**21)), "glibc would give 8 MiB back"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back")
def test_loading_the_kernels_lets_the_heap_keep_what_is_freed() -> None:
    # without what sets the thresholds, or takes another allocator
    own = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
