"""The program as its users meet it: options, exit codes, files, interruptions, resumed runs."""

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnfast
from rnnfast import checkpoint, corpora, data, dispatch
from rnnfast.cli import main
from rnnfast.commands import run as run_module

FILES = ["checkpoint.safetensors", "metrics.json", "perplexity.png"]
SMALL = ["--batch-size", "4", "--num-steps", "5", "--hiddens", "8", "--backend", "reference"]


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


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def usage_error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    return capsys.readouterr().err


def failure(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line on stderr after a failed command."""
    assert code == 1
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "| epoch" not in line and line
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith("rnnfast: error: ")
    return lines[0]


# What a run leaves and prints


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


def test_train_is_the_notebooks_loop(train: Any, text: Path, tmp_path: Path) -> None:
    """Parameters and perplexities are those of train_epoch_ch8 with plain SGD, bit by bit."""
    assert train("--epochs", 2, "--seed", 5, "--lr", 0.5) == 0
    saved = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    corpus = data.load_corpus(text)
    random.seed(5)
    torch.manual_seed(5)
    net = rnnfast.RNNModelScratch(
        len(corpus.vocab), 8, "cpu", rnnfast.get_params, rnnfast.init_rnn_state, rnnfast.rnn
    )
    updater = torch.optim.SGD(net.params, 0.5)
    loader = data.corpus_loader(corpus, 4, 5)
    with rnnfast.use_backend("reference"):
        perplexities = [
            rnnfast.train_epoch_ch8(
                net, loader, torch.nn.CrossEntropyLoss(), updater, "cpu", False
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

    monkeypatch.setattr(corpora, "download", nothing)
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


# Resuming


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

    monkeypatch.setattr("rnnfast.commands.train.load_corpus", load_corpus)
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
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 3600.0)
    assert train("--epochs", 3, out="quick") == 0
    assert epochs == [3]
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)
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


# Files that were there stay


@pytest.mark.parametrize("name", FILES)
def test_existing_files_are_kept(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    line = failure(capsys, train("--epochs", 1))
    assert str(out / name) in line
    assert "--resume" in line
    assert "--force" in line
    assert listing(out) == {name: b"precious"}
    assert train("--epochs", 1, "--force") == 0
    assert checkpoint.load(out / "checkpoint.safetensors").epoch == 1


@pytest.mark.parametrize("option", ["--resume", ""])
def test_damaged_checkpoint(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert train("--epochs", 1) == 0
    path = tmp_path / "out" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    before = listing(tmp_path / "out")
    capsys.readouterr()
    line = failure(capsys, train("--epochs", 2, *filter(None, [option])))
    assert str(path) in line
    assert listing(tmp_path / "out") == before
    assert str(path) in failure(capsys, main(["generate", "--checkpoint", str(path)]))


def test_directory_in_the_place_of_the_checkpoint(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "checkpoint.safetensors").mkdir(parents=True)
    assert "is a directory" in failure(capsys, train("--force"))
    assert "is a directory" in failure(capsys, train("--resume"))


@pytest.mark.parametrize("out", ["text.txt", "text.txt/below"])
def test_output_directory_is_checked_before_the_training(
    train: Any,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
) -> None:
    """A file in its place stands for a directory without permission, which does not stop root."""
    monkeypatch.setattr(run_module.Run, "train", lambda *_: pytest.fail("was trained"))
    before = text.read_bytes()
    assert f"--out {tmp_path / out} cannot be written to" in failure(capsys, train(out=out))
    assert text.read_bytes() == before


def test_disk_full_at_the_end(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", 1) == 0
    before = listing(tmp_path / "out")
    capsys.readouterr()

    def write_bytes(path: Path, contents: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert "No space left" in failure(capsys, train("--epochs", 2, "--resume"))
    monkeypatch.undo()
    assert listing(tmp_path / "out") == before


def test_divergence_keeps_the_last_good_epoch(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failure(capsys, train("--epochs", 50, "--lr", "1e30", "--clip", "none"))
    saved = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    assert f"diverged in epoch {saved.epoch + 1} " in line
    assert f"the checkpoint holds epoch {saved.epoch};" in line
    assert "--lr" in line
    assert "--clip" in line


def nan_parameter(net: rnnfast.RNNModelScratch) -> float:
    net.params[1].detach()[0, 0] = float("nan")
    return 5.0


def overflow(net: rnnfast.RNNModelScratch) -> float:
    return math.exp(1000)


@pytest.mark.parametrize(
    "spoil", [lambda net: float("nan"), lambda net: float("inf"), overflow, nan_parameter]
)
def test_epoch_that_is_not_finite(
    train: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[rnnfast.RNNModelScratch], float],
) -> None:
    good = run_module.train_epoch_ch8
    perplexities = []

    def train_epoch(net: Any, *args: Any, **kwargs: Any) -> tuple[float, float]:
        perplexity, speed = good(net, *args, **kwargs)
        perplexities.append(perplexity if len(perplexities) < 2 else spoil(net))
        return perplexities[-1], speed

    monkeypatch.setattr(run_module, "train_epoch_ch8", train_epoch)
    assert "diverged in epoch 3" in failure(capsys, train("--epochs", 9))
    saved = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    assert saved.perplexities == tuple(perplexities[:2])


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["train", "--batch-size", "0"], "--batch-size: must be a whole number from 1, not '0'"),
        (["train", "--num-steps", "3.5"], "--num-steps: must be"),
        (["train", "--hiddens", "-1"], "--hiddens"),
        (["train", "--hiddens", "x"], "--hiddens"),
        (["train", "--epochs", ""], "--epochs"),
        (["train", "--epochs", "²"], "--epochs"),
        (["train", "--seed", str(2**64)], "--seed"),
        (["train", "--max-tokens", "-5"], "--max-tokens"),
        (["train", "--lr", "nan"], "--lr: must be a number, 0 or more, not 'nan'"),
        (["train", "--lr", "inf"], "--lr"),
        (["train", "--lr", "0"], "--lr: must be above 0"),
        (["train", "--lr", "fast"], "--lr"),
        (["train", "--clip", "-1"], "--clip"),
        (["train", "--clip", "off"], "--clip"),
        (["train", "--data", "no-such-file"], "neither an existing file nor one of time_machine"),
        (["train", "--data", "/"], "neither an existing file"),
        (["train", "--device", "toaster"], "--device: must be cpu, cuda"),
        (["train", "--backend", "magic"], "unknown backend 'magic'; it must be one of auto"),
        (["train", "--resume", "--force"], "not allowed with"),
        (["generate", "--prefix", ""], "--prefix: must not be empty"),
        (["generate", "-n", "0"], "-n"),
        (["generate", "--temperature", "-1"], "--temperature"),
        (["generate", "--temperature", "nan"], "--temperature"),
        (["info", "--verbose"], "--verbose"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in usage_error(capsys, *words)


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "no text"), (b"time", "too few"), (b"\xff\xfe\x00" * 500, "not UTF-8")],
)
def test_unusable_text(
    train: Any,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    contents: bytes,
    message: str,
) -> None:
    text.write_bytes(contents)
    assert message in failure(capsys, train())
    assert not (tmp_path / "out").exists()


def test_error_of_several_lines_is_one(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_corpus(*_: object) -> None:
        raise RuntimeError("first\n  second")

    monkeypatch.setattr("rnnfast.commands.train.load_corpus", load_corpus)
    assert failure(capsys, train()) == "rnnfast: error: first second"


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_device_that_is_not_there(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert f"--device {device} cannot be used" in failure(capsys, train("--device", device))
    assert not (tmp_path / "out").exists()


def test_backend_that_cannot_run(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "'triton'" in failure(capsys, train("--backend", "triton"))
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
def test_fallback_is_one_line(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def announce(*_: object) -> None:
        dispatch.warn_fallback("of a test")

    monkeypatch.setattr("rnnfast.commands.train._announce", announce)
    assert train("--epochs", 1) == 0
    line = "rnnfast: warning: rnnfast runs on its slow reference path: of a test"
    assert line in capsys.readouterr().err.splitlines()


# generate, info


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


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == dispatch.info() + "\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rnnfast {rnnfast.__version__}\n"


# Real processes


ROOT = Path(rnnfast.__file__).parents[1]


def process(*words: object, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rnnfast", *map(str, words)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(stream: Any, awaited: str) -> str:
    """Read until the text has come; fails at the end of the stream."""
    read = ""
    while awaited not in read:
        character = stream.read(1)
        assert character, f"the process ended without {awaited!r}: {read}"
        read += character
    return read


def test_process_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("short")
    wrong = process("train", "--epochs", "0", cwd=tmp_path)
    failed = process("train", "--data", "text", cwd=tmp_path)
    _, wrong_error = wrong.communicate(timeout=60)
    _, failed_error = failed.communicate(timeout=60)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong_error
    assert failed.returncode == 1
    assert failed_error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "text"]


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
