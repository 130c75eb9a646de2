"""A layer some of whose tensors are frozen."""

import pytest
import torch

from rnnfast import nn
from rnnfast.backends.compiled import native

T, B, V = 2, 3, 4


def _leaves(layer, H):
    D = 2 if layer.bidirectional else 1
    inputs = {"x": torch.randn(T, B, V), "hx": torch.randn(2 * D, B, H)}
    for each in inputs.values():
        each.requires_grad_()
    return inputs | dict(layer.named_parameters())


def _grads(layer, leaves, wanted):
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in wanted)
    y, h = layer(leaves["x"], leaves["hx"])
    return torch.autograd.grad(y.sin().sum() + h.cos().sum(), [leaves[name] for name in wanted])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"leak": 0.5, "learn_leak": True}], ids=str
)
@pytest.mark.parametrize("H", [6, 448])  # of 448 units six rows take the directions by turns
def test_a_gradient_that_is_wanted_alone_is_that_of_all(bidirectional, options, H):
    layer = nn.RNN(V, H, 2, bidirectional=bidirectional, **options)
    leaves = _leaves(layer, H)
    every = dict(zip(leaves, _grads(layer, leaves, list(leaves)), strict=True))
    for name in leaves:
        (alone,) = _grads(layer, leaves, [name])
        assert torch.equal(alone, every[name]), name


@pytest.mark.parametrize(("wanted", "passes"), [("weight_hh_l2", 1), ("bias_ih_l1", 2), ("hx", 3)])
def test_layers_below_all_that_is_wanted_take_no_backward_pass(wanted, passes, monkeypatch):
    run, seen = type(native).rnn_backward, []

    def counted(self, a):
        seen.append(a)
        return run(self, a)

    monkeypatch.setattr(type(native), "rnn_backward", counted)
    layer = nn.RNN(V, 6, 3)
    leaves = {
        "x": torch.randn(T, B, V),
        "hx": torch.randn(3, B, 6),
        **dict(layer.named_parameters()),
    }
    _grads(layer, leaves, [wanted])
    assert len(seen) == passes
