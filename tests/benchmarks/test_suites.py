"""The benchmark's suites, run small: what is timed was proven before, and who fails is told."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from bench.cases import Case, Stack
from bench.harness import report
from bench.harness.agree import Judge
from bench.harness.measure import Bench, Plan, Workers, YardstickError
from bench.harness.protocol import ROOT, WorkerError
from bench.harness.summary import machine, summarise
from bench.harness.truth import BookTruth
from bench.harness.worker import Host
from bench.peers import scratch
from bench.suites import Entry, Suite

CASE = Case("tiny", 8, batch=3, steps=4, epoch=2, ops=("train", "forward", "states"))
YARDSTICK = Entry("scratch", "scratch", "onehot")
PLAN = Plan(CASE.ops, rounds=2, budget=0.0, threads=1, limit=60)


def run(*arguments: str, timeout: int = 900) -> subprocess.CompletedProcess:
    command = [sys.executable, "bench/run.py", "--threads", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A rehearsal of the GPU suite: its output, its result and its folder."""
    out = tmp_path_factory.mktemp("gpu")
    peers = ["cudnn+graph", "ours", "ours+graph", "ours_epoch"]
    done = run("--suite", "gpu", "--dry", "--out", str(out), "--peers", *peers)
    log = (out / "gpu-rehearsal.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    return done.stdout, json.loads((out / "gpu-rehearsal.json").read_text()), out


def test_a_rehearsal_times_every_operation_of_ours(rehearsed):
    _, result, _ = rehearsed
    timed = {op: set(o["peers"]) for op, o in result["cases"]["H8"]["ops"].items()}
    for op in ("states", "gradients", "clip", "train", "generate"):
        assert {"ours", "ours+graph"} <= timed[op]
    assert "ours_epoch" in timed["train"]


def test_a_rehearsal_says_so_everywhere(rehearsed):
    output, result, out = rehearsed
    assert "no GPU figure" in result["note"]
    assert result["note"] in output
    assert not (out / "gpu.json").exists()
    assert (out / "gpu-rehearsal.png").stat().st_size > 10_000
    assert (out / "gpu-rehearsal-variants.json").exists()


def test_the_report_is_made_anew_from_the_file(rehearsed, monkeypatch, capsys):
    output, result, out = rehearsed
    monkeypatch.setattr(sys, "argv", ["report", str(out / "gpu-rehearsal.json"), "--details"])
    report.main()
    text = capsys.readouterr().out
    assert report.summary(result) in output
    assert report.summary(result) in text
    assert "| H8, train | us | tokens/s |" in text


RESULTS = sorted((ROOT / "bench" / "results").rglob("*pu.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_committed_results_hold_figures_and_no_samples(file):
    result = json.loads(file.read_text())
    assert f"commit {result['commit'][:12]}" in report.summary(result)
    for record in result["cases"].values():
        for operation in record["ops"].values():
            assert operation["ours"] in operation["peers"]
            for figures in operation["peers"].values():
                seconds = list(figures["seconds"].values())
                assert {"q10", "median", "q90"} <= set(figures["seconds"])
                assert seconds == sorted(seconds)
                assert not any(isinstance(value, list) for value in figures.values())


def test_without_a_gpu_it_says_what_to_do():
    done = run("--suite", "gpu")
    assert done.returncode == 1
    assert "torch sees no CUDA device; --dry rehearses the suite without a GPU" in done.stderr


def test_a_result_of_the_same_commit_can_be_resumed(tmp_path):
    few = ("--only", "one_step", "N1*", "--peers", "scratch", "--ops", "states", "--budget", "0")
    assert run(*few, "--out", str(tmp_path), "--seconds", "0.001").returncode == 0
    file = tmp_path / "cpu.json"
    early = json.loads(file.read_text())
    assert not early["cases"]
    assert early["told"] == {"no time left for": "N1_H512, one_step; --resume measures them"}
    assert run(*few, "--out", str(tmp_path), "--resume").returncode == 0
    result = json.loads(file.read_text())
    assert list(result["cases"]) == ["N1_H512", "one_step"]
    assert not result["told"]
    file.write_text(json.dumps({**result, "commit": "another"}))
    done = run(*few, "--out", str(tmp_path), "--resume")
    assert done.returncode == 1
    assert "--resume: the result is of commit another" in done.stderr


def test_a_pattern_that_no_case_has_is_refused():
    done = run("--only", "H65")
    assert "--only H65: no case of cpu is so named" in done.stderr


class InProcess(Workers):
    """Workers in this process."""

    def start(self, entry):
        host = Host(entry.module, entry.variant, 1, "cpu")
        handlers = {"setup": host.setup, "check": host.check, "time": host.time}

        class Worker:
            def ask(self, do, **arguments):
                try:
                    return handlers[do](**arguments)
                except Exception as error:
                    raise WorkerError(str(error)) from error

        return Worker()

    def stop(self, name):
        pass


@pytest.fixture
def wrong_peer(monkeypatch):
    """A module of peers whose gradients are off by one part in a thousand."""

    class Wrong(scratch.Scratch):
        def params(self):
            start = [p.detach() for p in self._fixed.params]
            pairs = zip(start, super().params(), strict=True)
            return [a + 1.001 * (b.detach() - a) for a, b in pairs]

    module = types.ModuleType("bench.peers.wrong")
    module.make = lambda variant, task, threads, device: Wrong(task, scratch.textbook.Model, device)
    module.versions = dict
    monkeypatch.setitem(sys.modules, "bench.peers.wrong", module)


def admitted(entries, case=CASE):
    bench = Bench(case, PLAN, InProcess(PLAN, None))
    bench.admit(entries, entries[0].name)
    return bench


def test_a_peer_that_misses_the_rule_is_left_out_and_told(wrong_peer):
    bench = admitted([YARDSTICK, Entry("wrong", "wrong")])
    assert list(bench.runners) == ["scratch"]
    assert "train W_xh: error" in bench.left_out["wrong"]
    assert not bench.failures


def test_ours_that_misses_the_rule_is_an_error(wrong_peer):
    bench = admitted([YARDSTICK, Entry("wrong", "wrong", ours=True)])
    assert len(bench.failures) == 1
    assert bench.failures[0].startswith("tiny: wrong: train W_xh: error")


def test_a_peer_with_a_tolerance_of_its_own_is_admitted(wrong_peer):
    bench = admitted([YARDSTICK, Entry("wrong", "wrong", tolerance=0.01)])
    assert list(bench.runners) == ["scratch", "wrong"]


def test_ours_agrees_on_every_operation():
    case = Case("tiny", 8, batch=3, steps=4, epoch=2, ops=("train", "forward", "generate"))
    bench = admitted([YARDSTICK, Entry("ours", "ours", "step", ours=True)], case)
    assert bench.runners["ours"].ops == ["train", "forward"]  # what the plan asks for
    assert not bench.failures


@pytest.mark.parametrize("packed", [False, True])
def test_stacks_of_layers_are_proven_as_well(packed):
    case = Stack("tiny", 5, batch=3, steps=4, inputs=6, layers=2, directions=2, packed=packed)
    plan = Plan(case.ops, rounds=1, budget=0.0, threads=1, limit=60)
    bench = Bench(case, plan, InProcess(plan, None))
    bench.admit([Entry("torch", "layers", "torch")], "torch")
    errors = bench.runners["torch"].errors["gradients"]
    assert {"output", "h_n", "grad x", "grad h_0", "grad weight_hh_l1_reverse"} <= set(errors)
    assert 0 < max(errors.values()) < 1e-4


def test_figures_are_medians_and_quantiles_of_the_rounds(wrong_peer):
    bench = admitted([YARDSTICK, Entry("mine", "scratch", "ids", ours=True)])
    timed = bench.time(PLAN.ops, None)
    for (op, name), samples in timed.items():
        samples.seconds[:] = [1.0, 3.0] if name == "scratch" else [0.5, 1.0]
        assert op in PLAN.ops
    suite = Suite("tiny", {}, (), "scratch")
    found = summarise(suite, bench, timed)["train"]
    assert (found["ours"], found["best_peer"], found["units"]) == ("mine", "scratch", 24)
    mine = found["peers"]["mine"]
    assert mine["seconds"] == {"q10": 0.55, "q25": 0.625, "median": 0.75, "q75": 0.875, "q90": 0.95}
    assert mine["times_yardstick"]["median"] == 2.5
    assert machine(timed) == {}
    record = {"ops": {"train": found}, "left_out": {}}
    assert report.lines("tiny", record) == [
        "| tiny, train | mine | 7.5e+05 | scratch | 2e+06 | 2.50 | 2.50 |"
    ]


def test_a_worker_that_hangs_is_ended(tmp_path):
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    plan = Plan(("forward",), rounds=1, budget=0.0, threads=1, limit=1)
    with Workers(plan, subprocess.DEVNULL) as workers:
        bench = Bench(CASE, plan, workers)
        with pytest.raises(YardstickError, match="no answer within its limit of 1 s"):
            bench.admit([Entry("hangs", "scratch", python=str(program))], "hangs")


def test_generation_is_compared_up_to_the_first_near_tie(tmp_path):
    case = Case("tiny", 8, ops=("generate",), proven=20)
    true = BookTruth(case).generated
    sure = int(min([*np.flatnonzero(true.leads < 1e-3)[:1], 20]))

    def wrong(ids):
        def check(op, file):
            np.savez(file, ids)
            return {"seconds": 0.0}

        return Judge(case, tmp_path).admit(check, "generate", yardstick=True)[0]["characters"]

    ids = true.ids.copy()
    ids[sure:] += 1
    assert wrong(ids) == 0
    ids[sure - 1] += 1
    assert wrong(ids) == 1
