"""The Triton backend: its kernels in Triton's interpreter, and what needs no Triton at all."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rnnfast import BackendError, dispatch, explain
from rnnfast.backends.triton import triton

TESTS = Path(__file__).parent
INTERPRETED = [f"triton_{part}.py" for part in ("recurrence", "training", "clip_norm", "decode")]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (Linux only)"
)


@needs_triton
def test_kernels_in_the_interpreter():
    """INTERPRETED in a process of its own: kernels are bound when they are decorated."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *INTERPRETED],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]


def test_without_triton_the_row_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in explain(device="cuda").reasons["triton"][0]


def test_an_old_gpu_is_a_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "compute capability 7.5" in triton.load_error()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert triton.load_error() == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert triton.load_error() == "", "AMD counts otherwise"


@needs_triton
def test_a_machine_without_a_gpu_is_a_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    explanation = explain(device="cuda")
    assert explanation.reasons["triton"] == ["torch sees no CUDA device"]
    assert explanation.backend == "reference"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.load_error() == ""


@needs_triton
def test_it_serves_float_tensors_on_cuda_and_no_others(monkeypatch):
    monkeypatch.setattr(triton, "load_error", lambda: "")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert explain(device="cuda", dtype=dtype).reasons["triton"] == []
    assert "float64" in explain(device="cuda", dtype=torch.float64).reasons["triton"][0]
    with dispatch.use_backend("triton"), pytest.raises(BackendError, match="not on cuda"):
        explain()


@needs_triton
def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch):
    from rnnfast.backends.triton.launch import launch

    entered, launched = [], []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: launched.append((grid, list(entered), options))

    @contextlib.contextmanager
    def device(chosen):
        entered.append(chosen)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    with FakeTensorMode():
        arguments = (None, torch.empty(2, device="cuda:1"), 3)
    launch(Kernel(), (2, 0), *arguments)
    assert launched == [], "an empty grid is none to CUDA"
    launch(Kernel(), (2, 3), *arguments, num_warps=4)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    assert launched == [((2, 3), [torch.device("cuda", 1)], options)]


@needs_triton
def test_importing_the_backend_imports_no_triton():
    code = "import sys, rnnfast.backends.triton; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stdout + done.stderr
