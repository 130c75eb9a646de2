"""One stage in a process of its own: `python -m bench.gpu.worker STAGE ROWS --budget SECONDS`."""

from __future__ import annotations

import argparse
import importlib
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from bench.gpu.plan import MODULES, TRAINING
from bench.gpu.rehearsal import emulate_kernels, graphs_of_cpu_work
from bench.gpu.stage import Stage
from rnnfast import FallbackWarning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--emulated", action="store_true")
    options = parser.parse_args()

    module = importlib.import_module(f"bench.gpu.{MODULES[options.stage]}")
    warnings.simplefilter("error", FallbackWarning)  # or the reference would be measured
    torch.manual_seed(0)
    stage = Stage(options.stage, options.rows, options.budget, options.start, options.dry)
    if not options.dry:
        module.run(stage)
        return
    torch.set_num_threads(1)
    if options.emulated:
        emulate_kernels()
    with graphs_of_cpu_work() if options.stage in TRAINING else nullcontext():
        module.run(stage)


if __name__ == "__main__":
    main()
