"""functional: gradients of every order, transforms, torch.compile, and bad input."""

import pytest
import torch

from rnnfast import FallbackWarning, dispatch, functional, optim, use_backend
from rnnfast.backends import Decoding, Params
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from support import models

T, B, V, H = 4, 3, 5, 6


def _leaves(dtype=torch.float64):
    W_xh, W_hh, b_h, W_hq, b_q = models.params(V, H, dtype)
    h0 = torch.randn(B, H, dtype=dtype, requires_grad=True)
    return h0, W_xh, W_hh, b_h, W_hq, b_q


@pytest.fixture
def ids():
    return torch.randint(V, (T, B))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("dense", [False, True])
def test_gradcheck(backend, ids, nonlinearity, dense):
    inputs = torch.randn(T, B, V, dtype=torch.float64, requires_grad=True) if dense else ids
    leaves = _leaves()[:4]

    def run(inputs, *leaves):
        return functional.rnn(inputs, *leaves, nonlinearity=nonlinearity)

    assert torch.autograd.gradcheck(run, (inputs, *leaves))


def test_double_backward_is_right(ids):
    """A gradient penalty: the kernels' own backward would silently drop it."""
    leaves = _leaves()[:4]

    def run(*leaves):
        with use_backend("native"):
            return functional.rnn(ids, *leaves)

    with pytest.warns(FallbackWarning, match="itself being differentiated"):
        assert torch.autograd.gradgradcheck(run, leaves)


