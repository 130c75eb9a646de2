"""Running tests again under another of the CPU's instruction sets, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence

from rnnfast.backends import library


def others() -> list[str]:
    """Those that this machine has too, beside the one that this process runs."""
    assert library.load_error() == ""
    built, runs = library.build_info().split("instruction sets: ")[1].split("; runs ")
    names = built.split()  # each has all that those after it need
    needs_the_same = ["avx512_bf16"] if runs == "avx512_bf16_decode" else []
    return [*needs_the_same, *names[names.index(runs) + 1 :]]


def other_kernels() -> list[str]:
    """`others` without more sets of AVX-512: only kernels of bfloat16 differ there."""
    return [name for name in others() if not name.startswith("avx512")]


def run_again(files: Sequence[str], which: str, instruction_set: str) -> None:
    """The tests of `files` that `which` selects must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", which, *files],
        env={**os.environ, "RNNFAST_CPU_ISA": instruction_set},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
