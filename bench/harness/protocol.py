"""How the runner speaks to its workers: a request and its answer, through a pipe of Python objects.

A worker is a process with one peer in it, so that thread pools, allocators and just-in-time
compilers of different libraries do not meet. A request names a handler and its arguments, as in
{"do": "time", "op": "train", "budget": 0.3}. An answer has "error" where it failed, and then also
"missing", which tells whether the reason is a package that is not installed.
"""

from __future__ import annotations

import os
import subprocess
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]


class WorkerError(Exception):
    """A worker answered with a failure, took too long, or died."""


class NotInstalledError(WorkerError):
    """What the worker needs is not on this machine."""


class Worker:
    """The runner's end: starts a process, sends requests, enforces the time limit.

    The command is given the number of the pipe as its last argument; what it prints is logged.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], limit: float, log: IO[bytes]
    ) -> None:
        self._limit = limit
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
            )

    def ask(self, do: str, **arguments: Any) -> Message:
        """Send one request and wait for its answer. Raises WorkerError, NotInstalledError."""
        try:
            self._pipe.send({"do": do, **arguments})
            if not self._pipe.poll(self._limit):
                raise WorkerError(f"no answer within its limit of {self._limit:g} s")
            answer: Message = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(f"died with exit code {self._process.wait()}") from None
        if "error" in answer:
            raise (NotInstalledError if answer["missing"] else WorkerError)(answer["error"])
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def serve(pipe: int, handlers: Mapping[str, Callable[..., Message]]) -> None:
    """A worker's end: answer requests by the handler of that name until the runner hangs up."""
    with Connection(pipe) as runner:
        while True:
            try:
                request = runner.recv()
            except EOFError:
                return
            try:
                answer = handlers[request.pop("do")](**request)
            except Exception as error:
                traceback.print_exc()
                first_line = f"{type(error).__name__}: {error}".split("\n")[0]
                answer = {"error": first_line, "missing": isinstance(error, ImportError)}
            runner.send(answer)
