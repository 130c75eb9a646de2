"""The Triton backend in Triton's interpreter: generation; run by test_triton.py."""

import pytest
import torch

from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton
from support import models, untyped
from support.compare import assert_close_to_f64

NAN, INF = float("nan"), float("inf")


def decode_both(model, first, h0, steps, temperature=1.0, uniforms=None):
    args = (first, *model, h0, steps, temperature, uniforms, False)
    return untyped.decode(triton, *args), untyped.decode(reference, *args)


# All in registers; W_hq streamed; everything streamed.
@pytest.mark.parametrize(("B", "H", "V"), [(1, 1, 1), (3, 33, 28), (2, 100, 70), (2, 150, 200)])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_decode(B, H, V, sampled):
    model = [p.detach() for p in models.params(V, H)]
    first, h0 = torch.randint(V, (B,)), torch.randn(B, H)
    uniforms = torch.rand(6, B) if sampled else None
    (ids, h_last), (want, h_want) = decode_both(model, first, h0, 6, 0.7, uniforms)
    assert torch.equal(ids, want)
    wide = [p.double() for p in model]
    truth = untyped.decode(reference, first, *wide, h0.double(), 6, 0.7, uniforms, False)[1]
    assert_close_to_f64("h_last", h_last, h_want, truth)


def test_decode_by_steps(monkeypatch):
    from rnnfast.backends.triton import generate

    monkeypatch.setattr(generate, "LARGEST", 16)
    model = [p.detach() for p in models.params(28, 33)]
    first, h0 = torch.tensor([3, 7]), torch.randn(2, 33)
    for uniforms in (None, torch.rand(6, 2)):
        (ids, h_last), (want, h_want) = decode_both(model, first, h0, 6, 0.7, uniforms)
        assert torch.equal(ids, want)
        torch.testing.assert_close(h_last, h_want)


def constant_logits(logits):
    """A model whose logits do not depend on its state."""
    model = [p.detach() for p in models.params(len(logits), 5)]
    model[3] = torch.zeros(5, len(logits))
    model[4] = torch.tensor(logits)
    return model


@pytest.mark.parametrize(
    "logits",
    [
        [0.0, 5.0, 5.0, 1.0],
        [2.0] * 40,
        [1.0, NAN, 7.0, NAN],
        [-1.0] * 30 + [NAN],
        [-INF] * 5,
        [-INF, -INF, -3.0],
        [0.0, INF, INF],
        [0.0, INF, NAN],
        [-0.0, 0.0],
    ],
)
def test_argmax_is_torchs(logits):
    (ids, _), (want, _) = decode_both(
        constant_logits(logits), torch.tensor([0]), torch.zeros(1, 5), 2
    )
    assert torch.equal(ids, want)


@pytest.mark.parametrize(
    ("logits", "u"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.0),
        ([0.0, 0.0, 0.0, 0.0], 0.24),
        ([0.0, 0.0, 0.0, 0.0], 0.76),
        ([-INF, 0.0, -INF], 0.0),
        ([-INF, 0.0, 0.0, -INF, -INF], 1 - 2**-24),
        ([-200.0, 0.0, -200.0], 1 - 2**-24),
        ([1e30, 0.0], 0.999),
        ([0.0, NAN, 0.0], 0.5),
        ([0.0, INF], 0.5),
        ([0.0] * 200, 1 - 2**-24),
    ],
)
def test_sampling_at_the_edges_is_the_references(logits, u):
    (ids, _), (want, _) = decode_both(
        constant_logits(logits),
        torch.tensor([0]),
        torch.zeros(1, 5),
        2,
        uniforms=torch.full((2, 1), u),
    )
    assert torch.equal(ids, want)


def test_rounding_never_samples_beyond_the_vocabulary():
    for _ in range(30):
        model = constant_logits(torch.randn(300).tolist())
        u = torch.full((1, 1), 1 - 2**-24)
        ids, _ = untyped.decode(
            triton, torch.tensor([0]), *model, torch.zeros(1, 5), 1, 1.0, u, False
        )
        assert 250 <= ids.item() < 300


@pytest.mark.parametrize("H", [5, 150])
def test_decode_of_nothing_and_of_a_wrong_id(H):
    model = [p.detach() for p in models.params(4, H)]
    h0 = torch.randn(2, H)
    ids, h_last = untyped.decode(triton, torch.tensor([0, 1]), *model, h0, 0, 1.0, None, False)
    assert ids.shape == (0, 2)
    assert torch.equal(h_last, h0)
    ids, h_last = untyped.decode(triton, torch.tensor([1, 4]), *model, h0, 3, 1.0, None, False)
    assert h_last[1].isnan().all()
    assert not ids[:, 1].any()
    assert h_last[0].isfinite().all()
