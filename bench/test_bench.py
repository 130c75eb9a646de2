"""The suite's cases under pytest-benchmark: `pytest bench`.

For work on one kernel: peers of this interpreter only, one after another, each first held against
float64. BENCH_CASES names other cases than the small ones.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.agree import Judge
from bench.cases import CASES
from bench.machine import processors
from bench.suites.cpu import SUITE
from bench.worker import Host

ENTRIES = {entry.name: entry for entry in SUITE.entries}
CHOSEN = os.environ.get("BENCH_CASES", "H64 N1_H512").split()
PEERS = {
    "train": (SUITE.yardstick, "torch_rnn", "ours_loop", "ours_loss", "ours"),
    "forward": (SUITE.yardstick, "torch_rnn", "ours_loss", "ours"),
    "generate": (SUITE.yardstick, "torch_rnn", "ours"),
}
TURNS = [(case, op, peer) for case in CHOSEN for op in CASES[case].ops for peer in PEERS[op]]


@pytest.mark.parametrize(("case", "op", "peer"), TURNS)
def test_speed(case: str, op: str, peer: str, benchmark: BenchmarkFixture) -> None:
    host = _host(case, peer)
    _judge(case).admit(host.check, op)
    benchmark.group = f"{case} {op}"
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        host.call(op), setup=lambda: host.prepare(op), rounds=30, warmup_rounds=1
    )


@cache
def _judge(case: str) -> Judge:
    """With the bounds that the yardstick's own errors set."""
    judge = Judge(CASES[case], Path(tempfile.gettempdir(), f"rnnfast-bench-{os.getpid()}.npz"))
    for op in CASES[case].ops:
        judge.admit(_host(case, SUITE.yardstick).check, op, yardstick=True)
    return judge


def _host(case: str, peer: str) -> Host:
    entry = ENTRIES[peer]
    host = Host(entry.module, entry.variant, processors())
    host.setup(asdict(CASES[case]))
    return host
