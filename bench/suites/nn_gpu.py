"""The suite `nn` on a GPU, where torch.nn.RNN is cuDNN, with TF32 as torch's default has it."""

from __future__ import annotations

from dataclasses import replace

from bench.suites import nn

SUITE = replace(
    nn.SUITE, name="nn_gpu", device="cuda", probe=None, settle=0.0, budget=0.004, answer=60
)
