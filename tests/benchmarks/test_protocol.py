"""Requests and answers between the benchmark and its workers."""

import os
import subprocess
import sys
import threading
from multiprocessing import Pipe

import pytest

from bench.harness import protocol, worker
from bench.harness.protocol import serve

ANSWERS = """
import os, sys
from bench.harness.protocol import serve
serve(int(sys.argv[1]), {"environment": lambda: {name: os.environ.get(name) for name in "AB"}})
"""


def test_a_worker_has_the_environment_of_its_entry_before_ours(monkeypatch):
    monkeypatch.setenv("A", "ours")
    monkeypatch.setenv("B", "ours")
    command = [sys.executable, "-c", ANSWERS]
    started = protocol.Worker(command, {"A": "its own"}, 60.0, subprocess.DEVNULL)
    assert started.ask("environment") == {"A": "its own", "B": "ours"}
    started.stop()
    assert started._process.poll() is not None


def asked(handler):
    """What a worker's end answers to one request."""
    ours, theirs = Pipe()
    thread = threading.Thread(target=serve, args=(os.dup(theirs.fileno()), {"work": handler}))
    thread.start()
    ours.send({"do": "work"})
    answer = ours.recv()
    ours.close()
    theirs.close()
    thread.join()
    return answer


@pytest.mark.parametrize(
    ("error", "missing"),
    [(ModuleNotFoundError("no module\nat all"), True), (ValueError("wrong\nindeed"), False)],
)
def test_an_answer_tells_whether_a_package_is_missing(error, missing, capfd):
    def fail():
        raise error

    first_line = f"{type(error).__name__}: {error}".splitlines()[0]
    assert asked(fail) == {"error": first_line, "missing": missing}
    assert "Traceback" in capfd.readouterr().err


class Peer:
    """A peer that notes what it is asked for."""

    def __init__(self):
        self.done = []

    def reset(self):
        self.done.append("reset")


def test_every_epoch_starts_from_the_same_parameters():
    host = worker.Host("none", "", 1, "cpu")
    host._peer = Peer()
    host.prepare("forward")
    assert host._peer.done == []
    host.prepare("train")
    assert host._peer.done == ["reset"]


def test_a_worker_takes_rnnfast_from_the_checkout_that_it_is_given(monkeypatch, tmp_path):
    served = []
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["worker", "ours", "", "1", "cuda", str(tmp_path), "7"])
    monkeypatch.setattr(worker, "serve", lambda pipe, handlers: served.append((pipe, *handlers)))
    worker.main()
    assert sys.path[0] == str(tmp_path)
    assert served == [(7, "setup", "check", "time")]
