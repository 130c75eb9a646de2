"""The table of kernel variants as the benchmark writes it."""

import json

import pytest

from bench.tools import variants
from rnnfast.backends.cuda import kernel_table
from rnnfast.backends.cuda.choose_recurrence import CYCLES_PER_US


@pytest.mark.parametrize(("issue", "latency"), [(300, 500), (900, 260), (80, 0)])
def test_cycles_are_those_that_the_model_would_turn_into_the_times(issue, latency):
    unit = CYCLES_PER_US
    times = {n: max(n * issue, issue + latency) / unit for n in (1, 8)}
    assert variants.cycles_of(times) == pytest.approx([issue, latency], abs=0.2)
    # A block alone never takes longer than it does beside others: the rest is noise.
    assert variants.cycles_of({1: 400 / unit, 8: 4000 / unit}) == pytest.approx([400, 0])
    assert variants.cycles_of({8: 1.0}) is None
    assert variants.cycles_of({1: 1.0, 8: 0.0}) is None


def test_the_table_is_written_with_what_was_measured(tmp_path):
    table = kernel_table.table()
    file = tmp_path / "table.json"
    variants.write_table(file, {table[3]: {"rnn_forward": [300.0, 500.0]}}, 90)
    rows = json.loads(file.read_text())
    new = [kernel_table.from_row(row) for row in rows]
    assert next(iter(new[3].cycles)) == "90"  # predictions come last
    assert not any(row.get("most_capability") == 999 for row in rows)
    assert new[:3] + new[4:] == [*table[:3], *table[4:]]
    assert [(v.unit, v.macros) for v in new] == [(v.unit, v.macros) for v in table]
    assert new[3].cycles["90"] == {"rnn_forward": [300.0, 500.0]}
    assert [v.cycles for v in new[4:]] == [v.cycles for v in table[4:]]
