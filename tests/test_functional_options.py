"""functional.rnn with resets, a leak and noise: its equation, gradients of both orders."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rnnfast import FallbackWarning, dispatch, functional, use_backend
from support import models, noise

T, B, V, H = 4, 3, 5, 6
OPTIONS = {
    "resets": {"resets": True},
    "resets to h0": {"resets": True, "resets_to_h0": True},
    "leak": {"leak": True},
    "all": {"resets": True, "resets_to_h0": True, "leak": True, "nonlinearity": "relu"},
}


@pytest.fixture(params=OPTIONS)
def options(request):
    given = dict(OPTIONS[request.param])
    if "resets" in given:
        given["resets"] = torch.rand(T, B) < 0.4
    if "leak" in given:
        given["leak"] = torch.rand(H, dtype=torch.float64, requires_grad=True)
    return given


@pytest.fixture(params=[False, True], ids=["ids", "dense"])
def inputs(request):
    if request.param:
        return torch.randn(T, B, V, dtype=torch.float64, requires_grad=True)
    return torch.randint(V, (T, B))


def _leaves():
    W_xh, W_hh, b_h, *_ = models.params(V, H, torch.float64)
    return torch.randn(B, H, dtype=torch.float64, requires_grad=True), W_xh, W_hh, b_h


def _by_steps(inputs, h0, W_xh, W_hh, b_h, nonlinearity="tanh", leak=None, **resets):
    act = getattr(torch, nonlinearity)
    x = inputs if inputs.is_floating_point() else torch.nn.functional.one_hot(inputs, V).double()
    h, hs = h0, []
    for t in range(T):
        if resets:
            start = h0 if resets.get("resets_to_h0") else torch.zeros_like(h0)
            h = torch.where(resets["resets"][t, :, None], start, h)
        a = act(x[t] @ W_xh + h @ W_hh + b_h)
        h = a if leak is None else (1 - leak) * h + leak * a
        hs.append(h)
    return torch.stack(hs), h


def test_states_and_gradients_are_those_of_the_equation(backend, inputs, options):
    leaves = _leaves()
    wanted = [*leaves, *(t for t in (inputs, options.get("leak")) if t is not None)]
    wanted = [t for t in wanted if t.requires_grad]
    results = []
    for rnn in (functional.rnn, _by_steps):
        hs, h = rnn(inputs, *leaves, **options)
        results.append((hs, h, *torch.autograd.grad(hs.sin().sum() + h.sum(), wanted)))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("default::rnnfast.FallbackWarning")
def test_double_backward_is_right(backend, options):
    leak = options.pop("leak", None)
    leaves, ids = _leaves(), torch.randint(V, (T, B))

    def run(*leaves):
        given = {} if leak is None else {"leak": leaves[-1]}
        return functional.rnn(ids, *leaves[:4], **given, **options)

    assert torch.autograd.gradgradcheck(run, leaves if leak is None else (*leaves, leak))


def test_noise_goes_with_every_option(backend, inputs, options):
    leaves = _leaves()
    got, want = (functional.rnn(inputs, *leaves, noise=n, **options)[0] for n in (1e-9, 0.0))
    torch.testing.assert_close(got, want)


def test_a_leak_alone_gets_its_gradient(backend):
    leaves, leak = [leaf.detach() for leaf in _leaves()], torch.full((H,), 0.5).double()
    hs, _ = functional.rnn(torch.randint(V, (T, B)), *leaves, leak=leak.requires_grad_())
    assert torch.autograd.grad(hs.sum(), leak)[0].any()


def test_a_leak_of_another_dtype_is_converted(backend):
    leaves, ids = _leaves(), torch.randint(V, (T, B))
    got, want = (
        functional.rnn(ids, *leaves, leak=torch.full((H,), 0.5, dtype=dtype))[0]
        for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(got, want)


def test_noise_is_the_generators(backend, inputs):
    leaves = _leaves()

    def run():
        generator = torch.Generator().manual_seed(7)
        return functional.rnn(inputs, *leaves, noise=0.5, generator=generator)[0]

    assert torch.equal(run(), run())
    generator = torch.Generator().manual_seed(7)
    seed = dispatch.backend_for(leaves[0]).seed_of_noise(generator)
    if seed is None:
        drawn = torch.randn(T, B, H, generator=generator, dtype=torch.float64)
    else:
        drawn = noise.normals(seed, T * B, H).view(T, B, H)
    x = inputs if inputs.is_floating_point() else torch.nn.functional.one_hot(inputs, V).double()
    want, _ = functional.rnn(
        x @ leaves[1] + 0.5 * drawn, leaves[0], torch.eye(H).double(), *leaves[2:]
    )
    torch.testing.assert_close(run(), want, rtol=1e-6, atol=1e-6)


def test_noise_is_drawn_anew_by_a_graph_that_was_recorded():
    leaves, ids = _leaves(), torch.randint(V, (T, B))
    with torch.no_grad():
        for record in (
            torch.compile(_noisy, backend="eager", fullgraph=True),
            _traced(leaves, ids),
            make_fx(_noisy)(ids, *leaves),
            make_fx(_noisy, pre_dispatch=True)(ids, *leaves),
        ):
            assert not torch.equal(record(ids, *leaves), record(ids, *leaves))


def test_noise_has_a_shape_where_tensors_are_fake():
    leaves, ids = _leaves(), torch.randint(V, (T, B))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        assert _noisy(ids, *leaves).shape == (T, B, H)


def _noisy(ids, *leaves):
    return functional.rnn(ids, *leaves, noise=0.5)[0]


def _traced(leaves, ids):
    return torch.jit.trace(_noisy, (ids, *leaves), check_trace=False)


def test_ids_and_resets_may_change_after_the_call(backend, inputs, options):
    leaves = _leaves()
    hs, _ = functional.rnn(inputs, *leaves, **options)
    want = torch.autograd.grad(hs.sin().sum(), leaves)
    hs, _ = functional.rnn(inputs, *leaves, **options)
    if "resets" in options:
        options["resets"].logical_not_()
    if not inputs.is_floating_point():
        inputs.fill_(0)
    torch.testing.assert_close(torch.autograd.grad(hs.sin().sum(), leaves), want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resets": torch.zeros(T, B)}, "resets is a float32"),
        ({"resets": torch.zeros(T, B + 1, dtype=torch.bool)}, "resets is a bool"),
        ({"leak": torch.ones(H + 1)}, "leak has shape"),
        ({"leak": torch.ones(H, dtype=torch.complex128)}, "leak is a complex128"),
    ],
)
def test_bad_options_name_the_argument(backend, options, message):
    with pytest.raises(RuntimeError, match=message):
        functional.rnn(torch.randint(V, (T, B)), *_leaves(), **options)


def test_a_transform_takes_the_reference(options):
    h0, *weights = (leaf.detach() for leaf in _leaves())
    ids, leak = torch.randint(V, (T, B)), options.get("leak")
    options = {**options, **({} if leak is None else {"leak": leak.detach()})}

    def loss(W_hh):
        return functional.rnn(ids, h0, weights[0], W_hh, weights[2], **options)[0].sum()

    with pytest.warns(FallbackWarning, match=r"torch\.func"):
        got = torch.func.grad(loss)(weights[1])
    with use_backend("reference"):
        torch.testing.assert_close(got, torch.func.grad(loss)(weights[1]))