def test_double_backward_agrees_with_the_reference(ids):
    grads = {}
    for name in ("native", "reference"):
        torch.manual_seed(1)
        leaves = _leaves()[:4]
        with use_backend(name):
            hs, _ = functional.rnn(ids, *leaves)
            if name == "native":
                with pytest.warns(FallbackWarning):
                    first = torch.autograd.grad(hs.sum(), leaves, create_graph=True)
            else:
                first = torch.autograd.grad(hs.sum(), leaves, create_graph=True)
            sum(g.square().sum() for g in first).backward()
        grads[name] = [leaf.grad for leaf in leaves]
    for got, want in zip(*grads.values(), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("dense", [False, True])
def test_logits_gradcheck(backend, ids, nonlinearity, dense):
    inputs = torch.randn(T, B, V, dtype=torch.float64, requires_grad=True) if dense else ids
    h0, *params = _leaves()

    def run(inputs, h0, *params):
        return functional.rnn_logits(inputs, h0, params, nonlinearity=nonlinearity)

    assert torch.autograd.gradcheck(run, (inputs, h0, *params))


def test_logits_double_backward_is_right(ids):
    def run(h0, *params):
        with use_backend("native"):
            return functional.rnn_logits(ids, h0, params)

    with pytest.warns(FallbackWarning, match="itself being differentiated"):
        assert torch.autograd.gradgradcheck(run, _leaves())


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (3,), (4,), (5,), (0, 4), (4, 5)])
@pytest.mark.parametrize("of", ["logits", "state", "both"])
def test_logits_give_each_its_gradient_or_none(ids, trained, of):
    leaves = [leaf.detach().requires_grad_(i in trained) for i, leaf in enumerate(_leaves())]
    grads = []
    for name in ("native", "reference"):
        with use_backend(name):
            logits, h_last = functional.rnn_logits(ids, leaves[0], leaves[1:])
        loss = {"logits": logits.exp().sum(), "state": h_last.exp().sum()}
        loss["both"] = loss["logits"] + loss["state"]
        assert loss[of].requires_grad == (of != "state" or min(trained) < 4)
        if not loss[of].requires_grad:
            return
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        grads.append(torch.autograd.grad(loss[of], wanted, allow_unused=True))
    for got, want in zip(*grads, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("of", [0, 1], ids=["logits", "state"])
def test_several_vectors_go_back_through_logits_at_once(ids, of):
    leaves = _leaves()
    out = functional.rnn_logits(ids, leaves[0], leaves[1:])[of]
    vectors = torch.randn(2, *out.shape, dtype=out.dtype)
    with pytest.warns(FallbackWarning, match="several vectors"):
        got = torch.autograd.grad(
            out, leaves[:4], vectors, retain_graph=True, is_grads_batched=True
        )
    for i, vector in enumerate(vectors):
        want = torch.autograd.grad(out, leaves[:4], vector, retain_graph=True)
        torch.testing.assert_close(tuple(each[i] for each in got), want)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_logits_without_gradient_are_those_of_recurrence_and_readout(backend, ids, precision):
    h0, *params = (leaf.detach() for leaf in _leaves(torch.float32))
    torch.set_float32_matmul_precision(precision)
    try:
        hs, want = functional.rnn(ids, h0, *params[:3])
        logits, h_last = functional.rnn_logits(ids, h0, params)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(h_last, want)  # to the bit: both round, or neither does
    torch.testing.assert_close(logits, functional.readout(hs, *params[3:]))


def test_logits_are_rounded_under_autocast_as_eager_rounds_them(backend, ids):
    h0, *params = _leaves(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        hs, _ = functional.rnn(ids, h0, *params[:3])
        want = hs.flatten(0, 1) @ params[3] + params[4]
        assert torch.equal(functional.readout(hs, *params[3:]), want)
        assert torch.equal(functional.rnn_logits(ids, h0, params)[0], want)


def test_logits_take_one_call_where_they_may(ids, monkeypatch):
    calls = []
    monkeypatch.setattr(functional, "readout", lambda *_: calls.append(1))
    h0, *params = _leaves()
    functional.rnn_logits(ids, h0, params)
    assert not calls
    monkeypatch.setattr(native, "fused_readout", H * V - 1)
    functional.rnn_logits(ids, h0, params)
    assert len(calls) == 1


def test_func_transforms_take_the_reference(ids):
    h0, *weights = (leaf.detach() for leaf in _leaves()[:4])

    def loss(W_hh):
        return functional.rnn(ids, h0, weights[0], W_hh, weights[2])[0].sum()

    with use_backend("reference"):
        want = torch.func.grad(loss)(weights[1])
    with pytest.warns(FallbackWarning, match=r"torch\.func"):
        torch.testing.assert_close(torch.func.grad(loss)(weights[1]), want)
    many = torch.stack([weights[1], weights[1] * 0.5])
    torch.testing.assert_close(torch.func.vmap(loss)(many)[0], loss(weights[1]))
    tangent = torch.randn_like(weights[1])
    _, derivative = torch.func.jvp(loss, (weights[1],), (tangent,))
    torch.testing.assert_close(derivative, (want * tangent).sum())


def test_forward_mode_takes_the_reference(ids):
    h0, W_xh, W_hh, b_h, *_ = (leaf.detach() for leaf in _leaves())
    tangent = torch.randn_like(W_hh)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(W_hh, tangent)
        with pytest.warns(FallbackWarning, match="forward-mode"):
            hs, _ = functional.rnn(ids, h0, W_xh, dual, b_h)
        got = torch.autograd.forward_ad.unpack_dual(hs).tangent
    with use_backend("reference"):
        _, want = torch.func.jvp(
            lambda W: functional.rnn(ids, h0, W_xh, W, b_h)[0], (W_hh,), (tangent,)
        )
    torch.testing.assert_close(got, want)


def check_fullgraph(loss, leaves):
    """Compiled in one graph, a loss and its gradients are what they were, as without gradients."""
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = compiled(*leaves), loss(*leaves)
    torch.testing.assert_close(got, want)
    grads = torch.autograd.grad(got, leaves)
    torch.testing.assert_close(grads, torch.autograd.grad(want, leaves))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves), want.detach())


@pytest.mark.parametrize("dense", [False, True])
def test_torch_compile_fullgraph(backend, ids, dense):
    leaves = _leaves(torch.float32)[:4]
    inputs = torch.randn(T, B, V) if dense else ids

    def loss(*leaves):
        hs, h_last = functional.rnn(inputs, *leaves)
        return hs.square().sum() + h_last.sum()

    check_fullgraph(loss, leaves)


@pytest.mark.parametrize("dense", [False, True])
def test_logits_torch_compile_fullgraph(backend, ids, dense):
    leaves = _leaves(torch.float32)
    inputs = torch.randn(T, B, V) if dense else ids

    def loss(h0, *params):
        logits, h_last = functional.rnn_logits(inputs, h0, params)
        return logits.square().sum() + h_last.sum()

    check_fullgraph(loss, leaves)


