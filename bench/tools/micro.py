"""The costs that the CUDA kernels' design rests on: `python bench/tools/micro.py`.

Active clusters by shared memory, exchanges within a cluster, barriers, launches; one JSON object a
line. Needs a GPU that has clusters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.harness.clock import clock_for
from bench.harness.protocol import ROOT
from bench.harness.summary import quantiles
from bench.peers.tensors import graphed
from bench.tools.driver import Driver, Geometry
from rnnfast.backends.cuda import nvrtc

_SOURCE, _PTX = Path(__file__).with_name("micro.cu"), "cuda/device/ptx.cuh"
_ROUNDS = 2000  # of what is measured, in one launch
_WARPS = 8
_SHARED_KB = (8, 64, 132, 200, 227)


def main() -> int:
    capability = int("".join(map(str, torch.cuda.get_device_capability())))
    driver = Driver(compiled(nvrtc.architecture(capability)))
    _clusters(driver)
    _cycles(driver)
    _launches(driver)
    return 0


def compiled(arch: str) -> bytes:
    """The image of the kernels in micro.cu."""
    sources = {_SOURCE.name: _SOURCE.read_text(), _PTX: (ROOT / "csrc" / _PTX).read_text()}
    return nvrtc.compile_image("micro", sources, [], arch).image


def _clusters(driver: Driver) -> None:
    """How many clusters run at once: what the number of rows per cluster follows from."""
    for cluster in (1, 2, 4, 8, 16):
        for kilobytes in _SHARED_KB:
            geometry = Geometry(cluster, cluster, 32 * _WARPS, kilobytes * 1024)
            count = driver.max_active_clusters("exchange", geometry)
            _tell(what="active clusters", cluster=cluster, shared_kb=kilobytes, count=count)


def _cycles(driver: Driver) -> None:
    """Clock cycles of one exchange or barrier, the dependent next one behind it."""
    out = torch.zeros(1024, dtype=torch.int64, device="cuda")

    def measure(what: str, kernel: str, blocks: int, cluster: int, vectors: int = 0) -> None:
        shared = 2 * cluster * _WARPS * max(vectors, 1) * 16 + 64
        geometry = Geometry(blocks, cluster, 32 * _WARPS, shared)
        cycles = []
        for _ in range(4):
            driver.launch(kernel, geometry, out.data_ptr(), _ROUNDS, vectors)
            cycles.append(out[0].item() / _ROUNDS)
        row = {"what": what, "cluster": cluster, "blocks": blocks, "vectors": vectors}
        _tell(**row, cycles=quantiles(cycles[1:]))

    measure("block barrier", "block_barrier", 1, 1)
    for cluster in (2, 4, 8, 16):
        measure("cluster barrier", "cluster_barrier_cost", cluster, cluster)
        for vectors in (1, 2, 4):
            measure("exchange, everyone to everyone", "exchange", cluster, cluster, vectors)
        many = driver.max_active_clusters("exchange", Geometry(cluster, cluster, 256, 64 * 1024))
        measure("the same, on all clusters at once", "exchange", max(many, 1) * cluster, cluster, 2)
    for blocks in (8, 66, 132):
        driver.clear("counter")
        measure("grid barrier", "grid_barrier", blocks, 1)


def _launches(driver: Driver) -> None:
    """Microseconds of an empty kernel: launched 200 times in a row, and as nodes of a graph."""
    geometry, clock = Geometry(1, 1, 32, 0), clock_for("cuda")

    def launch() -> None:
        for _ in range(200):
            driver.launch("nothing", geometry)

    calls = {"launch": launch, "graph node": graphed(launch, "cuda")}
    for what, call in calls.items():
        seconds = [clock.seconds(call, lambda: None, 0.01) for _ in range(5)]
        _tell(what=what, us=quantiles([1e6 * s / 200 for s in seconds]))


def _tell(**row: Any) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
