"""Which backend, kernels and device serve a call on CUDA, and what explain() says of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rnnfast
import rnnfast.backends.cuda as cuda_module
from rnnfast import BackendError, dispatch, use_backend
from rnnfast.backends.compiled import native
from rnnfast.backends.cuda import bridge, cuda, plan_for
from rnnfast.backends.cuda.bridge import Question
from support import models, untyped
from support.emulator import build
from support.problems import make

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]

ROOT = Path(__file__).parents[2]


def test_a_missing_driver_is_a_reason():
    code = """
import os, torch, rnnfast
from rnnfast.backends import cuda
for name in ("/nonexistent/libcuda.so", "libm.so.6"):
    os.environ["RNNFAST_CUDA_DRIVER"] = name
    cuda._start.cache_clear()
    rnnfast.dispatch.choose.cache_clear()
    try:
        with rnnfast.use_backend("cuda"):
            rnnfast.dispatch.backend_for(torch.zeros(1))
    except rnnfast.BackendError as error:
        print(error)
os.environ["RNNFAST_CUDA_DRIVER"] = ""
try:
    print(cuda.bridge.limits(0))
except cuda.bridge.DriverError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    first, second, third = done.stdout.splitlines()
    assert "backend 'cuda' (forced by use_backend) cannot run this call" in first
    assert "the CUDA driver does not load: /nonexistent/libcuda.so" in first
    assert "the CUDA driver libm.so.6 has no cuInit: it is too old" in second
    assert "has no cuInit" not in third, "an empty name is none"


def test_dispatch_serves_cpu_tensors_only_when_asked():
    x = torch.zeros(1)
    assert dispatch.backend_for(x) is native
    with use_backend("cuda"):
        assert dispatch.backend_for(x) is cuda
        with pytest.raises(BackendError, match=r"the dtype is torch\.bfloat16, not float32 or"):
            dispatch.backend_for(x.bfloat16())


def test_an_old_gpu_is_a_reason(monkeypatch):
    monkeypatch.setattr(bridge, "limits", lambda device: bridge.Limits(75, 40, 64 * 1024))
    cuda_module._start.cache_clear()
    assert cuda.load_error() == "the device has compute capability 7.5, not 8.0 or more"
    monkeypatch.undo()
    cuda_module._start.cache_clear()
    assert cuda.load_error() == ""


def test_the_device_of_a_call_is_the_one_that_is_asked(monkeypatch):
    asked = []

    def limits(device):
        asked.append(device)
        return bridge.Limits(90, 132, 227 * 1024)

    def resident(plan, device):
        asked.append(device)
        return 7

    monkeypatch.setattr(bridge, "limits", limits)
    monkeypatch.setattr(bridge, "resident", resident)
    monkeypatch.setattr(bridge, "check", asked.append)
    for operation in ("rnn_forward", "decode"):
        asked.clear()
        plan_for(Question(operation, 2, 300, 28, 32, 0, False, 3, "FFMA"))
        assert set(asked) == {3}
        assert len(asked) > 1
    asked.clear()
    cuda.check_errors(torch.device("cuda", 3))
    assert asked == [3]


def test_explain_names_variants_and_reasons():
    with use_backend("cuda"):
        text = str(rnnfast.explain(models.ours(models.params(5, 512))))
    assert re.search(r"H=512 B=32: a cluster of \d+ blocks for \d+ sequences, \w+ products", text)
    assert re.search(r"us a step \((measured|predicted, .*)\), against .* us step by step", text)
    assert "products as exact as FFMA, as torch's precision 'highest' asks" in text
    with use_backend("cuda"):
        text = str(rnnfast.explain(models.ours(models.params(5, 9, torch.float64))))
    assert "one matrix product and one kernel for every step: no kernel for all steps is" in text


@pytest.mark.parametrize("H", [60, 500])
def test_explain_prints_what_the_launch_asked_and_got(H, driver, monkeypatch):
    """Whatever the device answers: here it runs two of each at once."""
    asked, launched = [], []

    def resident(plan, device):
        asked.append(plan)
        return 2

    def recorded(question):
        launched.append(plan_for(question))
        return launched[-1]

    monkeypatch.setattr(bridge, "resident", resident)
    bridge.start(recorded)
    bridge.forget_plans()
    p = make(2, 32, H, 28)
    untyped.rnn_forward(cuda, p.x, p.ids, p.W_hh, p.b_h, p.h0, False)
    by_launch, asked[:] = list(asked), []
    with use_backend("cuda"):
        text = str(rnnfast.explain(models.ours(models.params(28, H))))
    bridge.start(plan_for)
    bridge.forget_plans()
    line = next(line for line in text.splitlines() if f"H={H} B=32:" in line)
    assert ", 2 at once" in line
    rows = launched[0].rows
    assert ("for each sequence" if rows == 1 else f"for {rows} sequences") in line
    assert all(plan in asked for plan in by_launch)
