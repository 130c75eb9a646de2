"""What a result must carry to be compared: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench.harness import compiler
from bench.harness.protocol import ROOT

# The instruction sets that decide how fast dense arithmetic can be.
_ISA = ("fma", "avx", "avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "bf16")
_GPU = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.limit"


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(device: str = "cpu") -> dict[str, Any]:
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    found = {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "processors": processors(),
        "isa": [flag for flag in _ISA if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "compiler": _first_line(compiler.compiler() or "c++", "--version"),
    }
    if device == "cuda":
        found["gpu"] = _first_line("nvidia-smi", f"--query-gpu={_GPU}", "--format=csv,noheader")
    return found


def commit() -> dict[str, Any]:
    """This checkout's commit, and whether its files differ from it; None where git cannot tell.

    Results are no part of what is measured.
    """
    git = ("git", "-C", str(ROOT))
    name = _first_line(*git, "rev-parse", "HEAD")
    code = (".", ":!bench/results")
    dirty = bool(_first_line(*git, "status", "--porcelain", "--untracked-files=no", "--", *code))
    return {"commit": name, "dirty": dirty if name else None}


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo, where there is one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return next(iter(done.stdout.splitlines()), None)
