"""What options cost beside the plain recurrence: `python bench/tools/options.py`.

Resets, a leak for each unit, and noise, on calls of `rnnfast.functional.rnn` with and without
gradients, whole calls, in turns. Writes results/options.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import rnnfast
from bench.harness import machine
from bench.harness.clock import HostClock
from bench.harness.measure import Samples
from bench.harness.protocol import ROOT
from bench.harness.summary import quantiles, ratios, short
from rnnfast import functional

T, V = 35, 28
SHAPES = [(64, 32), (128, 32), (256, 32), (512, 32), (64, 256), (256, 256)]  # H, B
Calls = dict[str, Callable[[], object]]


def main() -> None:
    options = _options()
    torch.set_num_threads(machine.processors())
    found = {
        f"H{H}_N{B}": {
            op: _measure(_calls(H, B, op == "gradients"), options.rounds, options.budget)
            for op in ("states", "gradients")
        }
        for H, B in tqdm(SHAPES, unit="shape", leave=False)
    }
    for shape, ops in found.items():
        for op, costs in ops.items():
            words = (f"{name} {each['times_plain']['median']}" for name, each in costs.items())
            print(f"{shape:10} {op:10} {'   '.join(words)}")
    result = {
        "date": datetime.date.today().isoformat(),
        **machine.commit(),
        "machine": machine.describe(),
        "versions": {"torch": torch.__version__, "rnnfast": rnnfast.__version__},
        "costs": found,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def _measure(calls: Calls, rounds: int, budget: float) -> dict[str, Any]:
    """Of each call its time, and how many times that is the plain one's in the same round."""
    clock = HostClock()
    taken = {name: Samples() for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].seconds.append(clock.seconds(call, lambda: None, budget))
    return {
        name: {
            "microseconds": short(1e6 * quantiles(samples.seconds)["median"]),
            "times_plain": quantiles(ratios(samples, taken["plain"])),
        }
        for name, samples in taken.items()
    }


def _calls(H: int, B: int, gradients: bool) -> Calls:
    torch.manual_seed(0)
    params = [torch.randn(V, H) / 10, torch.randn(H, H) / H**0.5, torch.zeros(H)]
    params = [each.requires_grad_(gradients) for each in params]
    ids, h0, grad = torch.randint(V, (T, B)), torch.zeros(B, H), torch.randn(T, B, H)

    def call(**options: Tensor | float) -> None:
        hs, _ = functional.rnn(ids, h0, *params, **options)  # type: ignore[arg-type]
        if gradients:
            torch.autograd.grad(hs, params, grad)

    return {
        "plain": call,
        "resets": partial(call, resets=torch.rand(T, B) < 0.05),
        "leak": partial(call, leak=torch.full((H,), 0.3)),
        "noise": partial(call, noise=0.1),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=0.05, help="seconds of each turn")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "options.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
