"""What a result says of its machine: the commit, the compiler, the probed limit."""

from types import SimpleNamespace

import pytest

from bench.cases import Case
from bench.harness import compiler, machine, probe


def test_a_checkout_with_changes_is_told(monkeypatch):
    said = {"rev-parse": "abc", "status": " M setup.py"}
    asked = []

    def first_line(*command):
        asked.append(command)
        return said[command[3]]

    monkeypatch.setattr(machine, "_first_line", first_line)
    assert machine.commit() == {"commit": "abc", "dirty": True}
    assert ":!bench/results" in asked[-1], "results are no part of what is measured"
    said["status"] = None
    assert machine.commit() == {"commit": "abc", "dirty": False}
    said["rev-parse"] = None
    assert machine.commit() == {"commit": None, "dirty": None}


def test_a_program_that_is_not_there_says_nothing():
    assert machine._first_line("/nonexistent/program") is None


def test_the_compiler_is_the_one_that_is_named(monkeypatch, tmp_path):
    named = tmp_path / "other-c++"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("CXX", str(named))
    assert compiler.compiler() == str(named)
    monkeypatch.setenv("CXX", "")
    if compiler.compiler() is None:
        pytest.skip("no C++ compiler is there")
    (tmp_path / "wrong.cpp").write_text("int f() { return missing; }\n")
    with pytest.raises(compiler.CompileError, match=r"wrong\.cpp does not compile: .*missing"):
        compiler.load(tmp_path / "wrong.cpp")


def test_the_probe_reads_the_weights_share_of_each_thread(monkeypatch):
    calls = []

    def function(name, value):
        def call(*arguments):
            calls.append((name, *arguments))
            return value

        return call

    values = {"probe_gflops": 100.0, "probe_gbytes": 10.0, "probe_round_trip": -1.0}
    library = SimpleNamespace(**{name: function(name, value) for name, value in values.items()})
    monkeypatch.setattr(probe.compiler, "load", lambda source: library)
    case = Case("tiny", 8, vocab=4)
    assert probe.Probe(3)(case) == probe.Reading(100.0, 10.0, None)
    assert ("probe_gbytes", 3, 4 * 8 * (8 + 4) // 3) in calls
