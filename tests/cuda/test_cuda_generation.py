"""Generation on CUDA, end to end without a GPU: operators, launcher, emulation."""

from dataclasses import replace

import pytest
import torch

import rnnfast
from rnnfast import functional, use_backend
from rnnfast.backends.cuda import bridge, choose_decode, cuda
from rnnfast.backends.reference import reference
from support import models
from support.decoding import (
    ARGMAX_LOGITS,
    check_greedy,
    check_infinite_states,
    check_sampled,
    constant_logits,
    make,
)
from support.emulator import build

F32, F64 = torch.float32, torch.float64

pytestmark = [
    pytest.mark.skipif(bool(build.why_not()), reason=build.why_not()),
    pytest.mark.usefixtures("emulated"),
]


@pytest.mark.parametrize(
    ("B", "H", "V", "steps"), [(1, 20, 28, 5), (3, 128, 7, 3), (140, 5, 4, 2), (1, 200, 28, 3)]
)
def test_generation(B, H, V, steps, driver):
    model = make(B, H, V)
    before = driver.emulated_driver_launches()
    check_greedy(model, *model.decode(steps, backend=cuda))
    assert driver.emulated_driver_launches() - before == 1
    u = torch.rand(steps, B)
    check_sampled(model, u, 0.7, *model.decode(steps, 0.7, u, backend=cuda))


@pytest.mark.parametrize("H", [20, 130, 511, 1100])  # held by a block, by a cluster, by none
def test_generation_with_infinite_states(H):
    check_infinite_states(2, H, cuda)


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
def test_generation_in_float64(relu):
    model = make(3, 20, 28, F64, relu)
    u = torch.rand(5, 3, dtype=F64)
    for uniforms in (None, u, u.float()):
        got = model.decode(5, 0.7, uniforms, backend=cuda)
        want = model.decode(5, 0.7, uniforms, backend=reference)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1])


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_generation_from_arguments_of_any_layout(dtype):
    model, uniforms = make(3, 20, 28, dtype), torch.rand(5, 3)
    strided = {name: torch.stack((t, t), -1)[..., 0] for name, t in tensors_of(model).items()}
    got = replace(model, **strided).decode(5, 0.7, uniforms.T.contiguous().T, cuda)
    for result, want in zip(got, model.decode(5, 0.7, uniforms, cuda), strict=True):
        assert torch.equal(result, want)


def tensors_of(model):
    return {name: value for name, value in vars(model).items() if torch.is_tensor(value)}


@pytest.mark.parametrize("name", ["W_xh", "W_hh", "b_h", "W_hq", "b_q", "h0", "first"])
def test_generation_refuses_what_does_not_fit(name):
    model = make(3, 8, 5)
    tensor = tensors_of(model)[name]
    for wrong in [tensor.int()] if name == "first" else [tensor.half(), tensor[..., 1:]]:
        with pytest.raises(RuntimeError, match=r"\w+ is .*; it must be"):
            replace(model, **{name: wrong}).decode(2, backend=cuda)


@pytest.mark.parametrize(
    ("steps", "temperature", "uniforms", "message"),
    [
        (2, 1.0, torch.rand(2, 1), r"uniforms is .* \[steps, B\] = \[2, 3\]"),
        (2, 1.0, torch.zeros(2, 3).long(), "uniforms is int64"),
        (2, 0.0, torch.rand(2, 3), "temperature is 0; it must be above 0"),
        (2, float("nan"), torch.rand(2, 3), "temperature is nan"),
        (-1, 1.0, None, "steps is -1; it must be at least 0"),
    ],
)
def test_generation_refuses_other_numbers(steps, temperature, uniforms, message):
    with pytest.raises(RuntimeError, match=message):
        make(3, 8, 5).decode(steps, temperature, uniforms, cuda)


def test_generation_among_more_classes_than_a_block_has_room_for(monkeypatch):
    """Which takes 58,000 on an H200."""
    monkeypatch.setattr(choose_decode, "table", tuple)
    bridge.forget_plans()
    model, u = make(2, 9, 211), torch.rand(4, 2, dtype=F64)
    check_greedy(model, *model.decode(4, backend=cuda))
    check_sampled(model, u, 0.7, *model.decode(4, 0.7, u, backend=cuda))
    for logits in ARGMAX_LOGITS:
        want = torch.tensor(logits).argmax().item()
        ids, _ = constant_logits(logits).decode(2, backend=cuda)
        assert ids.flatten().tolist() == [want] * 2
    bridge.forget_plans()


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_generation_without_steps_or_sequences(dtype):
    model = make(3, 8, 5, dtype)
    ids, h_last = model.decode(0, backend=cuda)
    assert ids.shape == (0, 3)
    assert torch.equal(h_last, model.h0)
    ids, h_last = make(0, 8, 5, dtype).decode(4, backend=cuda)
    assert ids.shape == (4, 0)


@pytest.mark.parametrize(
    ("uniforms", "first", "message"),
    [(None, [0, 5, 1], "id"), (torch.ones(2, 3), [0, 1, 1], "uniform")],
)
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
def test_generation_reports_what_is_out_of_range(uniforms, first, message, dtype):
    model = make(3, 8, 5, dtype)
    model.first = torch.tensor(first)
    model.decode(2, 1.0, uniforms, backend=cuda)
    with pytest.raises(RuntimeError, match=message):
        model.decode(2, backend=cuda)
    model.first = torch.tensor([0, 1, 2])
    model.decode(2, backend=cuda)
    bridge.check(0)


# ---- as users call it


def test_functional_and_generation_on_the_cuda_backend():
    net = models.ours(models.params(28, 20))
    params, h0 = [p.detach() for p in net.params], torch.zeros(1, 20)
    vocab = _Vocab(list("abcdefghijklmnopqrstuvwxyz ."))
    results = []
    for name in ("cuda", "native"):
        with use_backend(name):
            ids, _ = functional.greedy_decode(torch.tensor([3]), h0, params, 8)
            results.append([ids.tolist(), rnnfast.predict_ch8("time", 9, net, vocab, "cpu")])
    assert results[0] == results[1]


class _Vocab:
    def __init__(self, tokens):
        self.idx_to_token = tokens

    def __getitem__(self, token):
        return self.idx_to_token.index(token)
