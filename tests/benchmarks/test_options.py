"""The costs of options as the benchmark writes them."""

import json
import sys
from unittest import mock

from bench.tools import options


class Clock:
    """A call says itself how long it takes."""

    def seconds(self, call, prepare, budget):
        return call()


def test_a_cost_is_how_many_times_the_plain_call_is_taken(monkeypatch):
    monkeypatch.setattr(options, "HostClock", Clock)
    costs = options._measure({"plain": lambda: 2.0, "resets": lambda: 4.0}, 3, 0.0)
    assert costs["resets"]["times_plain"]["median"] == 2
    assert costs["plain"]["microseconds"] == 2e6


def test_states_are_taken_without_a_graph():
    made = []
    with mock.patch.object(options.functional, "rnn", lambda *a, **b: (made.append(a), None)):
        for gradients in (False, True):
            calls = options._calls(8, 4, gradients)
            with mock.patch.object(options.torch.autograd, "grad", return_value=None):
                calls["plain"]()
    assert [any(each.requires_grad for each in arguments) for arguments in made] == [False, True]


def test_costs_are_told_in_times_of_the_plain_call(tmp_path, capsys):
    file = tmp_path / "options.json"
    arguments = ["options.py", "--rounds", "1", "--budget", "0", "--out", str(file)]
    with mock.patch.object(sys, "argv", arguments), mock.patch.object(options, "SHAPES", [(8, 4)]):
        options.main()
    costs = json.loads(file.read_text())["costs"]["H8_N4"]["gradients"]
    assert set(costs) == {"plain", "resets", "leak", "noise"}
    assert costs["plain"]["times_plain"]["median"] == 1
    assert "plain 1.0" in capsys.readouterr().out
