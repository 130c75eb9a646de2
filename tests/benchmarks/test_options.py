"""The costs of options as the benchmark writes them."""

import json
import sys
from unittest import mock

from bench.tools import options


def test_costs_are_told_in_times_of_the_plain_call(tmp_path, capsys):
    file = tmp_path / "options.json"
    arguments = ["options.py", "--rounds", "1", "--budget", "0", "--out", str(file)]
    with mock.patch.object(sys, "argv", arguments), mock.patch.object(options, "SHAPES", [(8, 4)]):
        options.main()
    costs = json.loads(file.read_text())["costs"]["H8_N4"]["gradients"]
    assert set(costs) == {"plain", "resets", "leak", "noise"}
    assert costs["plain"]["times_plain"]["median"] == 1
    assert "plain 1.0" in capsys.readouterr().out
