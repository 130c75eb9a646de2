"""The GPU suite, rehearsed without a GPU: every stage runs, hangs are ended, figures are found."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import cycles, report, runner, targets
from bench.gpu.clock import EventClock
from bench.gpu.plan import STAGES, TOTAL, Entry
from bench.gpu.rehearsal import CpuEvent
from bench.gpu.stage import Stage
from rnnfast.backends import native
from rnnfast.backends.cuda import kernel_table

ROOT = Path(__file__).parents[1]
needs_library = pytest.mark.skipif(bool(native.load_error()), reason="the library was not built")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A rehearsal of the whole suite: its output, its result and its folder."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "bench/run.py", "--suite", "gpu", "--dry", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=4 * TOTAL)
    log = (out / "gpu-rehearsal.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    return done.stdout, json.loads((out / "gpu-rehearsal.json").read_text()), out


@needs_library
def test_every_stage_runs_to_its_end(rehearsed):
    _, result, _ = rehearsed
    assert list(result["stages"]) == [entry.name for entry in STAGES]
    assert not any(record["failures"] for record in result["stages"].values())
    assert {row["stage"] for row in result["rows"]} == set(result["stages"])
    assert not [row for row in result["rows"] if row.get("ok") is False]


@needs_library
def test_a_rehearsal_says_so_everywhere(rehearsed):
    output, result, out = rehearsed
    assert result["rehearsal"] is True
    assert "no GPU figure" in result["note"]
    assert output.count(result["note"]) == 2  # above the tables and below them
    assert "Targets (rehearsal: nothing here is one)" in output
    assert "reached" not in output
    assert not (out / "gpu.json").exists()
    assert (out / "gpu-rehearsal.png").stat().st_size > 10_000


@needs_library
def test_what_is_timed_was_found_right_before(rehearsed):
    _, result, _ = rehearsed
    rows = result["rows"]
    for kind, what in (("train", "train step"), ("decode", "decode"), ("clip", "clip")):
        agreed = {row["peer"] for row in rows if row.get("what") == what and row.get("ok")}
        timed = {row["peer"].split("+")[0] for row in rows if row.get("kind") == kind}
        assert {peer for peer in timed if "train_epoch" not in peer} <= {
            peer.split("+")[0] for peer in agreed
        }
    peers = {row["peer"] for row in rows if row.get("kind") == "train"}
    assert {"scratch", "cudnn+graph", "cudnn_tf32+graph", "native train_epoch_ch8"} <= peers
    assert {"book", "torch foreach", "native d2l"} <= {
        row["peer"] for row in rows if row.get("kind") == "clip"
    }


@needs_library
def test_the_endurance_run_is_graphed(rehearsed):
    _, result, _ = rehearsed
    parts = [row for row in result["rows"] if row.get("kind") == "endurance"]
    assert parts[-1]["steps"] == 15
    assert all(row["relative"] < 1e-6 for row in parts)
    log = [row for row in result["rows"] if row.get("kind") == "endurance-levels"]
    assert [row["level"].split(":")[0] for row in log] == ["level 'graph'", "level 'step'"]


@needs_library
def test_the_report_is_made_anew_from_the_file(rehearsed, monkeypatch, capsys):
    output, _, out = rehearsed
    monkeypatch.setattr(sys, "argv", ["report", str(out / "gpu-rehearsal.json")])
    report.main()
    assert capsys.readouterr().out.strip() in output


_STUB = """
import json, sys, time
rows, start, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(rows, "a") as file:
    for at in range(start, 4):
        print(json.dumps({"stage": "stub", "at": at, "item": f"item {at}"}), file=file, flush=True)
        if at == 1:
            print("{half a r", end="", file=file, flush=True)
            if how == "hang":
                time.sleep(600)
            sys.exit(7)
        print(json.dumps({"stage": "stub", "value": at}), file=file, flush=True)
