"""The costs that the design rests on: exchanges within a cluster, barriers, launches."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.gpu.driver import Driver, Geometry
from bench.gpu.stage import Stage
from bench.summary import quantiles
from rnnfast.backends.cuda import nvrtc

_SOURCE = Path(__file__).with_name("micro.cu")
_PTX = Path(__file__).parents[2] / "csrc" / "cuda" / "device" / "ptx.cuh"
_ROUNDS = 2000  # of what is measured, in one launch
_WARPS = 8
_SHARED_KB = (8, 64, 132, 200, 227)


def run(stage: Stage) -> None:
    capability = "90" if stage.dry else "".join(map(str, torch.cuda.get_device_capability()))
    sources = {"micro.cu": _SOURCE.read_text(), "ptx.cuh": _PTX.read_text()}
    image = nvrtc.compile_image("micro", sources, [], nvrtc.architecture(int(capability))).image
    stage.emit(kind="image", bytes=len(image), arch=nvrtc.architecture(int(capability)))
    driver = Driver(image, stage.dry)
    for name in stage.items(["active clusters", "cycles", "launches"]):
        {"active clusters": _clusters, "cycles": _cycles, "launches": _launches}[name](
            stage, driver
        )


def _clusters(stage: Stage, driver: Driver) -> None:
    """How many clusters run at once: what the number of rows per cluster follows from."""
    for cluster in (1, 2, 4, 8, 16):
        for kilobytes in _SHARED_KB:
            geometry = Geometry(cluster, cluster, 32 * _WARPS, kilobytes * 1024)
            count = driver.max_active_clusters("exchange", geometry)
            stage.emit(kind="clusters", cluster=cluster, shared_kb=kilobytes, count=count)


def _cycles(stage: Stage, driver: Driver) -> None:
    """Clock cycles of one exchange or barrier, the dependent next one behind it."""
    out = torch.zeros(1024, dtype=torch.int64, device=stage.device)

    def measure(what: str, kernel: str, blocks: int, cluster: int, vectors: int = 0) -> None:
        shared = 2 * cluster * _WARPS * max(vectors, 1) * 16 + 64
        geometry = Geometry(blocks, cluster, 32 * _WARPS, shared)
        cycles = []
        for _ in range(4):
            driver.launch(kernel, geometry, out.data_ptr(), _ROUNDS, vectors)
            cycles.append(out[0].item() / _ROUNDS)
        row = {"what": what, "cluster": cluster, "blocks": blocks, "vectors": vectors}
        stage.emit(kind="cycles", **row, cycles=quantiles(cycles[1:]))

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


def _launches(stage: Stage, driver: Driver) -> None:
    """Microseconds of an empty kernel: launched 200 times in a row, and as nodes of a graph."""
    geometry = Geometry(1, 1, 32, 0)

    def launch() -> None:
        for _ in range(200):
            driver.launch("nothing", geometry)

    calls = {"launch": launch, "graph node": stage.clock.graphed(launch)}
    for name, seconds in stage.clock.race(calls, rounds=5, turn=0.01).items():
        us = quantiles([1e6 * s / 200 for s in seconds])
        stage.emit(kind="launch", what=name, us=us)
