"""Beside a GPU, tests of the CPU and of the emulated driver run as they do without one."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
# torch as it is on a machine with a GPU, in so far as a test can tell before it uses it.
FAKE = """
import os
import torch
torch.cuda.is_available = lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "0") != ""
torch.cuda.device_count = lambda: int(torch.cuda.is_available())
torch.version.cuda = "13.0"
"""
CHOOSE_A_DEVICE = (
    "tests/program/test_usage.py::test_backend_that_cannot_run",
    "tests/program/test_train.py::test_train",
    "tests/program/test_build_command.py::test_build_without_a_device_asks_for_an_architecture",
)


def test_no_test_sees_a_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


def test_tests_that_choose_a_device_choose_the_cpu(tmp_path):
    (tmp_path / "fake_gpu.py").write_text(FAKE)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    del environment["CUDA_VISIBLE_DEVICES"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "fake_gpu",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, *CHOOSE_A_DEVICE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
