"""The recurrence and the book's model on a GPU, an H100 or an H200, against cuDNN and its graphs.

The most wanted cases come first: what comes late is left out when time is short. `REHEARSAL` has
tiny cases for the CPU, whose kernels then stand in for the GPU's, however long it takes.
"""

from __future__ import annotations

from dataclasses import replace

from bench.cases import Case
from bench.suites import Entry, Part, Suite

_TF32 = 0.05  # relative error; TF32 has 10 bits, and errors grow along the sequence
# cuDNN's own float32: up to H = 256 its error is 1.1e-5 on an H100, where torch's loop has 1e-6.
_CUDNN = 3e-5
_LAYER, _MODEL = ("states", "gradients"), ("states", "gradients", "train", "clip")
_VARIANTS = ("-m", "bench.tools.variants", "--out", "FOLDER/NAME-variants.json")
_PROVEN = 50  # ids: TF32 soon takes another path through a random net


def _cases() -> list[Case]:
    """Generation and the clip norm hang on H alone, training is timed at three batches."""
    found = []
    for N in (32, 1, 256, 8, 128):
        for H in (512, 64, 256, 1024, 128):
            whole = N in (1, 32, 256) and H != 128
            ops = (*_MODEL[:3], "generate") if N == 1 else _MODEL if N == 32 else _MODEL[:3]
            found.append((N, H, 35, ops if whole else _LAYER))
    found += [(N, H, 512, _LAYER) for N in (32, 1) for H in (512, 64, 256, 1024)]
    return [
        Case(f"H{H}_N{N}_T{T}", H, N, T, epoch=16 if "train" in ops else 1, ops=ops, proven=_PROVEN)
        for N, H, T, ops in found
    ]


_CASES = _cases()

SUITE = Suite(
    "gpu",
    {case.name: case for case in _CASES},
    (
        Entry("scratch", "scratch", "onehot"),
        Entry("cudnn", "cudnn", "eager", tolerance=_CUDNN),
        Entry("cudnn+graph", "cudnn", "graph", tolerance=_CUDNN),
        Entry("cudnn_tf32+graph", "cudnn", "tf32+graph", tolerance=_TF32),
        Entry("ours", "ours", "functional", ours=True),
        Entry("ours+graph", "ours", "functional+graph", ours=True),
        Entry("ours_epoch", "ours", "step", ours=True, ops=("train",)),
        Entry("ours_high+graph", "ours", "functional+graph+high", ours=True, tolerance=_TF32),
        Entry(
            "ours_triton+graph",
            "ours",
            "functional+graph",
            ours=True,
            environment={"RNNFAST_BACKEND": "triton"},
            ops=_LAYER,
        ),
    ),
    yardstick="scratch",
    device="cuda",
    rounds=5,
    budget=0.004,
    answer=60,
    seconds=285,
    reserve=50,
    before=(
        Part("kernels", ("-m", "rnnfast", "build"), 60),
        Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests"), 90),
    ),
    after=(Part("variants", _VARIANTS, 60),),
)

_TINY = (
    Case("H8", 8, batch=3, steps=4, epoch=2, ops=(*_MODEL, "generate")),
    Case("H12", 12, batch=1, steps=5, ops=_LAYER),
)

REHEARSAL = replace(
    SUITE,
    name="gpu-rehearsal",
    note="REHEARSAL WITHOUT A GPU: every time in here was taken on a CPU with tiny shapes and "
    "other kernels in the GPU's place. It is no GPU figure and says nothing about one.",
    cases={case.name: case for case in _TINY},
    entries=tuple(entry for entry in SUITE.entries if "triton" not in entry.name),
    device="cpu",
    rounds=1,
    budget=0.001,
    answer=600,
    seconds=float("inf"),
    before=(),
    after=(Part("variants", (*_VARIANTS, "--dry"), 3600),),
)
