"""Two processes under torchrun with gloo; what they do stands in distributed_worker.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.sweep import sweep

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.mark.parametrize("check", sweep(["ddp", "fsdp", "placements"], "ddp", "fsdp"))
def test_two_processes(check):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = str(WORKER.parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(WORKER), check],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
