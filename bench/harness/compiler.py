"""Compiles a C++ source at run time with the machine's own compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class CompileError(ImportError):
    """No compiler, or it refused the source; an ImportError, because a peer then is not there."""


def compiler() -> str | None:
    """$CXX, or the first of the usual names that is on the path."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def load(source: Path, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Build a shared library in a temporary folder, which need not outlive the loading.

    Raises CompileError.
    """
    command = compiler()
    if command is None:
        raise CompileError("no C++ compiler: neither $CXX nor c++, g++ or clang++ is there")
    with tempfile.TemporaryDirectory(prefix="rnnfast-bench-") as folder:
        library = Path(folder) / "library.so"
        arguments = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
        # Sources come before the libraries that they need.
        built = subprocess.run(
            [command, *arguments, str(source), "-o", str(library), *flags],
            capture_output=True,
            text=True,
        )
        if built.returncode:
            reason = built.stderr.partition("error: ")[2].partition("\n")[0]
            raise CompileError(f"{source.name} does not compile: {reason.strip()}")
        return ctypes.CDLL(str(library))
