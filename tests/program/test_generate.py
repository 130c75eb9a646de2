"""`rnnfast generate`: greedy and sampled text, and the prefixes it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rnnfast
from rnnfast import dispatch
from rnnfast.book import data
from rnnfast.program import checkpoint
from rnnfast.program.cli import main
from support.program import failure


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
        len(saved.vocab), 8, "cpu", saved.get_params, rnnfast.init_rnn_state, rnnfast.rnn
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
