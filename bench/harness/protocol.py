"""How the runner speaks to its workers: one JSON object per line, a request and its answer.

A worker is a process with one peer in it, so that thread pools, allocators and just-in-time
compilers of different libraries do not meet. A request names a handler and its arguments, as in
{"do": "time", "op": "train", "budget": 0.3}. An answer has "error" where it failed, and then also
"missing", which tells whether the reason is a package that is not installed.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]


class WorkerError(Exception):
    """A worker answered with a failure, took too long, or died."""


class NotInstalledError(WorkerError):
    """What the worker needs is not on this machine."""


class Worker:
    """The runner's end: starts a process, sends requests, enforces the time limit."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], limit: float, log: IO[bytes]
    ) -> None:
        self._limit = limit
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def ask(self, do: str, **arguments: Any) -> Message:
        """Send one request and wait for its answer. Raises WorkerError, NotInstalledError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            answer: Message = json.loads(self._read_line())
        except OSError:
            raise WorkerError(f"died with exit code {self._process.wait()}") from None
        if "error" in answer:
            raise (NotInstalledError if answer["missing"] else WorkerError)(answer["error"])
        return answer

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        line, deadline = b"", time.monotonic() + self._limit
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    raise WorkerError(f"no answer within its limit of {self._limit:g} s")
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise WorkerError(f"died with exit code {self._process.wait()}")
                line += part
        return line

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def serve(handlers: Mapping[str, Callable[..., Message]]) -> None:
    """A worker's end: answer requests by the handler of that name until the runner hangs up.

    Whatever else the process prints goes to stderr, so that no library spoils the line protocol.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = handlers[request.pop("do")](**request)
            except Exception as error:
                traceback.print_exc()
                first_line = f"{type(error).__name__}: {error}".split("\n")[0]
                answer = {"error": first_line, "missing": isinstance(error, ImportError)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
