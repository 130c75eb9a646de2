"""What fits no case of the CPU suite, as JSON: `python -m bench.cpu_extras THREADS ROUNDS`.

Ratios are of calls in the same round; all figures are medians over the rounds, with quantiles.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.cases import CASES, GENERATED, Case
from bench.summary import quantiles
from rnnfast import functional

_BUDGET = 0.2  # seconds of each turn


def main() -> None:
    threads, rounds = (int(argument) for argument in sys.argv[1:])
    torch.set_num_threads(threads)
    extras: dict[str, Any] = {}
    with torch.no_grad():
        for name in ("H256", "H512", "H1024"):
            layer, decode = _layer(CASES[name]), _decode(CASES[name])
            for what, call in (("layer forward", layer), ("greedy decode", decode)):
                ratios = [_bf16_gain(call) for _ in range(rounds)]
                extras[f"{what} by bfloat16, {name}"] = _figure(ratios, "times float32")
        tiny = _layer(Case("tiny", hidden=4, batch=1, steps=1, vocab=4))
        calls = [1e6 * _seconds(tiny, repeat=500) for _ in range(rounds)]
        extras["functional.rnn at T = B = 1, H = 4"] = _figure(calls, "us")
    imports = [_import_ms() for _ in range(rounds)]
    extras["import rnnfast, beyond torch's own"] = _figure(imports, "ms")
    print(json.dumps(extras))


def _layer(case: Case) -> Callable[[], Any]:
    W_xh, W_hh, b_h, _, _ = (torch.from_numpy(p) for p in case.problem().params)
    ids = torch.from_numpy(case.problem().batches[0][0]).T
    h0 = torch.zeros(case.batch, case.hidden)
    return lambda: functional.rnn(ids, h0, W_xh, W_hh, b_h)


def _decode(case: Case) -> Callable[[], Any]:
    W_xh, W_hh, b_h, W_hq, b_q = (torch.from_numpy(p) for p in case.problem().params)
    first, h0 = torch.zeros(1, dtype=torch.int64), torch.zeros(1, case.hidden)
    params = (W_xh, W_hh, b_h, W_hq, b_q)
    return lambda: functional.greedy_decode(first, h0, params, GENERATED)


def _bf16_gain(call: Callable[[], Any]) -> float:
    seconds = {}
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        seconds[precision] = _seconds(call)
    torch.set_float32_matmul_precision("highest")
    return seconds["highest"] / seconds["medium"]


def _seconds(call: Callable[[], Any], repeat: int = 1) -> float:
    """The median of single calls, or of the mean of `repeat`; one that does not count before."""
    call()
    samples: list[float] = []
    end = time.perf_counter() + _BUDGET
    while time.perf_counter() < end or not samples:
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        samples.append((time.perf_counter() - start) / repeat)
    return sorted(samples)[len(samples) // 2]


def _import_ms() -> float:
    """In a process that has torch already, whose own import varies by more than ours takes."""
    code = "import time, torch; t = time.perf_counter(); import rnnfast; "
    command = [sys.executable, "-c", code + "print(time.perf_counter() - t)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1e3 * float(done.stdout)


def _figure(values: list[float], unit: str) -> dict[str, Any]:
    return {**quantiles(values), "unit": unit}


if __name__ == "__main__":
    main()
