"""The benchmark's suites, run small: what is timed was proven before, and who fails is told."""

import gc
import json
import subprocess
import sys
import types
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bench import run as cli
from bench.cases import Case, Stack
from bench.harness import report, run
from bench.harness.agree import Judge
from bench.harness.measure import Bench, Workers, YardstickError
from bench.harness.protocol import ROOT, WorkerError
from bench.harness.summary import machine, summarise
from bench.harness.truth import BookTruth
from bench.harness.worker import Host
from bench.peers import scratch
from bench.suites import Entry, Suite, gpu

CASE = Case("tiny", 8, batch=3, steps=4, epoch=2, ops=("train", "forward", "states"))
YARDSTICK = Entry("scratch", "scratch", "onehot")


def suite_of(entries, case=CASE):
    """A suite of one case, whose yardstick is the first entry."""
    name = entries[0].name
    return Suite("tiny", {case.name: case}, tuple(entries), name, rounds=2, budget=0.0, threads=1)


class InProcess(Workers):
    """Workers in this process."""

    def start(self, entry):
        if entry.name not in self._running:
            host = Host(entry.module, entry.variant, 1, "cpu")
            self._running[entry.name] = types.SimpleNamespace(ask=partial(self._ask, host))
        return self._running[entry.name]

    def stop(self, name):
        self._running.pop(name, None)

    def _ask(self, host, do, **arguments):
        try:
            return getattr(host, do)(**arguments)
        except Exception as error:
            raise WorkerError(str(error)) from error


