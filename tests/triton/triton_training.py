"""The Triton backend in Triton's interpreter: loss and training step; run by test_triton.py."""

import pytest
import torch

from rnnfast import BackendError, dispatch, explain, functional
from rnnfast.backends.reference import reference
from rnnfast.backends.triton import triton
from support import models, untyped
from support.compare import assert_close_to_f64

NAN, INF = float("nan"), float("inf")

# One block of classes; several; large H; one of everything.
MODELS = [(5, 3, 33, 28), (2, 5, 17, 70), (3, 2, 150, 7), (1, 1, 1, 1)]


def make_model(shape, dtype=torch.float32):
    T, B, H, V = shape
    params = [p.detach() for p in models.params(V, H, dtype)]
    ids, targets = torch.randint(V, (2, B, T)).transpose(1, 2)
    return ids, targets, params, torch.randn(B, H).to(dtype)


def losses(backend, ids, targets, params, h, relu=False):
    out = untyped.rnn_cross_entropy(backend, ids, targets, *params, h, relu, True, True)
    names = ("loss", "h_last", "W_xh", "W_hh", "b_h", "W_hq", "b_q", "h0")
    return dict(zip(names, out, strict=True))


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("shape", MODELS)
def test_loss_and_gradients(shape, relu):
    ids, targets, params, h = make_model(shape)
    got = losses(triton, ids, targets, params, h, relu)
    same = losses(reference, ids, targets, params, h, relu)
    wide = losses(reference, ids, targets, [p.double() for p in params], h.double(), relu)
    for name, value in got.items():
        assert_close_to_f64(name, value, same[name], wide[name])
    alone = untyped.rnn_cross_entropy(triton, ids, targets, *params, h, relu, False, False)
    assert torch.equal(alone[0], got["loss"])
    assert torch.equal(alone[1], got["h_last"])
    assert all(grad.numel() == 0 for grad in alone[2:])


def test_a_small_loss_beside_large_logits():
    ids, targets, params, h = make_model((1, 1, 1, 2))
    for large in (3.3, 40.0, 1000.0):
        params[4] = torch.tensor([large, large - 6])
        args = ids, torch.zeros_like(targets)
        got, same = (losses(b, *args, params, h)["loss"] for b in (triton, reference))
        wide = losses(reference, *args, [p.double() for p in params], h.double())["loss"]
        assert_close_to_f64("loss", got, same, wide)


def test_loss_and_gradients_of_transposed_arguments():
    """Without gaps, so that a tensor made like one has its strides as well."""
    ids, targets, params, h = make_model(MODELS[0])
    want = losses(triton, ids, targets, params, h)
    turned = [p.T.contiguous().T for p in params]
    for name, value in losses(triton, ids, targets, turned, h.T.contiguous().T).items():
        assert torch.equal(value, want[name]), name
    alone = (*turned, h.T.contiguous().T, False, False, False)
    loss, h_last, *_ = untyped.rnn_cross_entropy(triton, ids, targets, *alone)
    assert torch.equal(loss, want["loss"])
    assert torch.equal(h_last, want["h_last"])


def test_the_loss_of_no_sequences_is_nan():
    ids, targets, params, h = make_model((3, 0, 5, 4))
    got, same = (losses(each, ids, targets, params, h) for each in (triton, reference))
    for name, value in got.items():
        torch.testing.assert_close(value, same[name], equal_nan=True)


def test_loss_in_float16():
    ids, targets, params, h = make_model(MODELS[0], torch.float16)
    got = losses(triton, ids, targets, params, h)
    same = losses(reference, ids, targets, params, h)
    wide = losses(reference, ids, targets, [p.double() for p in params], h.double())
    for name, value in got.items():
        assert_close_to_f64(name, value, same[name], wide[name])


def test_logits_of_any_size():
    for size in (1e4, 1e30):
        ids, targets, params, h = make_model((2, 3, 5, 130))
        params[4] = torch.linspace(-size, size, 130)
        got, want = (losses(b, ids, targets, params, h) for b in (triton, reference))
        torch.testing.assert_close(got["loss"], want["loss"])
        torch.testing.assert_close(got["b_q"], want["b_q"])


@pytest.mark.parametrize("V", [28, 70])
def test_a_target_out_of_range_makes_the_loss_nan(V):
    for bad in (-1, V, 2**62):
        ids, targets, params, h = make_model((2, 3, 5, V))
        targets = targets.clone()
        targets[1, 2] = bad
        assert untyped.rnn_cross_entropy(triton, ids, targets, *params, h, False, True, True)[
            0
        ].isnan()


@pytest.mark.parametrize(
    ("shape", "max_norm"),
    [(MODELS[0], 1e-3), (MODELS[0], 1e9), (MODELS[0], INF), *[(m, 1e-3) for m in MODELS[1:]]],
)
def test_whole_step(shape, max_norm):
    ids, targets, params, h = make_model(shape)

    def step(backend, dtype):
        mine, state = [p.to(dtype, copy=True) for p in params], h.to(dtype, copy=True)
        grads = [torch.full_like(p, NAN) for p in mine]
        loss = untyped.train_step_(backend, ids, targets, mine, grads, state, 0.5, max_norm, False)
        return [loss, state, *mine, *grads]

    got, same = step(triton, torch.float32), step(reference, torch.float32)
    wide = step(reference, torch.float64)
    for i, (a, b, c) in enumerate(zip(got, same, wide, strict=True)):
        assert_close_to_f64(f"result {i}", a, b, c)
    for a, b in zip(got, step(triton, torch.float32), strict=True):
        assert torch.equal(a, b), "other bits on the second run"


