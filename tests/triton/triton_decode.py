"""The Triton backend in Triton's interpreter: generation; run by test_triton.py."""

from dataclasses import replace

import pytest
import torch

from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton
from support.compare import assert_close_to_f64
from support.decoding import (
    ARGMAX_LOGITS,
    SAMPLING_EDGES,
    check_infinite_states,
    constant_logits,
    make,
)


def decode_both(model, steps, temperature=1.0, uniforms=None):
    return [model.decode(steps, temperature, uniforms, each) for each in (triton, reference)]


# All in registers; W_hq streamed; everything streamed.
@pytest.mark.parametrize(("B", "H", "V"), [(1, 1, 1), (3, 33, 28), (2, 100, 70), (2, 150, 200)])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_decode(B, H, V, sampled):
    model = make(B, H, V)
    uniforms = torch.rand(6, B) if sampled else None
    (ids, h_last), (want, h_want) = decode_both(model, 6, 0.7, uniforms)
    assert torch.equal(ids, want)
    truth = model.to(torch.float64).decode(6, 0.7, uniforms, reference)[1]
    assert_close_to_f64("h_last", h_last, h_want, truth)


def test_decode_of_transposed_and_strided_arguments():
    model, uniforms = make(3, 20, 28), torch.rand(6, 3)
    turned = replace(
        model,
        **{
            name: value.mT.contiguous().mT for name, value in vars(model).items() if name[0] in "Wh"
        },
        first=torch.stack((model.first, model.first + 1), 1)[:, 0],
    )
    got = turned.decode(6, 0.7, uniforms.T.contiguous().T, triton)
    for result, want in zip(got, model.decode(6, 0.7, uniforms, triton), strict=True):
        assert torch.equal(result, want)


def test_decode_by_steps(monkeypatch):
    from rnnfast.backends.triton import generate

    assert generate.fits(4096, 4096)
    assert not generate.fits(4097, 1)
    assert not generate.fits(1, 4097)
    monkeypatch.setattr(generate, "LARGEST", 16)
    model = make(2, 33, 28)
    for uniforms in (None, torch.rand(6, 2)):
        (ids, h_last), (want, h_want) = decode_both(model, 6, 0.7, uniforms)
        assert torch.equal(ids, want)
        torch.testing.assert_close(h_last, h_want)


@pytest.mark.parametrize("logits", ARGMAX_LOGITS)
def test_argmax_is_torchs(logits):
    (ids, _), (want, _) = decode_both(constant_logits(logits), 2)
    assert torch.equal(ids, want)


@pytest.mark.parametrize("H", [20, 150])
def test_infinite_states_stay_infinite(H):
    check_infinite_states(2, H, triton)


@pytest.mark.parametrize(("logits", "u"), SAMPLING_EDGES)
def test_sampling_at_the_edges_is_the_references(logits, u):
    uniforms = torch.full((2, 1), u)
    (ids, _), (want, _) = decode_both(constant_logits(logits), 2, uniforms=uniforms)
    assert torch.equal(ids, want)


def test_rounding_never_samples_beyond_the_vocabulary():
    for _ in range(30):
        model = constant_logits(torch.randn(300).tolist())
        ids, _ = model.decode(1, 1.0, torch.full((1, 1), 1 - 2**-24), triton)
        assert 250 <= ids.item() < 300


@pytest.mark.parametrize(("H", "largest"), [(5, 4096), (150, 4096), (20, 16)])
def test_decode_of_nothing_and_of_a_wrong_id(H, largest, monkeypatch):
    from rnnfast.backends.triton import generate

    monkeypatch.setattr(generate, "LARGEST", largest)
    model = make(2, H, 4)
    model.first = torch.tensor([0, 1])
    ids, h_last = model.decode(0, backend=triton)
    assert ids.shape == (0, 2)
    assert torch.equal(h_last, model.h0)
    model.first = torch.tensor([1, 4])
    ids, h_last = model.decode(3, backend=triton)
    assert h_last[1].isnan().all()
    assert not ids[:, 1].any()
    assert h_last[0].isfinite().all()