@pytest.fixture(autouse=True)
def _unfrozen():
    """A worker freezes what it holds, which in this process is everybody's."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A rehearsal of the GPU suite, by its command: its output, its result and its folder."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "bench/run.py", "--suite", "gpu-rehearsal", "--out", str(out)]
    command += ["--threads", "1", "--peers", "ours", "--only", "H12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    log = (out / "gpu-rehearsal.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    return done.stdout, json.loads((out / "gpu-rehearsal.json").read_text()), out


def test_a_rehearsal_says_so_everywhere(rehearsed):
    output, result, out = rehearsed
    assert "no GPU figure" in result["note"]
    assert result["note"] in output
    assert not (out / "gpu.json").exists()
    assert (out / "gpu-rehearsal.png").stat().st_size > 10_000
    assert (out / "gpu-rehearsal-variants.json").exists()
    assert list(result["cases"]) == ["H12"]


def test_a_rehearsal_times_every_operation_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Workers", InProcess)
    ours = ["ours", "ours+graph", "ours_epoch", "cudnn+graph"]
    suite = replace(gpu.REHEARSAL.only(["H8"], ours, ["*"]), after=())
    a_run = run.Run(suite, tmp_path)
    a_run.run()
    assert not a_run.failures
    result = json.loads(a_run.file.read_text())
    timed = {op: set(o["peers"]) for op, o in result["cases"]["H8"]["ops"].items()}
    for op in ("states", "gradients", "clip", "train", "generate"):
        assert {"ours", "ours+graph"} <= timed[op]
    assert "ours_epoch" in timed["train"]


def test_the_report_is_made_anew_from_the_file(rehearsed, monkeypatch, capsys):
    output, result, out = rehearsed
    monkeypatch.setattr(sys, "argv", ["report", str(out / "gpu-rehearsal.json"), "--details"])
    report.main()
    text = capsys.readouterr().out
    assert report.summary(result) in output
    assert report.summary(result) in text
    assert "| H12, states | us | tokens/s |" in text


RESULTS = [ROOT / "bench" / "results" / f"{name}.json" for name in ("cpu", "gpu", "nn")]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "gpu"], "torch sees no CUDA device; --suite gpu-rehearsal runs without a GPU"),
        (["--only", "H65"], "no case is named H65, only H64 H256"),
        (["--peers", "our"], "no peer is named our, only scratch"),
    ],
)
def test_what_cannot_be_run_is_told(arguments, message, monkeypatch):
    monkeypatch.setattr(cli, "_has_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit, match=f"bench: error: {message}"):
        cli.main()


def test_a_result_of_the_same_commit_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Workers", InProcess)
    monkeypatch.setattr(run.machine, "commit", lambda: {"commit": "this", "dirty": False})
    suite = suite_of([YARDSTICK])
    suite = replace(suite, cases={name: replace(CASE, name=name) for name in ("first", "second")})
    early = run.Run(replace(suite, seconds=0.0), tmp_path)
    early.run()
    result = json.loads(early.file.read_text())
    assert not result["cases"]
    assert result["told"] == {"no time left for": "first, second; --resume measures them"}
    run.Run(suite.only(["first"], ["*"], ["states"]), tmp_path, resume=True).run()
    run.Run(suite, tmp_path, resume=True).run()
    result = json.loads(early.file.read_text())
    ops = {name: list(record["ops"]) for name, record in result["cases"].items()}
    assert ops == {"first": ["states"], "second": list(CASE.ops)}  # the first was not done again
    assert not result["told"]
    early.file.write_text(json.dumps({**result, "commit": "another"}))
    with pytest.raises(ValueError, match="--resume: the result is of commit another, not this"):
        run.Run(suite, tmp_path, resume=True)


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
    module.VERSIONS = {}
    monkeypatch.setitem(sys.modules, "bench.peers.wrong", module)


def admitted(entries, case=CASE):
    suite = suite_of(entries, case)
    bench = Bench(case, suite, InProcess(suite, None))
    bench.admit()
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
    assert bench.runners["ours"].ops == list(case.ops)
    assert not bench.failures


@pytest.mark.parametrize("packed", [False, True])
def test_stacks_of_layers_are_proven_as_well(packed):
    case = Stack("tiny", 5, batch=3, steps=4, inputs=6, layers=2, directions=2, packed=packed)
    bench = admitted([Entry("torch", "layers", "torch")], case)
    errors = bench.runners["torch"].errors["gradients"]
    assert {"output", "h_n", "grad x", "grad h_0", "grad weight_hh_l1_reverse"} <= set(errors)
    assert 0 < max(errors.values()) < 1e-4


def test_figures_are_medians_and_quantiles_of_the_rounds(wrong_peer):
    bench = admitted([YARDSTICK, Entry("mine", "scratch", "ids", ours=True)])
    timed = bench.time()
    assert list(timed) == list(CASE.ops)
    for samples in timed.values():
        samples["scratch"].seconds[:] = [1.0, 3.0]
        samples["mine"].seconds[:] = [0.5, 1.0]
    found = summarise(bench, timed)["train"]
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
    suite = replace(suite_of([Entry("hangs", "scratch", python=str(program))]), answer=0.3)
    with Workers(suite, subprocess.DEVNULL) as workers:
        bench = Bench(CASE, suite, workers)
        with pytest.raises(YardstickError, match=r"no answer within its limit of 0\.3 s"):
            bench.admit()


def test_a_worker_that_dies_is_told(tmp_path):
    suite = suite_of([Entry("dies", "scratch", python="/bin/false")])
    with Workers(suite, subprocess.DEVNULL) as workers:
        bench = Bench(CASE, suite, workers)
        with pytest.raises(YardstickError, match="died with exit code 1"):
            bench.admit()


def test_generation_is_compared_up_to_the_first_near_tie():
    case = Case("tiny", 8, ops=("generate",), proven=20)
    true, leads = BookTruth(case).generated
    sure = int(min([*np.flatnonzero(leads < 1e-3)[:1], 20]))

    def wrong(ids):
        return Judge(case).errors("generate", [ids], yardstick=True)["characters"]

    ids = true.copy()
    ids[sure:] += 1
    assert wrong(ids) == 0
    ids[sure - 1] += 1
    assert wrong(ids) == 1
