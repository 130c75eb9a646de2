"""Files that were there stay, and the last good epoch stays too."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rnnfast
from rnnfast.program import checkpoint, training_run
from rnnfast.program.cli import main
from support.program import FILES, failure, listing


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


@pytest.mark.parametrize("name", FILES)
def test_directory_in_the_place_of_a_file(
    train: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    assert train("--epochs", 1) == 0
    path = tmp_path / "out" / name
    path.unlink()
    path.mkdir()
    before = sorted(tmp_path.glob("out/*"))
    capsys.readouterr()
    monkeypatch.setattr(training_run.Run, "train", lambda *_: pytest.fail("was trained"))
    for option in ("--force", "--resume"):
        assert f"{path} is a directory" in failure(capsys, train("--epochs", 2, option))
    assert sorted(tmp_path.glob("out/*")) == before


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
    monkeypatch.setattr(training_run.Run, "train", lambda *_: pytest.fail("was trained"))
    before = text.read_bytes()
    assert f"--out {tmp_path / out} cannot be written to" in failure(capsys, train(out=out))
    assert text.read_bytes() == before


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the disk is full when that file is written. As the system says so: namelessly."""

    def fill(name: str) -> None:
        def replace(path: Path, target: Path) -> Path:
            if target.name == name:
                raise OSError(28, "No space left on device")
            return good(path, target)

        good = Path.replace
        monkeypatch.setattr(Path, "replace", replace)

    return fill


def test_disk_full_at_the_end(
    train: Any,
    tmp_path: Path,
    full_disk: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("--epochs", 1) == 0
    before = listing(tmp_path / "out")
    capsys.readouterr()
    full_disk("checkpoint.safetensors")
    line = failure(capsys, train("--epochs", 2, "--resume"))
    assert f"{tmp_path / 'out' / 'checkpoint.safetensors'} could not be written" in line
    assert "(No space left on device); what stood there before is unchanged" in line
    assert line.endswith("; epoch 1 is stored")
    assert listing(tmp_path / "out") == before
    assert "no checkpoint is stored yet" in failure(capsys, train("--epochs", 1, out="new"))


@pytest.mark.parametrize("name", ["metrics.json", "perplexity.png"])
def test_disk_full_after_the_training(
    train: Any,
    tmp_path: Path,
    full_disk: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    full_disk(name)
    line = failure(capsys, train("--epochs", 2))
    assert f"{tmp_path / 'out' / name} could not be written (No space left" in line
    assert line.endswith("; epoch 2 is stored")
    assert checkpoint.load(tmp_path / "out" / "checkpoint.safetensors").epoch == 2


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
    good = training_run.train_epoch_ch8
    perplexities = []

    def train_epoch(net: Any, *args: Any, **kwargs: Any) -> tuple[float, float]:
        perplexity, speed = good(net, *args, **kwargs)
        perplexities.append(perplexity if len(perplexities) < 2 else spoil(net))
        return perplexities[-1], speed

    monkeypatch.setattr(training_run, "train_epoch_ch8", train_epoch)
    assert "diverged in epoch 3" in failure(capsys, train("--epochs", 9))
    saved = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    assert saved.perplexities == tuple(perplexities[:2])
