"""`rnnfast build`: compile the CUDA kernels ahead of their first use, with or without a GPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import torch
from tqdm import tqdm

from rnnfast.backends import library
from rnnfast.backends.cuda import bridge, image_cache, kernel_table, nvrtc
from rnnfast.book.console import show


def run(options: argparse.Namespace) -> int:
    """Fill the cache for each architecture; print what every kernel takes."""
    if error := library.load_error():
        raise RuntimeError(error)
    wanted = [
        (arch, each)
        for arch in options.arch or _architectures_here()
        for each in kernel_table.kernels(int(arch.rstrip("a")))
    ]
    rows: list[dict[str, Any]] = []
    with image_cache.quietly():
        for arch, each in tqdm(wanted, unit="kernel", disable=None, leave=False):
            made = image_cache.image(each.unit, each.options, arch, bridge.sources())
            for name, resources in sorted(made.resources.items()):
                row = {"arch": arch, "unit": each.unit, "kernel": name, "options": each.options}
                rows.append(row | dataclasses.asdict(resources))
                rows[-1]["shared_bytes"] += each.shared_bytes
    show(json.dumps(rows, indent=1) if options.json else _table(rows))
    return 0


def _architectures_here() -> list[str]:
    found = range(torch.cuda.device_count())
    capabilities = {bridge.limits(device).compute_capability for device in found}
    if not capabilities:
        raise RuntimeError("there is no CUDA device here: say --arch 90a, the one to build for")
    return sorted(map(nvrtc.architecture, capabilities))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'arch':4} {'regs':>4} {'spills':>6} {'shared':>6}  kernel"]
    for row in rows:
        lines.append(
            f"{row['arch']:4} {row['registers']:4} {row['spill_bytes']:6} {row['shared_bytes']:6}  "
            f"{row['unit']}: {row['kernel']} {row['options']}"
        )
    lines.append(f"{len(rows)} kernels are compiled and kept in {image_cache.directory()}")
    return "\n".join(lines)