def test_bfloat16_falls_back_and_says_so(ids):
    leaves = [leaf.detach() for leaf in _leaves(torch.bfloat16)[:4]]
    with pytest.warns(FallbackWarning, match="bfloat16"):
        hs, _ = functional.rnn(ids, *leaves)
    assert hs.dtype == torch.bfloat16
    functional.rnn(ids, *leaves)  # once per reason: a second warning would be an error here


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": torch.zeros(T, B)}, RuntimeError, "dense inputs have shape"),
        ({"inputs": torch.zeros(T, dtype=torch.int64)}, RuntimeError, "must be ids"),
        ({"inputs": torch.zeros(T, B, V + 1)}, RuntimeError, "dense inputs have shape"),
        ({"inputs": torch.zeros(T, B, dtype=torch.bool)}, RuntimeError, "LongTensor"),
        ({"inputs": torch.zeros(T, B, V).double()}, RuntimeError, "dtype"),
        ({"W_hh": torch.zeros(H, H + 1)}, RuntimeError, "W_hh has shape"),
        ({"W_hh": torch.zeros(H, H).double()}, RuntimeError, "dtypes differ"),
        ({"h0": torch.zeros(B, H).double()}, RuntimeError, "dtypes differ"),
        ({"h0": torch.zeros(H)}, RuntimeError, "the state h0 has shape"),
        ({"h0": torch.zeros(B + 1, H)}, RuntimeError, "the state h0 has shape"),
        ({"h0": torch.zeros(B, H, device="meta")}, RuntimeError, "devices differ"),
        ({"b_h": torch.zeros(H + 1)}, RuntimeError, "b_h has shape"),
        ({"b_h": torch.zeros(T, B, H)}, RuntimeError, "b_h has shape"),
        ({"b_h": torch.zeros(B + 1, H)}, RuntimeError, "b_h has shape"),
        ({"W_xh": torch.zeros(V)}, RuntimeError, "W_xh has shape"),
        (
            {"inputs": torch.zeros(T, B, V), "W_xh": torch.zeros(T, V, H)},
            RuntimeError,
            "W_xh has shape",
        ),
        (
            {"inputs": torch.full((T, B), V), "b_h": torch.zeros(B, H)},
            RuntimeError,
            "num_classes",
        ),
        ({"nonlinearity": "gelu"}, ValueError, "nonlinearity is 'gelu'"),
    ],
)
def test_bad_input_names_the_argument(backend, ids, change, error, message):
    h0, W_xh, W_hh, b_h, *_ = (leaf.detach() for leaf in _leaves(torch.float32))
    kwargs = {"inputs": ids, "h0": h0, "W_xh": W_xh, "W_hh": W_hh, "b_h": b_h, **change}
    with pytest.raises(error, match=message):
        functional.rnn(**kwargs)


def test_nan_goes_through(backend, ids):
    h0, W_xh, W_hh, b_h, *_ = (leaf.detach() for leaf in _leaves(torch.float32))
    h0[1, 0] = float("nan")
    hs, _ = functional.rnn(ids, h0, W_xh, W_hh, b_h)
    assert hs[:, 1].isnan().all()
    assert hs[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    "call",
    [
        lambda ids, h0, p: functional.rnn(ids, h0, *p[:3]),
        lambda ids, h0, p: functional.rnn_logits(ids, h0, p),
        lambda ids, h0, p: functional.rnn_cross_entropy(ids, ids, h0, p),
        lambda ids, h0, p: torch.no_grad()(functional.rnn_cross_entropy_grads)(ids, ids, h0, p),
        lambda ids, h0, p: functional.greedy_decode(ids[0], h0, p, 3),
        lambda ids, h0, p: functional.sample_decode(
            ids[0], h0, p, 3, generator=torch.Generator().manual_seed(5)
        ),
    ],
    ids=["rnn", "logits", "loss", "gradients", "greedy", "sample"],
)
def test_a_state_of_one_row_is_that_of_all(backend, ids, call):
    h0, *params = _leaves()
    torch.testing.assert_close(call(ids, h0[:1], params), call(ids, h0[:1].repeat(B, 1), params))


def test_decode_continues_the_recurrence(backend):
    h0, *params = _leaves(torch.float32)
    first = torch.tensor([1, 2, 3])
    ids, h_last = functional.greedy_decode(first, h0, params, 5)
    assert not h_last.requires_grad
    assert not functional.sample_decode(first, h0, params, 5)[1].requires_grad
    fed = torch.cat((first[None], ids[:-1]))
    hs, want = functional.rnn(fed, h0, *params[:3])
    logits = functional.readout(hs, *params[3:]).reshape(5, 3, V)
    assert torch.equal(logits.argmax(2), ids)
    torch.testing.assert_close(h_last, want)


