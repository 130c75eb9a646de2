"""The correctness stage on a few small shapes under compute-sanitizer's tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.gpu.stage import Stage
from bench.protocol import ROOT

_TOOLS = ("memcheck", "racecheck", "synccheck")
_SECONDS = 42.0


def run(stage: Stage) -> None:
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if stage.dry:
        program = shutil.which("env")  # runs the same command without a tool
    if program is None:
        stage.emit(kind="sanitizer", skipped="compute-sanitizer is not installed")
        return
    for tool in stage.items(_TOOLS[:1] if stage.dry else _TOOLS):
        _check(stage, program, tool)


def _check(stage: Stage, program: str, tool: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows")
        worker = [sys.executable, "-m", "bench.gpu.worker", "sanitized", str(rows)]
        options = [] if stage.dry else ["--tool", tool, "--error-exitcode", "9"]
        command = [program, *options, *worker, "--budget", f"{_SECONDS - 10:.0f}"]
        command += ["--dry"] * stage.dry
        # without torch's own pools each tensor is an allocation whose ends are watched
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            stage.emit(kind="sanitizer", tool=tool, ok=None, why=f"not done in {_SECONDS:g} s")
            return
        checked = rows.read_text().count('"ok": true') if rows.exists() else 0
    lines = (done.stdout + done.stderr).splitlines()
    said = [line for line in lines if "=====" in line or "Error" in line][-6:]
    ok = done.returncode == 0 and checked > 0
    stage.emit(kind="sanitizer", tool=tool, ok=ok, checked=checked, said=said)