def test_whole_step_on_strided_tensors():
    ids, targets, params, h = make_model(MODELS[0])
    grads = [torch.empty_like(p) for p in params]
    plain = [p.clone() for p in params]
    state = h.clone()
    want = untyped.train_step_(triton, ids, targets, plain, grads, state, 0.5, 1.0, False)
    strided = [torch.stack((p, p), -1)[..., 0] for p in params]
    again = h.T.contiguous().T
    got = untyped.train_step_(triton, ids, targets, strided, grads, again, 0.5, 1.0, False)
    assert torch.equal(got, want)
    assert torch.equal(again, state)
    for a, b in zip(strided, plain, strict=True):
        assert torch.equal(a, b)


def test_whole_step_on_gradients_that_share_memory():
    """As if each had its own; which of them stays is left open."""
    ids, targets, params, h = make_model((5, 3, 20, 20))
    plain, state = [p.clone() for p in params], h.clone()
    grads = [torch.empty_like(p) for p in params]
    untyped.train_step_(triton, ids, targets, plain, grads, state, 0.5, 1.0, False)
    grads[1] = grads[0]
    untyped.train_step_(triton, ids, targets, params, grads, h, 0.5, 1.0, False)
    for got, want in zip([*params, h], [*plain, state], strict=True):
        assert torch.equal(got, want)


def test_the_same_gradients_are_taken_from_other_parameters():
    """The table of a clip has the addresses of both."""
    ids, targets, params, h = make_model((2, 3, 5, 4))
    grads = [torch.empty_like(p) for p in params]
    for _ in range(2):
        mine, start = [p.clone() for p in params], h.clone()
        untyped.train_step_(triton, ids, targets, mine, grads, start, 0.5, INF, False)
        for param, before, grad in zip(mine, params, grads, strict=True):
            assert torch.equal(param, before - 0.5 * grad)


def test_autograd_sees_what_a_step_changes():
    ids, targets, params, h = make_model(MODELS[0])
    written = [*params, h, *(torch.empty_like(p) for p in params)]
    before = [t._version for t in written]
    untyped.train_step_(triton, ids, targets, params, written[6:], h, 0.5, 1.0, False)
    assert all(t._version > b for t, b in zip(written, before, strict=True))


def test_the_public_functions_run_on_it_when_forced():
    assert dispatch.backend_for(torch.zeros(1)) is not triton, "the interpreter is never a choice"
    ids, targets, params, h = make_model(MODELS[0])
    leaves = [p.requires_grad_(True) for p in params]
    results = []
    for name in ("triton", "reference"):
        with dispatch.use_backend(name):
            loss, _ = functional.rnn_cross_entropy(ids, targets, h, tuple(leaves))
            results.append(torch.autograd.grad(loss, leaves))
            hs, _ = functional.rnn(ids, h, *leaves[:3])
            results[-1] += torch.autograd.grad(hs.square().sum(), leaves[:3])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    with dispatch.use_backend("triton"):
        assert "H to 128: W_hh in registers" in str(explain())
        assert "H=150: a matrix product for each step" in str(
            explain(models.ours(models.params(3, 150)))
        )
    with dispatch.use_backend("triton"), pytest.raises(BackendError, match="float64"):
        dispatch.backend_for(torch.zeros(1).double())


def test_wrong_gradients_uniforms_and_targets_are_refused():
    ids, targets, params, h = make_model((2, 3, 5, 4))
    grads = [torch.empty_like(p) for p in params]
    grads[3] = grads[3].T
    with pytest.raises(RuntimeError, match=r"grads\[3\] is float32 \[4, 5\]"):
        untyped.train_step_(triton, ids, targets, params, grads, h, 0.5, 1.0, False)
    with pytest.raises(RuntimeError, match="targets is int32"):
        untyped.rnn_cross_entropy(triton, ids, targets.int(), *params, h, False, True, True)
    grads[3] = grads[3].T
    for wrong, message in ((ids.int(), "ids is int32"), (ids[:1], r"targets is int64 \[2, 3\]")):
        with pytest.raises(RuntimeError, match=message):
            untyped.train_step_(triton, wrong, targets, params, grads, h, 0.5, 1.0, False)
    for i, message in ((0, r"W_xh is .* \[4, 5\]"), (4, r"b_q is .* must be float32 \[4\]")):
        wrong = [*params[:i], torch.zeros(4, 6)[:, i:], *params[i + 1 :]]
        with pytest.raises(RuntimeError, match=message):
            untyped.rnn_cross_entropy(triton, ids, targets, *wrong, h, False, True, True)
    for uniforms in (torch.rand(3, 2), torch.zeros(2, 3).long()):
        with pytest.raises(RuntimeError, match="uniforms is"):
            untyped.decode(triton, ids[0], *params, h, 2, 1.0, uniforms, False)
    for change, message in (
        ((ids[0].int(), *params), "first is int32"),
        ((ids[0], *params[:3], params[3].T, params[4]), "W_hq is"),
    ):
        with pytest.raises(RuntimeError, match=message):
            untyped.decode(triton, *change, h, 2, 1.0, None, False)
    for steps, temperature in ((-1, 1.0), (2, 0.0), (2, NAN), (2, INF)):
        with pytest.raises(RuntimeError, match="steps must be at least 0"):
            untyped.decode(triton, ids[0], *params, h, steps, temperature, None, False)
    first = torch.full((2,), 10.0)
    for grad, message in (
        (torch.ones(1).expand(4), r"grads\[1\] is expanded"),
        (torch.ones(3).long(), r"grads\[1\] is int64 \[3\] on cpu; it must be float32"),
        (torch.ones(3, device="meta"), r"grads\[1\] is float32 \[3\] on meta; .* on cpu"),
    ):
        with pytest.raises(RuntimeError, match=message):
            triton.clip_grads_([first, grad], 1.0, True)
        assert torch.equal(first, torch.full((2,), 10.0))
