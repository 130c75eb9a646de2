"""rnnfast.explain says of each recurrent layer what runs it, and why."""

import torch

import rnnfast
from rnnfast import nn, use_backend
from rnnfast.backends.compiled import native


class Own(torch.nn.RNN):
    """A user's class."""


def _lines(model):
    return rnnfast.explain(model).layers


def test_layers_by_name():
    model = torch.nn.ModuleDict(
        {"a": nn.RNN(3, 4, 2, bidirectional=True), "b": torch.nn.RNN(3, 4), "c": Own(3, 4)}
    )
    lines = _lines(model)
    assert lines[:2] == tuple(
        f"a, layer {i} in both directions: the kernels of native" for i in range(2)
    )
    assert lines[2:] == (
        "b: torch's own; rnnfast.convert makes it ours",
        "c: left alone, Own is its own",
    )
    assert str(rnnfast.explain(model)).count("\na, layer") == 2


def test_packed_sequences_have_lines_of_their_own_where_they_run_otherwise(monkeypatch):
    def only_dense(tensor, features, has_options):
        return None if {"batch_sizes", "resets"} & {*features} else native

    monkeypatch.setattr(rnnfast.dispatch, "kernels_for", only_dense)
    dense, packed = _lines(nn.RNN(3, 4))
    assert dense == "the model, layer 0: the kernels of native"
    assert packed.startswith("the model, packed sequences: torch's own implementation, since ")


def test_reasons():
    assert "bfloat16" in _lines(nn.RNN(3, 4).bfloat16())[0]
    assert "torch's own implementation" in _lines(nn.RNN(3, 4).bfloat16())[0]
    assert "the reference, since" in _lines(nn.RNN(3, 4, leak=0.5).bfloat16())[0]
    assert "no kernels for meta" in _lines(nn.RNN(3, 4, device="meta"))[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in _lines(nn.RNN(3, 4))[0]
        assert _lines(nn.RNN(3, 4, leak=0.5))[0].endswith("the kernels of native")
        assert "bfloat16" in _lines(nn.RNN(3, 4, leak=0.5).bfloat16())[0]
    with use_backend("reference"):
        assert "the reference, since use_backend asks for reference" in _lines(nn.RNN(3, 4))[0]


def test_under_autocast_the_kernels_run_what_torch_does_not_have(monkeypatch):
    run, ran = type(native).rnn_forward, []

    def noted(self, r, saves):
        ran.append(r.cell)
        return run(self, r, saves)

    monkeypatch.setattr(type(native), "rnn_forward", noted)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = nn.RNN(3, 4, leak=0.5)(torch.randn(2, 2, 3))
    assert ran == ["leaky_tanh"]
    assert y.dtype == torch.float32
    y.sum().backward()


def test_what_it_says_is_what_runs(monkeypatch):
    """Torch's implementation is entered exactly where it is announced."""
    entered = []
    monkeypatch.setattr(torch.nn.RNN, "forward", lambda *args: entered.append(1))
    for layer in (nn.RNN(3, 4), nn.RNN(3, 4, bidirectional=True), nn.RNN(3, 4).half()):
        entered.clear()
        layer(torch.randn(2, 2, 3, dtype=layer.weight_hh_l0.dtype))
        assert bool(entered) == ("torch's own" in _lines(layer)[0])
