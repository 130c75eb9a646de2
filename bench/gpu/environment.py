"""The machine: GPU, driver, versions, which backends run and why others do not."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess

import torch

from bench.gpu.stage import Stage
from rnnfast import dispatch

_QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.limit"


def run(stage: Stage) -> None:
    stage.emit(kind="versions", **_versions())
    stage.emit(kind="explain", text=str(dispatch.explain(device=stage.device)))
    if stage.dry:
        return
    p = torch.cuda.get_device_properties(0)
    stage.emit(
        kind="gpu",
        name=p.name,
        capability=f"{p.major}.{p.minor}",
        multiprocessors=p.multi_processor_count,
        memory_gib=round(p.total_memory / 2**30, 1),
        # not in every torch
        shared_bytes=getattr(p, "shared_memory_per_block_optin", None),
        l2_bytes=getattr(p, "L2_cache_size", None),
    )
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        stage.emit(kind="nvidia-smi", query=_QUERY, text=(done.stdout + done.stderr).strip())


def _versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    for package in ("triton", "nvidia-cuda-nvrtc", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
