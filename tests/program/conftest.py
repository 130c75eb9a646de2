"""A text, a way to train on it, and a signal at a chosen minibatch."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnfast.book import data
from rnnfast.program.cli import main
from support.program import SMALL


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second one, and on a busy machine lose 100 times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of 600 characters that can spell 'time traveller'."""
    path = tmp_path / "text.txt"
    path.write_text("time traveller, said the medical man, " * 15 + "a" * 30, "utf-8")
    return path


@pytest.fixture
def train(text: Path, tmp_path: Path) -> Callable[..., int]:
    """Train on that text into `out` with further options; returns the exit code.

    The global random generators are somewhere else before each run, as in a new process.
    """

    def run(*options: object, out: str = "out") -> int:
        random.seed()
        torch.seed()
        words = ["--data", text, "--out", tmp_path / out, *SMALL, *options]
        return main(["train", *map(str, words)])

    return run


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals, int], None]:
    """Send this process a signal when the n-th batch of the run has been trained."""

    def plan(number: signal.Signals, batch: int) -> None:
        left = [batch]

        def iterate(self: data.SeqDataLoader) -> Iterator[Any]:
            for each in self.data_iter_fn(self.corpus, self.batch_size, self.num_steps):
                yield each
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(data.SeqDataLoader, "__iter__", iterate)

    return plan
