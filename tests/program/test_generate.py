"""`rnnfast generate`: greedy and sampled text, and the prefixes it refuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rnnfast
from rnnfast import dispatch
from rnnfast.book import data
from rnnfast.program import checkpoint
from rnnfast.program.cli import main
from support.program import ROOT, SMALL, failure, process


@pytest.fixture
def trained(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert train("--epochs", 3) == 0
    capsys.readouterr()
    return tmp_path / "out" / "checkpoint.safetensors"


@pytest.fixture
def generated(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.setattr(dispatch, "_from_environment", "reference")

    def run(*options: object) -> str:
        assert main(["generate", "--checkpoint", str(trained), *map(str, options)]) == 0
        return capsys.readouterr().out

    return run


def test_generate_greedy(generated: Any, trained: Path) -> None:
    saved = checkpoint.load(trained)
    net = rnnfast.RNNModelScratch(
        len(saved.vocab), 8, "cpu", lambda *_: saved.params, rnnfast.init_rnn_state, rnnfast.rnn
    )
    vocab = data.Vocab(reserved_tokens=list(saved.vocab[1:]))
    with rnnfast.use_backend("reference"):
        expected = rnnfast.predict_ch8("said the", 20, net, vocab, "cpu")
    assert generated("--prefix", "said the", "-n", 20) == expected + "\n"
    assert generated().startswith("time traveller")
    assert len(generated()) == len("time traveller") + 50 + 1


def test_generate_samples(generated: Any) -> None:
    hot = ["--temperature", 2, "-n", 200]
    assert generated(*hot, "--seed", 1) == generated(*hot, "--seed", 1)
    assert generated(*hot, "--seed", 1) != generated(*hot, "--seed", 2)
    assert generated(*hot) != generated(*hot)


def test_text_that_the_console_cannot_show(train: Any, text: Path, tmp_path: Path) -> None:
    """It is printed with backslash escapes by both commands, and neither fails."""
    text.write_text("时间旅行者" * 120, "utf-8")
    latin = {"PYTHONIOENCODING": "latin-1"}
    train_words = ["train", "--data", text, "--out", "out", *SMALL, "--epochs", 1]
    generate_words = ["generate", "--checkpoint", "out/checkpoint.safetensors", "--prefix", "时间"]
    for words in (train_words, generate_words):
        done = process(*words, cwd=tmp_path, **latin)
        printed, errors = done.communicate(timeout=60)
        assert done.returncode == 0, errors
        assert "\n\\u65f6\\u95f4" in "\n" + printed


def test_output_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rnnfast", "generate", "--checkpoint", str(trained)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 1
    assert "the standard output could not be written (No space left on device)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_generate_unknown_characters(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--checkpoint", str(trained), "--prefix", "Time Ω"]
    line = failure(capsys, main(words))
    assert "'TΩ'" in line
    assert "it knows ' aetimlr,dvshcn'" in line


def test_generate_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "rnnfast-run/checkpoint.safetensors does not exist" in failure(
        capsys, main(["generate"])
    )