"""


@pytest.mark.parametrize(
    ("how", "failure"), [("hang", "ended: nothing new for 2 s"), ("crash", "exit code 7")]
)
def test_a_stage_is_started_again_behind_what_ended_it(tmp_path, monkeypatch, how, failure):
    def stub(entry, file, budget, start):
        return [sys.executable, "-c", _STUB, str(file), str(start), how]  # and flags behind

    monkeypatch.setattr(runner, "command_of", stub)
    monkeypatch.setattr(runner, "STAGES", [Entry("stub", "stub", 40, quiet=2)])
    run = runner.Run(tmp_path, dry=False)
    run.stages(["stub"])
    run.save()
    result = json.loads(run.file.read_text())
    assert [row["value"] for row in result["rows"]] == [0, 2, 3]
    assert result["stages"]["stub"]["failures"] == [f"{failure} at item 1"]
    assert not run.is_clean()


def test_turns_are_interleaved_and_as_long_as_asked(monkeypatch):
    class Event(CpuEvent):
        def record(self):
            self.at = float(len(log))  # every call takes a second

    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event())
    log = []
    calls = {name: lambda name=name: log.append(name) for name in "ab"}
    seconds = EventClock().race(calls, rounds=3, turn=4.0)
    assert "".join(log) == "aaaa" + "bbbb" + 3 * ("aaaa" + "bbbb")
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_a_call_that_no_graph_can_hold_is_told_and_left_out(tmp_path):
    stage = Stage("clipping", tmp_path / "rows", 10, 0, dry=True)

    def waiting():
        raise RuntimeError("operation not permitted when stream is capturing")

    assert list(stage.graphed({"good": lambda: None, "bad": waiting})) == ["good+graph"]
    row = json.loads((tmp_path / "rows").read_text())
    assert (row["kind"], row["peer"]) == ("failed", "bad+graph")
    assert "not timed: bad+graph" in report._correct([row])


def test_time_that_is_up_ends_a_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runner, "command_of", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
    )
    monkeypatch.setattr(runner, "_FEWEST_SECONDS", 0.5)
    monkeypatch.setattr(runner, "STAGES", [Entry(name, "stub", 60) for name in "ab"])
    run = runner.Run(tmp_path, dry=False, total=1.5)
    began = time.monotonic()
    run.stages(["a", "b"])
    assert time.monotonic() - began < 6
    failures = {name: record["failures"] for name, record in run.result["stages"].items()}
    assert failures == {"a": ["ended: its time was up"], "b": ["no time left"]}


def test_without_a_gpu_it_says_what_to_do():
    command = [sys.executable, "bench/run.py", "--suite", "gpu", "--stages", "environment"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "torch sees no CUDA device; --dry rehearses the suite without a GPU" in done.stderr


@pytest.mark.parametrize(("issue", "latency"), [(300, 500), (900, 260), (80, 0)])
def test_cycles_are_those_that_the_model_would_turn_into_the_times(issue, latency):
    unit = cycles.CYCLES_PER_US
    times = {g: max(g * issue, issue + latency) / unit for g in (1, 8)}
    assert cycles.cycles_of(times) == pytest.approx([issue, latency], abs=0.2)
    assert cycles.cycles_of({8: 1.0}) is None
    assert cycles.cycles_of({1: 1.0, 8: 0.0}) is None


def test_the_table_of_variants_is_written_with_what_was_measured(tmp_path):
    variant = kernel_table.table()[3]
    row = {"kind": "variant", "variant": cycles.as_row(variant), "capability": 90}
    rows = [{**row, "operation": "rnn_forward", "cycles": [300.0, 500.0]}]
    assert cycles.table(rows, tmp_path / "variants.json") == 1
    new = [
        kernel_table.from_row(each) for each in json.loads((tmp_path / "variants.json").read_text())
    ]
    assert [each.macros for each in new] == [each.macros for each in kernel_table.table()]
    assert new[3].cycles["90"] == {"rnn_forward": [300.0, 500.0]}


def _time(peer, us, op="states", H=512, N=32, T=35):
    figures = {"q10": us, "median": us, "q90": us}
    return {"kind": "time", "op": op, "peer": peer, "H": H, "N": N, "T": T, "us": figures}


def test_targets_compare_with_the_right_peers():
    rows = [_time("cuda", 40), _time("cuda+graph", 28), _time("cuda_high+graph", 1)]
    rows += [_time("cudnn", 300), _time("cudnn+graph", 140), _time("cudnn_tf32+graph", 70)]
    lines = targets.lines(rows, rehearsal=False).splitlines()
    assert lines[1:4] == [
        "- states H=512 N=32, us per step: 0.8, at most 0.9: reached",
        "- states H=512 N=32, times cudnn+graph: 5, at least 4: reached",
        "- states H=512 N=32, times cudnn_tf32+graph: 2.5, at least 3: NOT reached",
    ]
    assert "median times the best peer: 2.5, at least 2: reached" in lines[4]
    rows.append(_time("cudnn", 10, N=1))
    rows.append(_time("cuda", 20, N=1))
    assert "least times the best peer: 0.5, at least 1: NOT reached" in targets.lines(rows, False)
