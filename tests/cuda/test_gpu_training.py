"""On a real GPU: many graphed steps beside the ungraphed loop, and compute-sanitizer's tools."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rnnfast import RNNModelScratch, get_params, init_rnn_state, rnn, train_epoch_ch8
from rnnfast.training import graphs

pytestmark = pytest.mark.gpu
V, H, B, T = 28, 512, 32, 35
PARTS, STEPS = 20, 500
RATE = 0.05  # small enough that two roundings stay together, as they do not at rate 1


def trainer(monkeypatch, switch):
    """Trains `STEPS` minibatches a call, in graphs or not; gives the mean loss."""
    torch.manual_seed(0)
    net = RNNModelScratch(V, H, "cuda", get_params, init_rnn_state, rnn)
    corpus = torch.randint(V, (2, B, T + 1), generator=torch.Generator().manual_seed(0))
    few = [(rows[:, :-1], rows[:, 1:]) for rows in corpus]
    optimizer, loss = torch.optim.SGD(net.params, RATE), nn.CrossEntropyLoss()

    def epoch():
        monkeypatch.setenv(graphs.SWITCH, switch)
        batches = (few[i % len(few)] for i in range(STEPS))
        return math.log(train_epoch_ch8(net, batches, loss, optimizer, "cuda", False)[0])

    return epoch


def test_10_000_graphed_steps_keep_to_the_ungraphed_loop_and_to_their_memory(monkeypatch):
    graphed, plain = trainer(monkeypatch, "1"), trainer(monkeypatch, "0")
    memory = []
    for _ in range(PARTS):
        losses = graphed(), plain()
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        memory.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert memory[-1] == memory[1]  # the first part allocates what stays


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_small_shapes_under_compute_sanitizer(tool):
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if program is None:
        pytest.skip("compute-sanitizer is not installed")
    check = f"""
import sys; sys.path[:0] = {sys.path[:8]!r}
import test_gpu_functions as gpu
for name in gpu.FUNCTIONS:
    for shape in ((4, 5, 7, 33), (3, 9, 28, 128), (4, 3, 28, 300)):
        gpu.check(name, shape, "cuda", "cuda")
"""
    # Without torch's own pools each tensor is an allocation whose ends are watched.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", check]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
