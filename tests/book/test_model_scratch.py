"""RNNModelScratch and rnn against the book's own loop: what eager does, case by case.

Each test is one row of behaviour that a program written against the loop may rely on.
"""

import pickle

import pytest
import torch

import rnnfast
from rnnfast import RNNModelScratch, get_params, init_rnn_state, rnn, use_backend
from support import book, models
from support.compare import assert_close_to_f64

T, B, V, H = 5, 3, 7, 9
NAMES = ["W_xh", "W_hh", "b_h", "W_hq", "b_q"]


@pytest.fixture(autouse=True)
def _on_each_backend(backend):
    return backend


def _ids(b: int = B, t: int = T) -> torch.Tensor:
    return torch.randint(V, (b, t))


def _state(b: int = B) -> tuple[torch.Tensor]:
    return (torch.zeros(b, H),)


def test_parameters_are_bit_identical_to_the_notebook():
    torch.manual_seed(3)
    want = [torch.randn(V, H) * 0.01, torch.randn(H, H) * 0.01, torch.randn(H, V) * 0.01]
    torch.manual_seed(3)
    W_xh, W_hh, b_h, W_hq, b_q = get_params(V, H, torch.device("cpu"))
    for got, expected in zip((W_xh, W_hh, W_hq), want, strict=True):
        assert torch.equal(got, expected)
        assert got.requires_grad
        assert got.is_leaf
    assert torch.equal(b_h, torch.zeros(H))
    assert torch.equal(b_q, torch.zeros(V))
    (h0,) = init_rnn_state(B, H, "cpu")
    assert torch.equal(h0, torch.zeros(B, H))