def test_sampling_is_reproducible_and_the_same_on_both_backends():
    h0, *params = (leaf.detach() for leaf in _leaves())
    first = torch.tensor([1, 2, 3])
    drawn = []
    for name in ("native", "reference", "native"):
        generator = torch.Generator().manual_seed(5)
        with use_backend(name):
            ids, _ = functional.sample_decode(
                first, h0, params, 20, temperature=0.7, generator=generator
            )
        drawn.append(ids)
    uniforms = torch.rand(20, B, generator=torch.Generator().manual_seed(5))
    want = reference.decode(Decoding("tanh", first, Params(*params), h0, 20, 0.7, uniforms))
    for each in drawn:
        assert torch.equal(each, want[0])


@pytest.mark.parametrize("temperature", [1e-5, 1e-38, 1e-45, 1e-320])
def test_sampling_at_the_lowest_temperatures_takes_the_likeliest(backend, temperature):
    first = torch.tensor([1, 2, 3])
    for dtype in (torch.float32, torch.float64, torch.float16)[
        : 3 if backend == "reference" else 2
    ]:
        h0, *params = (leaf.detach().to(dtype) for leaf in _leaves())
        ids, _ = functional.sample_decode(first, h0, params, 9, temperature=temperature)
        assert torch.equal(ids, functional.greedy_decode(first, h0, params, 9)[0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_sampling_needs_a_temperature(temperature):
    h0, *params = _leaves()
    with pytest.raises(ValueError, match="temperature is"):
        functional.sample_decode(torch.tensor([1, 2, 3]), h0, params, 2, temperature=temperature)


def test_decode_refuses_negative_steps_and_wrong_shapes(backend):
    h0, *params = (leaf.detach() for leaf in _leaves())
    first = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="steps is -1"):
        functional.greedy_decode(first, h0, params, -1)
    with pytest.raises(RuntimeError, match=r"b_q has shape \(4,\), must be \[V\]"):
        functional.greedy_decode(first, h0, [*params[:4], params[4][:-1]], 1)
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        functional.greedy_decode(torch.tensor([1, V, 3]), h0, params, 1)


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clip_grad_norm_is_torchs(backend, max_norm):
    leaves = [torch.zeros(s, requires_grad=True) for s in ((5, 3), (4,), (2, 2))]
    for leaf in leaves[:2]:
        leaf.grad = torch.randn_like(leaf)
    others = [leaf.detach().clone().requires_grad_(True) for leaf in leaves]
    for leaf, other in zip(leaves[:2], others, strict=False):
        other.grad = leaf.grad.clone()
    got = optim.clip_grad_norm_(leaves, max_norm)
    want = torch.nn.utils.clip_grad_norm_(others, max_norm)
    torch.testing.assert_close(got, want)
    for leaf, other in zip(leaves[:2], others, strict=False):
        torch.testing.assert_close(leaf.grad, other.grad)
    torch.testing.assert_close(optim.clip_grad_norm_([], 1.0), torch.tensor(0.0))
    assert optim.clip_grad_norm_(leaves[0], 1.0, norm_type=float("inf")) <= 3
    leaves[0].grad[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="non-finite"):
        optim.clip_grad_norm_(leaves, 1.0, error_if_nonfinite=True)
    optim.clip_grad_norm_(leaves, 1.0)  # by torch's rule it spreads, by d2l's it changes nothing
    assert leaves[1].grad.isnan().all()


@pytest.mark.filterwarnings("ignore::rnnfast.FallbackWarning")
def test_gradients_of_several_kinds_are_clipped_by_the_reference():
    one = torch.ones(2)
    assert optim._backend_for_all([one, one.double()]) is native
    for other in (one.to("meta"), one.to_sparse(), one.bfloat16()):
        assert optim._backend_for_all([one, other]) is reference
        assert optim._backend_for_all([other, one]) is reference


def test_clipping_is_seen_by_version_counters(backend):
    """A graph that saved the gradient must notice that it changed."""
    leaf = torch.ones(3, requires_grad=True)
    leaf.grad = torch.ones(3)
    before = leaf.grad._version
    optim.clip_grads_([leaf.grad], 0.5, d2l=True)
    assert leaf.grad._version > before
    assert dispatch.active_transform() == ""
