"""Runs that were interrupted or resumed end with the same bits as those that were not."""

import dataclasses
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rnnfast.program import checkpoint, training_run
from rnnfast.program.cli import main
from support.program import FILES, SMALL, failure, listing, process, wait_for


def test_resumed_is_bit_identical(train: Any, backend: str, tmp_path: Path) -> None:
    assert train("--backend", backend, "--epochs", 6, out="straight") == 0
    assert train("--backend", backend, "--epochs", 3, out="parts") == 0
    assert train("--backend", backend, "--epochs", 6, "--resume", out="parts") == 0
    straight, parts = (tmp_path / name / "checkpoint.safetensors" for name in ("straight", "parts"))
    assert parts.read_bytes() == straight.read_bytes()


def test_resume_takes_the_settings_of_the_run(train: Any, tmp_path: Path) -> None:
    assert train("--epochs", 4, "--random-iter", "--lr", 0.5, "--seed", 9, out="straight") == 0
    assert train("--epochs", 2, "--random-iter", "--lr", 0.5, "--seed", 9, out="parts") == 0
    words = ["--resume", "--out", str(tmp_path / "parts"), "--epochs", "4"]
    assert main(["train", *words, "--backend", "reference"]) == 0
    straight, parts = (tmp_path / name / "checkpoint.safetensors" for name in ("straight", "parts"))
    assert parts.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("batch", "finished"), [(1, 0), (75, 2), (87, 3)])
def test_interrupted_and_resumed_is_bit_identical(
    train: Any,
    interrupt: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    batch: int,
    finished: int,
) -> None:
    """29 batches an epoch: in the first, in the midst of the third, at its end."""
    assert train("--epochs", 5, out="straight") == 0
    capsys.readouterr()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    interrupt(number, batch)
    assert train("--epochs", 5, out="parts") == 130
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    parts = tmp_path / "parts"
    assert sorted(listing(parts)) == FILES
    assert checkpoint.load(parts / "checkpoint.safetensors").epoch == finished
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rnnfast: stopped after epoch")
    command = last.partition("rnnfast train ")[2].split()
    assert main(["train", *command]) == 0
    straight = tmp_path / "straight" / "checkpoint.safetensors"
    assert (parts / "checkpoint.safetensors").read_bytes() == straight.read_bytes()


def test_interrupted_before_the_training(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_corpus(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("rnnfast.program.train.load_corpus", load_corpus)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        assert train() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "rnnfast: stopped\n"


def test_checkpoints_during_the_training(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SAVE_SECONDS a checkpoint is on the disk, should the process die."""
    epochs = []
    save = checkpoint.save

    def recorded(path: Path, saved: checkpoint.Checkpoint) -> None:
        epochs.append(saved.epoch)
        save(path, saved)

    monkeypatch.setattr(checkpoint, "save", recorded)
    monkeypatch.setattr(training_run, "SAVE_SECONDS", 3600.0)
    assert train("--epochs", 3, out="quick") == 0
    assert epochs == [3]
    monkeypatch.setattr(training_run, "SAVE_SECONDS", 0.0)
    assert train("--epochs", 3, out="slow") == 0
    assert epochs == [3, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hiddens", 9], "num_hiddens of the run to resume is 8, not 9"),
        (["--lr", 3], "lr of the run"),
        (["--random-iter"], "random_iter of the run"),
        (["--epochs", 2], "has finished 2 epochs"),
        (["--epochs", 1], "has finished 2 epochs"),
        ([], "has finished 2 epochs"),
        (["--epochs", 3, "--data", "counting"], "SHA-1"),
    ],
)
def test_resume_refused(
    train: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    assert train("--epochs", 2) == 0
    before = listing(tmp_path / "out")
    capsys.readouterr()
    assert message in failure(capsys, train("--resume", *options))
    assert listing(tmp_path / "out") == before


def test_resume_with_a_changed_text(
    train: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", 1) == 0
    before = listing(tmp_path / "out")
    text.write_text(text.read_text() + "!")
    capsys.readouterr()
    assert "give that text" in failure(capsys, train("--resume", "--epochs", 2))
    assert listing(tmp_path / "out") == before


def test_resume_with_a_changed_vocabulary(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same text, but other ids for its characters: the parameters would mean others."""
    assert train("--epochs", 1) == 0
    path = tmp_path / "out" / "checkpoint.safetensors"
    saved = checkpoint.load(path)
    unk, first, second, *others = saved.vocab
    checkpoint.save(path, dataclasses.replace(saved, vocab=(unk, second, first, *others)))
    capsys.readouterr()
    assert "in its own order" in failure(capsys, train("--resume", "--epochs", 2))


def test_resume_from_another_directory(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text given by a relative path is found again."""
    monkeypatch.chdir(tmp_path)
    words = ["--data", text.name, "--epochs", "1", "--out", "out", *SMALL]
    assert main(["train", *words]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    words = ["--resume", "--epochs", "2", "--out", "../out", "--backend", "reference"]
    assert main(["train", *words]) == 0


def test_resume_of_nothing(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in failure(capsys, train("--resume"))
    assert not (tmp_path / "out").exists()


def test_progress_within_an_epoch(
    train: Any, interrupt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(signal.SIGINT, 15)
    assert train("--epochs", 2) == 130
    assert "| epoch 0.5/2 " in capsys.readouterr().err  # 15 of 29 batches


def test_process_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped somewhere, resumed there, equal to a run that was never stopped."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("".join(random.Random(0).choices("time traveller", k=4000)))
    common = [*SMALL, "--data", "text"]
    stopped = process("train", *common, "--epochs", 10**6, cwd=tmp_path)
    wait_for(stopped.stderr, "| epoch")  # from here on a signal is noted
    with pytest.raises(subprocess.TimeoutExpired):
        stopped.wait(0.3)
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, error
    assert "continue with: rnnfast train --resume --out rnnfast-run" in error.splitlines()[-1]

    path = Path("rnnfast-run", "checkpoint.safetensors")
    epochs = ["--epochs", str(checkpoint.load(path).epoch + 1)]
    resumed = process("train", "--resume", *epochs, "--backend", "reference", cwd=tmp_path)
    _, error = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, error
    assert main(["train", *common, *epochs, "--out", "straight"]) == 0
    assert path.read_bytes() == Path("straight", "checkpoint.safetensors").read_bytes()
