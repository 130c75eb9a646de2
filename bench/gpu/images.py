"""Every kernel that may be launched here, compiled on all cores for the stages after it."""

from __future__ import annotations

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor

from bench.gpu.stage import Stage
from rnnfast.backends.cuda import bridge, image_cache, kernel_table, nvrtc
from rnnfast.backends.cuda.nvrtc import Compiled


def run(stage: Stage) -> None:
    if reason := nvrtc.load_error():
        stage.emit(note=f"no image can be compiled: {reason}")
        return
    capability = 90 if stage.dry else bridge.limits(0).compute_capability
    wanted = kernel_table.kernels(capability)[: 1 if stage.dry else None]
    arch, sources = nvrtc.architecture(capability), bridge.sources()

    def compile_one(kernels: kernel_table.Kernels) -> tuple[float, Compiled]:
        began = time.monotonic()
        with image_cache.quietly():
            made = image_cache.image(kernels.unit, kernels.options, arch, sources)
        return time.monotonic() - began, made

    with ThreadPoolExecutor(1 if stage.dry else os.cpu_count()) as pool:
        futures = [(kernels, pool.submit(compile_one, kernels)) for kernels in wanted]
        for kernels, future in futures:
            seconds, made = future.result()
            taken = {name: dataclasses.asdict(each) for name, each in made.resources.items()}
            row = {"unit": kernels.unit, "options": kernels.options, "kernels": taken}
            stage.emit(kind="image", **row, seconds=round(seconds, 2))
