"""`rnnfast train`: what a run prints and leaves, and that every option counts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnfast
from rnnfast.book import data, texts
from rnnfast.program import checkpoint
from rnnfast.program.cli import main
from support.program import FILES, listing


def test_train(train: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--epochs", 3) == 0
    out = tmp_path / "out"
    assert sorted(listing(out)) == FILES
    corpus = data.load_corpus(text)
    printed, shown = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0] == f"corpus: {text}, 600 characters, SHA-1 {corpus.sha1}"
    assert lines[1].startswith("8 hidden units")
    assert "backend reference, forced by use_backend" in lines[1]
    assert lines[2].startswith("perplexity ")
    assert lines[2].endswith(" tokens/s on cpu")
    assert lines[3].startswith("time traveller")
    assert len(lines[3]) == len("time traveller") + 50
    assert lines[4].startswith("traveller")
    assert "epoch 3.0/3" in shown
    assert "perplexity" in shown
    assert "tokens/s" in shown

    figures = json.loads((out / "metrics.json").read_text())
    saved = checkpoint.load(out / "checkpoint.safetensors")
    assert figures["perplexity"] == list(saved.perplexities)
    assert len(figures["perplexity"]) == len(figures["tokens_per_second"]) == 3
    assert figures["corpus"]["sha1"] == saved.sha1 == corpus.sha1
    assert figures["backend"] == "reference"
    assert figures["level"] == str(rnnfast.explain().training)
    assert "general" in figures["level"]
    assert figures["versions"]["torch"] == torch.__version__
    assert figures["settings"]["num_hiddens"] == 8
    assert saved.vocab == tuple(corpus.vocab.idx_to_token)
    assert saved.settings.epochs == saved.epoch == 3
    assert (out / "perplexity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("random_iter", [False, True])
def test_train_is_the_notebooks_loop(
    train: Any, text: Path, tmp_path: Path, random_iter: bool
) -> None:
    """Parameters and perplexities are those of train_epoch_ch8 with plain SGD, bit by bit."""
    options = ["--random-iter"] if random_iter else []
    assert train("--epochs", 2, "--seed", 5, "--lr", 0.5, *options) == 0
    saved = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    corpus = data.load_corpus(text)
    random.seed(5)
    torch.manual_seed(5)
    net = rnnfast.RNNModelScratch(
        len(corpus.vocab), 8, "cpu", rnnfast.get_params, rnnfast.init_rnn_state, rnnfast.rnn
    )
    updater = torch.optim.SGD(net.params, 0.5)
    loader = data.corpus_loader(corpus, 4, 5, random_iter)
    with rnnfast.use_backend("reference"):
        perplexities = [
            rnnfast.train_epoch_ch8(
                net, loader, torch.nn.CrossEntropyLoss(), updater, "cpu", random_iter
            )[0]
            for _ in range(2)
        ]
    assert list(saved.perplexities) == perplexities
    assert all(torch.equal(a, b) for a, b in zip(saved.params, net.params, strict=True))


def test_options_change_the_run(train: Any, tmp_path: Path) -> None:
    """Every setting reaches the training: each gives other parameters than the plain run."""
    variants: dict[str, list[object]] = {
        "plain": [],
        "seed": ["--seed", 1],
        "lr": ["--lr", 2],
        "clip": ["--clip", 0.01],
        "random": ["--random-iter"],
        "tokens": ["--max-tokens", 300],
        "steps": ["--num-steps", 4],
        "batch": ["--batch-size", 3],
    }
    seen = {}
    for name, options in variants.items():
        assert train("--epochs", 1, *options, out=name) == 0
        saved = checkpoint.load(tmp_path / name / "checkpoint.safetensors")
        seen[saved.params[1].numpy().tobytes()] = name
    assert list(seen.values()) == list(variants)


def test_clip_none_is_no_limit(train: Any, tmp_path: Path) -> None:
    for name, clip in {"none": "none", "zero": "0", "high": "1e30"}.items():
        assert train("--epochs", 1, "--lr", 0.01, "--clip", clip, out=name) == 0
    loaded = [
        checkpoint.load(tmp_path / name / "checkpoint.safetensors")
        for name in ("none", "zero", "high")
    ]
    assert [each.settings.clip for each in loaded] == [0.0, 0.0, 1e30]
    assert all(torch.equal(loaded[0].params[1], each.params[1]) for each in loaded)


def test_counting_needs_no_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "counting", "--hiddens", "8", "--epochs", "1", "--backend", "reference"]
    assert main(["train", *words, "--out", str(tmp_path / "out")]) == 0
    *_, text, _ = capsys.readouterr().out.splitlines()
    assert len(text) == 55
    assert text[:5].isalnum()
    assert checkpoint.load(tmp_path / "out" / "checkpoint.safetensors").settings.num_steps == 20


def test_docs_stands_in_for_the_book(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str, cache_dir: object = None) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(texts, "download", nothing)
    words = ["--hiddens", "8", "--epochs", "1", "--backend", "reference"]
    assert main(["train", *words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: ")
    assert "docs" in lines[0]
    assert "no network" in lines[0]
    assert lines[1].startswith("corpus: docs, 10000 characters")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["corpus"]["name"] == "docs"
    assert f"note: {figures['corpus']['note']}" == lines[0]
