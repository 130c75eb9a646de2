"""Wrong usage exits with 2, failures with 1 and one line, and neither leaves anything."""

from pathlib import Path
from typing import Any

import pytest

import rnnfast
from rnnfast import dispatch
from rnnfast.program.cli import main
from support.program import failure, process, usage_error


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

    monkeypatch.setattr("rnnfast.program.train.load_corpus", load_corpus)
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

    monkeypatch.setattr("rnnfast.program.train._announce", announce)
    assert train("--epochs", 1) == 0
    line = "rnnfast: warning: rnnfast runs on its slow reference path: of a test"
    assert line in capsys.readouterr().err.splitlines()


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == dispatch.info() + "\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rnnfast {rnnfast.__version__}\n"


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
