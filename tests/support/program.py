"""What the tests of the program share: its smallest run, what it leaves, its errors."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rnnfast
from rnnfast.program.cli import main

FILES = ["checkpoint.safetensors", "metrics.json", "perplexity.png"]
SMALL = ["--batch-size", "4", "--num-steps", "5", "--hiddens", "8", "--backend", "reference"]
ROOT = Path(rnnfast.__file__).parents[1]


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def usage_error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    return capsys.readouterr().err


def failure(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line on stderr after a failed command."""
    assert code == 1
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "| epoch" not in line and line
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith("rnnfast: error: ")
    return lines[0]


def process(*words: object, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "rnnfast", *map(str, words)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(stream: Any, awaited: str) -> str:
    """Read until the text has come; fails at the end of the stream."""
    read = ""
    while awaited not in read:
        character = stream.read(1)
        assert character, f"the process ended without {awaited!r}: {read}"
        read += character
    return read
