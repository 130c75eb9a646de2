"""One run of a suite: its parts, its file, what it tells; and the figures that it writes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.cases import Case
from bench.harness import report, run
from bench.harness.measure import Bench, Samples, Workers
from bench.harness.probe import Reading
from bench.harness.protocol import NotInstalledError, WorkerError
from bench.harness.summary import summarise
from bench.suites import Entry, Part, Suite

CASES = {name: Case(name, 8, batch=3, steps=4, epoch=2, ops=("forward",)) for name in "ab"}
ENTRIES = (Entry("mine", "scratch", "ids", ours=True), Entry("plain", "scratch", "onehot"))
SUITE = Suite("tiny", CASES, ENTRIES, "plain", rounds=2, budget=0.0, threads=1)


@pytest.fixture(autouse=True)
def _commit(monkeypatch):
    monkeypatch.setattr(run.machine, "commit", lambda: {"commit": "this", "dirty": False})


class Answers:
    """A worker whose every operation takes a second; the n-th time it is asked for, it dies."""

    def __init__(self, dies_at=None):
        self.dies_at, self.asked, self.is_stopped = dies_at, 0, False

    def ask(self, do, **arguments):
        self.asked += 1
        if self.asked == self.dies_at:
            raise WorkerError("died")
        return {"seconds": 1.0}

    def stop(self):
        self.is_stopped = True


def bench_of(suite=SUITE, **workers):
    """A bench whose peers are admitted already."""
    pool = Workers(suite, None)
    pool._running.update(workers)
    found = Bench(CASES["a"], suite, pool)
    entries = {entry.name: entry for entry in suite.entries}
    for name, worker in workers.items():
        found.runners[name] = SimpleNamespace(
            entry=entries[name],
            worker=worker,
            ops=["forward"],
            errors={"forward": {}},
            first_call={"forward": 0.0},
        )
    return found


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "result.json"
    run.save(file, {"cases": {}})
    with file.open() as reader:
        run.save(file, {"cases": {"a": 1}})
        assert json.load(reader) == {"cases": {}}
    assert json.loads(file.read_text()) == {"cases": {"a": 1}}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("code", "limit", "last"),
    [
        ("print('first'); print('FOLDER', 'NAME')", 60.0, "{folder} tiny"),
        ("print('wrong'); raise SystemExit(3)", 60.0, "wrong"),
        ("import time; time.sleep(60)", 0.0, "not done in 1 s"),
    ],
)
def test_a_part_tells_its_last_line_and_whether_it_failed(code, limit, last, tmp_path):
    a_run = run.Run(SUITE, tmp_path)
    with (tmp_path / "log").open("wb") as log:
        a_run._part(Part("part", ("-c", code), limit), log)
    last = last.format(folder=tmp_path)
    assert a_run._result["told"] == {"part": last}
    assert a_run.failures == ([] if "FOLDER" in code else [f"part: {last}"])
    assert last in (tmp_path / "log").read_text().splitlines()


def test_a_given_commit_is_that_of_the_result(tmp_path):
    assert run.Run(SUITE, tmp_path)._result["commit"] == "this"
    given = run.Run(SUITE, tmp_path, commit="given")._result
    assert (given["commit"], given["dirty"]) == ("given", None)


def test_a_result_of_another_machine_is_not_resumed(tmp_path):
    first = run.Run(SUITE, tmp_path)
    run.save(first.file, {**first._result, "machine": {"cpu": "another"}})
    with pytest.raises(ValueError, match=r"the result is of machine .*another"):
        run.Run(SUITE, tmp_path, resume=True)


def test_the_time_for_what_comes_after_the_cases_is_kept(tmp_path, monkeypatch):
    suite = replace(SUITE, seconds=1000.0, reserve=1001.0)
    a_run = run.Run(suite, tmp_path)
    monkeypatch.setattr(run, "Bench", None)  # no case begins
    a_run._cases(None)
    assert a_run._result["told"] == {run._NO_TIME: "a, b; --resume measures them"}


@pytest.mark.parametrize("fresh", [False, True])
def test_every_case_gets_new_processes_where_it_is_asked_for(fresh, tmp_path, monkeypatch):
    stopped = []

    class Counted(Workers):
        def stop_all(self):
            stopped.append(1)

    def admitted(case, suite, workers):
        found = bench_of(suite)
        found.case, found.admit = case, lambda: None
        return found

    monkeypatch.setattr(run, "Workers", Counted)
    monkeypatch.setattr(run, "Bench", admitted)
    a_run = run.Run(replace(SUITE, fresh=fresh), tmp_path)
    a_run._cases(None)
    assert list(a_run._result["cases"]) == ["a", "b"]
    assert len(stopped) == (3 if fresh else 1)


def test_the_log_of_a_resumed_run_goes_on(tmp_path):
    suite = replace(SUITE, cases={}, before=(Part("part", ("-c", "print('said')"), 60.0),))
    for resume, lines in ((False, 1), (False, 1), (True, 2)):
        run.Run(suite, tmp_path, resume=resume).run()
        assert (tmp_path / "tiny.log").read_text().splitlines() == ["said"] * lines


def test_who_fails_in_a_turn_is_stopped_and_has_no_figures():
    mine, plain = Answers(dies_at=2), Answers()
    bench = bench_of(mine=mine, plain=plain)
    timed = bench.time()
    assert list(timed["forward"]) == ["plain"]
    assert timed["forward"]["plain"].seconds == [1.0, 1.0]
    assert mine.is_stopped
    assert not plain.is_stopped
    assert bench.left_out == {"mine": "forward: died"}
    assert bench.failures == ["a: mine: forward: died"]


def test_what_is_not_installed_is_not_tried_again():
    workers = Workers(SUITE, None)
    workers.is_missing("mine", "no module named mine")
    with pytest.raises(NotInstalledError, match="no module named mine"):
        workers.start(ENTRIES[0])


def test_an_entry_is_asked_for_its_operations_alone():
    class Setup(Answers):
        def ask(self, do, **arguments):
            return {"ops": ["train", "forward", "generate"], "versions": {}}

    bench = bench_of(mine=Setup())
    assert bench._set_up(ENTRIES[0]).ops == ["train", "forward", "generate"]
    assert bench._set_up(replace(ENTRIES[0], ops=("forward",))).ops == ["forward"]


def test_ours_is_the_fastest_that_multiplies_exactly():
    loose = Entry("loose", "scratch", ours=True, tolerance=0.01)
    reading = Reading(1.0, 1.0, None)
    suite = replace(SUITE, entries=(*ENTRIES, loose), limit=lambda case, op, reading: 0.5)
    bench = bench_of(suite, mine=Answers(), plain=Answers(), loose=Answers())
    seconds = {"mine": 2.0, "plain": 4.0, "loose": 1.0}
    timed = {"forward": {n: Samples([s, s], [reading, None]) for n, s in seconds.items()}}
    found = summarise(bench, timed)["forward"]
    assert (found["ours"], found["best_peer"]) == ("mine", "plain")
    assert found["peers"]["mine"]["percent_of_limit"]["median"] == 25.0
    assert found["peers"]["loose"]["tolerance"] == 0.01
    assert "tolerance" not in found["peers"]["mine"]


def record_of(ratio, error):
    def figures(factor):
        return {"seconds": {"median": 1.0}, "times_best_peer": {"median": factor}}

    loose = {**figures(9.0), "tolerance": 0.01, "errors": {"hs": error}}
    peers = {"mine": figures(ratio), "plain": figures(1.0), "loose": loose}
    operation = {"units": 1, "ours": "mine", "best_peer": "plain", "peers": peers}
    return {"ops": {"forward": operation}, "left_out": {"gone": "not installed"}}


def test_a_report_tells_the_worst_of_all_cases():
    result = {
        "cases": {"a": record_of(2.0, 0.003), "b": record_of(1.5, 0.004), "c": record_of(3.0, 0.0)},
        **{"yardstick": "plain", "versions": {}, "machine": {"cpu": "a machine"}, "told": {}},
        **{"date": "today", "commit": "0123456789abcdef", "dirty": True},
    }
    text = report.summary(result)
    assert "forward: 2.00 times the best peer at the median of 3 cases, 1.50 at the least" in text
    assert "a relative error of 0.01 passes (largest error seen: 0.004)" in text
    assert "- gone left out: not installed: a, b, c" in text
    assert "commit 0123456789ab with changes, today" in text
    assert "with changes" not in report.summary({**result, "dirty": False})
