"""rnnfast train --layers: a stack is trained, stored, resumed, and continues a text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rnnfast import RNNModel, nn
from rnnfast.program import checkpoint, network
from rnnfast.program.cli import main
from support.program import usage_error


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_stack_is_resumed_bit_by_bit_and_generates(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    words = ("--layers", 2, "--backend", backend)
    assert train(*words, "--epochs", 4, out="straight") == 0
    assert train(*words, "--epochs", 2, out="parts") == 0
    assert train("--epochs", 4, "--resume", "--backend", backend, out="parts") == 0
    straight, parts = (tmp_path / name / checkpoint.FILE_NAME for name in ("straight", "parts"))
    assert parts.read_bytes() == straight.read_bytes()
    capsys.readouterr()
    assert main(["generate", "--checkpoint", str(parts), "--prefix", "time", "-n", "20"]) == 0
    assert capsys.readouterr().out.startswith("time")


def test_the_stack_is_the_concise_model(train: Any, tmp_path: Path) -> None:
    assert train("--layers", 3, "--epochs", 2) == 0
    stored = checkpoint.load(tmp_path / "out" / checkpoint.FILE_NAME)
    assert stored.settings.layers == 3
    net = network.build(stored.settings, len(stored.vocab), torch.device("cpu"), stored.params)
    assert isinstance(net, RNNModel)
    assert type(net.rnn) is nn.RNN
    assert net.rnn.num_layers == 3
    names = network.shapes(stored.settings, len(stored.vocab))
    assert list(names) == list(net.state_dict())
    for (name, value), stored_value in zip(net.state_dict().items(), stored.params, strict=True):
        assert torch.equal(value, stored_value), name
    assert stored.perplexities[1] < stored.perplexities[0]


def test_both_directions_are_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot generate" in usage_error(capsys, "train", "--bidirectional")
    assert "--layers" in usage_error(capsys, "train", "--layers", 0)
