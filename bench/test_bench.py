"""The CPU suite's cases under pytest-benchmark: `pytest bench -n0`.

For work on one kernel: peers of this interpreter only, one after another, each first held against
float64. A peer that misses the rule is skipped, with the reason; ours fails.
BENCH_CASES names other cases than the small ones.
"""

from __future__ import annotations

import os
from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.harness.agree import DisagreementError, Judge
from bench.harness.machine import processors
from bench.harness.worker import Host
from bench.suites.cpu import SUITE

ENTRIES = {entry.name: entry for entry in SUITE.entries}
CASES = SUITE.cases
CHOSEN = os.environ.get("BENCH_CASES", "H64 N1_H512").split()
PEERS = (SUITE.yardstick, "torch_rnn", "ours_loop", "ours_loss", "ours")
TURNS = [(case, op, peer) for case in CHOSEN for op in CASES[case].ops for peer in PEERS]


@pytest.mark.parametrize(("case", "op", "peer"), TURNS)
def test_speed(case: str, op: str, peer: str, benchmark: BenchmarkFixture) -> None:
    host, ops = _host(case, peer)
    if op not in ops:
        pytest.skip(f"{peer} has no {op} of its own")
    try:
        _judge(case).errors(op, host.check(op)["results"])
    except DisagreementError as error:
        if ENTRIES[peer].ours:
            raise
        pytest.skip(str(error))
    benchmark.group = f"{case} {op}"
    benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin has no types
        host.calls[op], setup=lambda: host.prepare(op), rounds=30, warmup_rounds=1
    )


@cache
def _judge(case: str) -> Judge:
    """With the bounds that the yardstick's own errors set."""
    judge, (host, ops) = Judge(CASES[case]), _host(case, SUITE.yardstick)
    for op in ops:
        judge.errors(op, host.check(op)["results"], yardstick=True)
    return judge


def _host(case: str, peer: str) -> tuple[Host, list[str]]:
    entry = ENTRIES[peer]
    host = Host(entry.module, entry.variant, processors(), "cpu")
    return host, host.setup(CASES[case])["ops"]
