"""The specification against the book's loop, torch.nn.RNN and torch's own differentiation."""

import pytest
import torch

from rnnfast.backends import Adjoint, Needs, Recurrence
from rnnfast.backends.reference import reference
from support import book, models, untyped
from support.compare import assert_close_to_f64


@pytest.mark.parametrize(("T", "B", "V", "H"), [(1, 1, 1, 1), (5, 3, 7, 9), (35, 2, 28, 33)])
def test_forward_is_bit_equal_to_the_book(T, B, V, H):
    p = models.params(V, H)
    X = torch.randint(V, (B, T))
    h0 = torch.randn(B, H)
    one_hot = torch.nn.functional.one_hot(X.T, V).float()
    y, (h,) = book.rnn(one_hot, (h0,), p)
    hs, h_last = untyped.rnn_forward(reference, p[0], X.T, p[1], p[2], h0, False)
    assert torch.equal(h_last, h)
    assert torch.equal(hs[-1], h)
    torch.testing.assert_close(hs.flatten(0, 1) @ p[3] + p[4], y)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_forward_agrees_with_torch_rnn(nonlinearity):
    T, B, V, H = 6, 3, 5, 8
    layer = torch.nn.RNN(V, H, nonlinearity=nonlinearity, dtype=torch.float64)
    x, h0 = torch.randn(T, B, V).double(), torch.randn(1, B, H).double()
    want, _ = layer(x, h0)
    projection = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0
    hs, _ = untyped.rnn_forward(
        reference, projection, None, layer.weight_hh_l0.T, None, h0[0], nonlinearity == "relu"
    )
    torch.testing.assert_close(hs, want)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
def test_backward_is_the_derivative_of_forward(relu, with_ids):
    T, B, V, H = 5, 3, 4, 7
    p = models.params(V, H, torch.float64)
    ids = torch.randint(V, (T, B)) if with_ids else None
    x = p[0] if with_ids else torch.randn(T, B, H, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(B, H, dtype=torch.float64, requires_grad=True)
    hs, h_last = untyped.rnn_forward(reference, x, ids, p[1], p[2], h0, relu)
    grads = torch.randn_like(hs), torch.randn_like(h_last)
    want = torch.autograd.grad((hs, h_last), (x, p[1], p[2], h0), grads)
    got = untyped.rnn_backward(reference, *grads, hs, ids, V, p[1], h0, relu, True, True, True)
    for name, g, w in zip(("x", "W_hh", "b_h", "h0"), got, want, strict=True):
        torch.testing.assert_close(g, w, msg=lambda m, name=name: f"grad_{name}: {m}")


def test_backward_of_logits_is_the_derivative():
    W_xh, W_hh, b_h, W_hq, b_q = models.params(7, 9, torch.float64)
    h0 = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    r = Recurrence("tanh", W_xh, torch.randint(7, (5, 3)), W_hh, b_h, h0)
    made = reference.rnn_logits(r, W_hq, b_q)
    grads = [torch.randn_like(each) for each in made]
    want = torch.autograd.grad(made, (W_xh, W_hh, b_h, h0, W_hq, b_q), grads)
    logits, h_last, hs = grads
    a = Adjoint(r, 7, made[2], None, hs, h_last, Needs())
    got, *of_readout = reference.rnn_logits_backward(a, W_hq, logits)
    torch.testing.assert_close((*got[:4], *of_readout), want)


def test_ids_out_of_range_are_refused():
    p = models.params(4, 3)
    h0 = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="Class values must be smaller than num_classes"):
        untyped.rnn_forward(reference, p[0], torch.tensor([[4]]), p[1], p[2], h0, False)
    with pytest.raises(RuntimeError, match="Class values must be non-negative"):
        untyped.rnn_forward(reference, p[0], torch.tensor([[-1]]), p[1], p[2], h0, False)


def test_clip_follows_the_book_and_torch():
    grads = [torch.randn(5, 3), torch.randn(4)]
    for d2l in (True, False):
        leaves = [torch.zeros_like(g, requires_grad=True) for g in grads]
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = g.clone()
        mine = [g.clone() for g in grads]
        norm = reference.clip_grads_(mine, 0.5, d2l)
        if d2l:
            book.clip(leaves, 0.5)
        else:
            torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(leaves, 0.5))
        for g, leaf in zip(mine, leaves, strict=True):
            torch.testing.assert_close(g, leaf.grad)


def test_clip_survives_squares_that_overflow():
    grads = [torch.full((3,), 1e30), torch.full((2,), -1e30)]
    norm = reference.clip_grads_(grads, 1.0, True)
    assert norm.item() == pytest.approx(5**0.5 * 1e30)
    assert torch.cat(grads).norm().item() == pytest.approx(1.0)


def test_sampling_follows_the_distribution():
    H, V, n = 2, 3, 20000
    zeros = torch.zeros(V, H), torch.zeros(H, H), torch.zeros(H), torch.zeros(H, V)
    b_q = torch.tensor([0.0, 1.0, -1.0])
    ids, _ = untyped.decode(reference,
        torch.zeros(n, dtype=torch.int64), *zeros, b_q, torch.zeros(n, H), 1, 0.5,
        torch.rand(1, n), False,
    )  # fmt: skip
    frequencies = torch.bincount(ids[0], minlength=V) / n
    torch.testing.assert_close(frequencies, torch.softmax(b_q / 0.5, 0), atol=0.02, rtol=0)


def test_half_precision_runs():
    W_xh, W_hh, b_h, *_ = models.params(3, 4, torch.bfloat16)
    values = (W_xh, torch.tensor([[1, 2]]), W_hh, b_h, torch.zeros(2, 4, dtype=torch.bfloat16))
    hs, h = untyped.rnn_forward(reference, *values, False)
    assert hs.dtype == h.dtype == torch.bfloat16
    wide = [t.double() if t.is_floating_point() else t for t in values]
    truth, _ = untyped.rnn_forward(reference, *wide, False)
    assert_close_to_f64("hs", hs, hs, truth)
