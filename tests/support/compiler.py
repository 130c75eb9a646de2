"""What the C++ compiler says of a source."""

import os
import shlex
import subprocess
from pathlib import Path

import torch

TORCH_HEADERS = Path(torch.__file__).parent / "include"


def compiler_messages(tmp_path: Path, source: str) -> str:
    """What the compiler has to say against the source; empty when it accepts it."""
    file = tmp_path / "source.cpp"
    file.write_text(source)
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    flags = ["-std=c++20", "-fsyntax-only", f"-I{TORCH_HEADERS}"]
    done = subprocess.run([*compiler, *flags, str(file)], capture_output=True, text=True)
    return done.stderr if done.returncode else ""