@pytest.mark.parametrize(("t", "b", "v", "h"), [(1, 1, 1, 1), (5, 3, 7, 9), (35, 2, 28, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients(t, b, v, h, dtype):
    p = models.params(v, h, dtype)
    X, weight = torch.randint(v, (b, t)), torch.randn(t * b, v)
    runs = {}
    for name, net in {
        "ours": models.ours(p),
        "same": book.Model(models.copies(p)),
        "f64": book.Model(models.copies(p, torch.float64)),
    }.items():
        state = (torch.zeros(b, h, dtype=net.params[0].dtype),)
        y, (h_last,) = net(X, state)
        ((y * weight.to(y.dtype)).sum() + h_last.square().sum()).backward()
        runs[name] = [y, h_last, *(q.grad for q in net.params)]
    for name, *values in zip(["y", "h", *NAMES], *runs.values(), strict=True):
        assert_close_to_f64(name, *values)


@pytest.mark.parametrize("form", ["ids", "one_hot", "dense"])
def test_rnn_takes_ids_one_hot_and_dense(form):
    p = models.params(V, H)
    ids = torch.randint(V, (T, B))
    one_hot = torch.nn.functional.one_hot(ids, V).float()
    inputs = {"ids": ids, "one_hot": one_hot, "dense": torch.randn(T, B, V)}[form]
    want, (want_h,) = book.rnn(one_hot if form == "ids" else inputs, _state(), p)
    y, (h,) = rnn(inputs, _state(), p)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(h, want_h)


def test_state_can_be_detached_in_place_and_carried():
    net, other = models.pair(V, H)
    state, want = _state(), _state()
    for _ in range(3):
        X = _ids()
        y, state = net(X, state)
        z, want = other(X, want)
        assert state[0].requires_grad
        y.sum().backward()
        z.sum().backward()
        state[0].detach_()
        want[0].detach_()
        torch.testing.assert_close(state, want)
    for name, p, q in zip(NAMES, net.params, other.params, strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")


def test_state_requires_grad_as_eager_has_it():
    net, _ = models.pair(V, H)
    with torch.no_grad():
        y, (h,) = net(_ids(), _state())
    assert not y.requires_grad
    assert not h.requires_grad
    for p in net.params[:3]:
        p.requires_grad_(False)
    y, (h,) = net(_ids(), _state())
    assert y.requires_grad
    assert not h.requires_grad


def test_second_backward_and_undetached_state_raise():
    net, _ = models.pair(V, H)
    y, state = net(_ids(), _state())
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
    y, _ = net(_ids(), state)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


def test_retained_graph_doubles_the_gradients():
    net, _ = models.pair(V, H)
    y, _ = net(_ids(), _state())
    y.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in net.params]
    y.sum().backward()
    for p, g in zip(net.params, once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


@pytest.mark.parametrize(("changed", "raises"), [(0, False), (1, True), (2, False), (3, True)])
def test_update_in_place_before_backward(changed, raises):
    net, _ = models.pair(V, H)
    y, _ = net(_ids(), _state())
    with torch.no_grad():
        net.params[changed] += 1
    if raises:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    else:
        y.sum().backward()


def test_state_changed_in_place_before_backward_raises():
    net, _ = models.pair(V, H)
    h0 = torch.zeros(B, H)
    y, _ = net(_ids(), (h0,))
    h0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("shape", [(B, T), (1, T), (B, 1)])
def test_ids_changed_after_the_call_do_not_matter(shape):
    net, other = models.pair(V, H)
    X = _ids(*shape)
    y, _ = net(X, _state(shape[0]))
    z, _ = other(X, _state(shape[0]))
    X.zero_()
    y.sum().backward()
    z.sum().backward()
    torch.testing.assert_close(net.params[0].grad, other.params[0].grad)


def test_loss_on_the_state_leaves_the_readout_without_gradient():
    net, _ = models.pair(V, H)
    _, (h,) = net(_ids(), _state())
    h.sum().backward()
    assert net.params[3].grad is None
    assert net.params[4].grad is None
    with pytest.raises(TypeError, match=r"params\[3\]"):
        rnnfast.grad_clipping(net, 1)


def test_parameters_may_be_swapped_aliased_and_transposed():
    net, other = models.pair(V, H)
    X = _ids()
    net(X, _state())
    square = torch.randn(H, H, requires_grad=True)
    net.params[1] = square.T
    other.params[1] = square.detach().clone().T.requires_grad_(True)
    y, _ = net(X, _state())
    z, _ = other(X, _state())
    torch.testing.assert_close(y, z)
    y.sum().backward()
    z.sum().backward()
    torch.testing.assert_close(square.grad, other.params[1].grad.T)

    tied = torch.randn(V, V, requires_grad=True)  # one tensor in three places
    p = [tied, tied, torch.zeros(V), tied, torch.zeros(V)]
    q = [tied.detach().clone().requires_grad_(True)] * 2 + [torch.zeros(V)]
    q += [q[0], torch.zeros(V)]
    ids = torch.randint(V, (T, B))
    one_hot = torch.nn.functional.one_hot(ids, V).float()
    rnn(ids, (torch.zeros(B, V),), p)[0].sum().backward()
    book.rnn(one_hot, (torch.zeros(B, V),), q)[0].sum().backward()
    torch.testing.assert_close(tied.grad, q[0].grad)


def test_wrong_ids_raise_eager_errors():
    net, _ = models.pair(V, H)
    cases = {
        "Class values must be smaller than num_classes": torch.full((B, T), V),
        "Class values must be non-negative": torch.full((B, T), -1),
        "only applicable to index tensor of type LongTensor": _ids().int(),
    }
    for message, X in cases.items():
        with pytest.raises(RuntimeError, match=message):
            net(X, _state())


def test_no_steps_is_a_value_error():
    net, _ = models.pair(V, H)
    with pytest.raises(ValueError, match="T = 0"):
        net(torch.zeros((B, 0), dtype=torch.int64), _state())


@pytest.mark.parametrize("b", [0, 1])
def test_batches_of_none_and_one(b):
    net, other = models.pair(V, H)
    X = _ids(b)
    y, (h,) = net(X, _state(b))
    z, (g,) = other(X, _state(b))
    assert y.shape == z.shape
    assert h.shape == g.shape
    y.sum().backward()
    z.sum().backward()
    for p, q in zip(net.params, other.params, strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_strided_ids():
    net, other = models.pair(V, H)
    X = torch.randint(V, (2 * B, 3 * T))[::2, ::3]
    torch.testing.assert_close(net(X, _state()), other(X, _state()))


def test_state_of_batch_one_is_broadcast():
    net, other = models.pair(V, H)
    h0, g0 = (torch.full((1, H), 0.5, requires_grad=True) for _ in range(2))
    X = _ids()
    net(X, (h0,))[0].sum().backward()
    other(X, (g0,))[0].sum().backward()
    assert h0.grad.shape == (1, H)
    torch.testing.assert_close(h0.grad, g0.grad)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ((torch.zeros(B + 1, H),), RuntimeError),
        ((torch.zeros(B, H + 1),), RuntimeError),
        (None, TypeError),
        ((torch.zeros(B, H), torch.zeros(B, H)), ValueError),
        (torch.zeros(1, H), RuntimeError),
        (torch.zeros(B, H), ValueError),
        ((None,), TypeError),
    ],
)
def test_wrong_states_raise_eager_types(state, error):
    net, other = models.pair(V, H)
    for each in (net, other):
        with pytest.raises(error):
            each(_ids(), state)


@pytest.mark.parametrize(
    ("i", "shape"),
    [*((2, shape) for shape in ((1, H), (B, H), (), (1,))), (4, (1, V)), (4, ()), (4, (1,))],
)
def test_other_shapes_of_bias(i, shape):
    net, other = models.pair(V, H)
    bias = torch.randn(shape)
    net.params[i], other.params[i] = (bias.clone().requires_grad_(True) for _ in range(2))
    X = _ids()
    y, _ = net(X, _state())
    z, _ = other(X, _state())
    torch.testing.assert_close(y, z)
    y.sum().backward()
    z.sum().backward()
    torch.testing.assert_close(net.params[i].grad, other.params[i].grad)


def test_autocast_keeps_float32():
    net, _ = models.pair(V, H)
    one_hot = torch.nn.functional.one_hot(_ids().T, V).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for y, (h,) in (net(_ids(), _state()), rnn(one_hot, _state(), net.params)):
            assert y.dtype == h.dtype == torch.float32
            y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.params)


def test_nan_in_a_row_that_no_id_names_spreads_nowhere():
    """Documented difference: eager's product of a zero and a NaN poisons everything."""
    net, _ = models.pair(V, H)
    with torch.no_grad():
        net.params[0][V - 1] = float("nan")
    X = torch.randint(V - 1, (B, T))
    y, _ = net(X, _state())
    assert y.isfinite().all()
    assert net(torch.full((B, T), V - 1), _state())[0].isnan().any()


def test_model_keeps_the_book_attributes_and_pickles():
    net = RNNModelScratch(V, H, "cpu", get_params, init_rnn_state, rnn)
    assert not isinstance(net, torch.nn.Module)
    assert (net.vocab_size, net.num_hiddens) == (V, H)
    assert net.init_state is init_rnn_state
    assert net.forward_fn is rnn
    again = pickle.loads(pickle.dumps(net))
    X = _ids()
    torch.testing.assert_close(again(X, _state()), net(X, _state()))
    assert net.begin_state(2, "cpu")[0].shape == (2, H)
    assert net.begin_state(batch_size=2, device="cpu")[0].shape == (2, H)


def test_foreign_forward_functions_get_one_hot():
    def forward(inputs, state, params):
        assert inputs.shape == (T, B, V)
        assert inputs.dtype == torch.float32
        return book.rnn(inputs, state, params)

    net, _ = models.pair(V, H)
    X = _ids()
    want = net(X, _state())
    net.forward_fn = forward
    torch.testing.assert_close(net(X, _state()), want)


@pytest.mark.parametrize(("forward", "gates", "states"), [(book.gru, 3, 1), (book.lstm, 4, 2)])
def test_scratch_gru_and_lstm_run_unchanged(forward, gates, states):
    def init(batch_size, num_hiddens, device):
        return tuple(torch.zeros(batch_size, num_hiddens) for _ in range(states))

    net = RNNModelScratch(V, H, "cpu", book.gated_params(gates), init, forward)
    loader = [(_ids(), _ids()) for _ in range(3)]
    loss = torch.nn.CrossEntropyLoss()
    updater = torch.optim.SGD(net.params, 0.1)
    ppl, speed = rnnfast.train_epoch_ch8(net, loader, loss, updater, "cpu", False)
    assert ppl == pytest.approx(V, rel=0.2)
    assert speed > 0


def test_vocabulary_size_must_be_that_of_the_parameters():
    net, _ = models.pair(V, H)
    net.vocab_size = V + 1
    with pytest.raises(RuntimeError, match="must be"):
        net(_ids(), _state())


def test_both_backends_agree_closely():
    p = models.params(V, H, torch.float64)
    X = _ids()
    state = (torch.zeros(B, H, dtype=torch.float64),)
    results = []
    for name in ("native", "reference"):
        with use_backend(name):
            results.append(models.ours(p)(X, state))
    torch.testing.assert_close(*results)
