"""The book's model on the CPU: training, the loss, generation, against everybody installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.cases import OPS, AnyCase, Case
from bench.harness.probe import Probe, Reading
from bench.suites import Entry, Suite

_CASES = (
    Case("H64", 64),
    Case("H256", 256),
    Case("H512", 512),
    Case("H1024", 1024),
    Case("N1_H512", 512, batch=1, ops=OPS[:2]),
    Case("N256_H256", 256, batch=256, epoch=4, ops=OPS[:2]),
    Case("T512_H256", 256, steps=512, epoch=2, ops=OPS[:2]),
    Case("one_step", 4, batch=1, steps=1, vocab=4, ops=("states",)),
)
# How many times an operation multiplies by each weight matrix: forward, for the gradient of the
# state, and for the gradient of the weights.
_PASSES = {"train": 3, "gradients": 3}
_LONG = ("T512_H256",)  # unrolling 512 steps into one graph takes the compiler many minutes
_INFERENCE, _SMALL = ("forward", "generate"), ("H64", "one_step")
_BF16 = 0.05  # relative error


def limit(case: AnyCase, op: str, machine: Reading) -> float:
    """All arithmetic at the probed rate; generation must also read every weight at each step."""
    arithmetic = 2 * case.weights(op) * case.units(op) * _PASSES.get(op, 1)
    seconds = arithmetic / (machine.gflops * 1e9)
    if op == "generate":
        read = case.units(op) * 4 * case.weights()
        seconds = max(seconds, read / (machine.gbytes * 1e9))
    return seconds


def _onednn() -> dict[str, str]:
    """oneDNN's builds for SYCL find their own libraries, and the CPU device, only by these."""
    prefix = os.environ.get("BENCH_ONEDNN")
    if not prefix:
        return {}
    environment = {"LD_LIBRARY_PATH": f"{prefix}/lib"}
    if Path(f"{prefix}/lib/libintelocl.so").exists():
        environment["OCL_ICD_FILENAMES"] = f"{prefix}/lib/libintelocl.so"
    return environment


_JAX = os.environ.get("BENCH_JAX_PYTHON", sys.executable)
_ORT = os.environ.get("BENCH_ORT_PYTHON", sys.executable)

SUITE = Suite(
    "cpu",
    {case.name: case for case in _CASES},
    (
        Entry("scratch", "scratch", "onehot"),
        Entry("scratch_ids", "scratch", "ids"),
        Entry("torch_rnn", "torch_rnn", "fused"),
        Entry("torch_rnn_foreach", "torch_rnn", "foreach"),
        Entry("compile", "compiled", "scratch", skip=_LONG),
        Entry("compile_hoisted", "compiled", "hoisted", skip=_LONG),
        Entry("jax", "jax_scan", "1", python=_JAX, install="jax, and BENCH_JAX_PYTHON"),
        Entry("jax_unroll5", "jax_scan", "5", python=_JAX, install="jax, and BENCH_JAX_PYTHON"),
        Entry("onnxruntime", "ort", python=_ORT, install="onnx onnxruntime, and BENCH_ORT_PYTHON"),
        Entry("onednn", "onednn", environment=_onednn(), install="onednn-devel, and BENCH_ONEDNN"),
        Entry("ours_loop", "ours", "loop", ours=True, ops=("train",)),
        Entry("ours_loss", "ours", "loss", ours=True, ops=("train", "forward")),
        Entry("ours", "ours", "step", ours=True),
        Entry("ours_avx2", "ours", "step", ours=True, environment={"RNNFAST_CPU_ISA": "avx2"}),
        Entry("ours_bf16", "ours", "step+medium", True, _BF16, ops=_INFERENCE, skip=_SMALL),
    ),
    yardstick="scratch",
    probe=Probe,
    limit=limit,
    fresh=True,
    settle=0.05,
)
