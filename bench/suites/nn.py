"""rnnfast.nn.RNN against torch.nn.RNN, as it is and compiled: stacks, directions, packed lengths.

On a GPU torch's is cuDNN, with TF32 as torch's default has it.
A name says what differs from one layer of one direction over sequences of 35 steps: L2 two layers,
bi both directions, packed lengths uniform in 1..35.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from bench.cases import AnyCase, Stack
from bench.harness.probe import Probe
from bench.suites import Entry, Suite
from bench.suites.cpu import limit

_HIDDENS, _BATCHES = (64, 256, 1024), (1, 32, 256)
_LARGEST = 256 * 512  # batch times hidden units of a stack: beyond, a call takes seconds


def _cases() -> list[AnyCase]:
    found: list[AnyCase] = [
        Stack("overhead", 4, batch=1, steps=1, inputs=4),
        *(Stack(f"H{H}_N32", H) for H in (128, 512)),
    ]
    kinds = product((1, 2), (1, 2), (False, True))
    for B, H, (layers, directions, packed) in product(_BATCHES, _HIDDENS, list(kinds)):
        if B * H <= _LARGEST or layers * directions == 1:
            name = f"H{H}_N{B}" + "_L2" * (layers == 2) + "_bi" * (directions == 2)
            name += "_packed" * packed
            found.append(Stack(name, H, B, layers=layers, directions=directions, packed=packed))
    return found


SUITE = Suite(
    "nn",
    {case.name: case for case in _cases()},
    (
        Entry("torch", "layers", "torch"),
        Entry("compile", "layers", "compile"),
        Entry("ours", "layers", "ours", ours=True),
    ),
    yardstick="torch",
    probe=Probe,
    limit=limit,
    settle=0.02,
    rounds=5,
    budget=0.1,
)

ON_GPU = replace(
    SUITE, name="nn_gpu", device="cuda", probe=None, settle=0.0, budget=0.004, answer=60
)
