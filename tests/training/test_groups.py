"""Minibatches trained by one call: the same as one after another, and nobody can see it."""

import pytest
import torch

from rnnfast import train_epoch_ch8
from rnnfast.backends import library
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from rnnfast.book import training
from rnnfast.book.data import load_corpus
from rnnfast.program.settings import Settings
from rnnfast.program.training_run import Run
from support import models, untyped

T, B, V, H = 6, 4, 7, 12


@pytest.fixture(autouse=True)
def _kernels():
    assert library.load_error() == ""


def _minibatches(lengths, b=B, v=V):
    """X and Y, both [b, T], of each minibatch."""
    return [tuple(torch.randint(v, (2, b, t))) for t in lengths]


def _model(b, h, v, dtype=torch.float32):
    """Parameters, their gradients, the state: what a step changes."""
    params = [p.detach() for p in models.params(v, h, dtype)]
    grads = [torch.full_like(p, float("nan")) for p in params]
    return params, grads, torch.rand(b, h, dtype=dtype)


def _copy(model):
    params, grads, state = model
    return [p.clone() for p in params], [g.clone() for g in grads], state.clone()


def _assert_same(model, other, compare=torch.testing.assert_close):
    pairs = zip([*model[0], *model[1], model[2]], [*other[0], *other[1], other[2]], strict=True)
    for one, two in pairs:
        compare(one, two)


def _bits(one, two):
    assert torch.equal(one, two)


def _train(net, batches, use_random_iter=False):
    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.params, 0.5)
    return train_epoch_ch8(net, batches, loss, updater, "cpu", use_random_iter)[0]


@pytest.fixture
def calls(monkeypatch):
    """The number of minibatches in each call of the backend."""
    sizes = []
    several = native.train_steps_

    def counted(steps):
        sizes.append(len(steps.ids))
        return several(steps)

    monkeypatch.setattr(native, "train_steps_", counted)
    return sizes


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(32, 64, 28), (5, 130, 70), (1, 200, 5), (1, 1, 1)])
def test_one_call_is_the_single_steps_bit_for_bit(shape, dtype, relu):
    b, h, v = shape
    batches = _minibatches([9, 1, 35], b, v)
    model = _model(b, h, v, dtype)
    twin = _copy(model)
    got = untyped.train_steps_(native, *zip(*batches, strict=True), *model, 0.5, 1.0, relu)
    want = [untyped.train_step_(native, X.T, Y.T, *twin, 0.5, 1.0, relu) for X, Y in batches]
    assert torch.equal(got, torch.stack(want))
    _assert_same(model, twin, _bits)


@pytest.mark.parametrize("b", [1, 3])
def test_one_call_is_near_the_reference(b):
    batches = _minibatches([5, 8], b, 20)
    model = _model(b, 17, 20, torch.float64)
    twin = _copy(model)
    arguments = (*zip(*batches, strict=True),)
    got = untyped.train_steps_(native, *arguments, *model, 0.5, 1.0, False)
    want = untyped.train_steps_(reference, *arguments, *twin, 0.5, 1.0, False)
    torch.testing.assert_close(got, want)
    _assert_same(model, twin)


def test_gradients_that_nobody_keeps_change_nothing_else():
    batches = _minibatches([5, 5], 1)
    model = _model(1, H, V)
    twin = _copy(model)
    arguments = (*zip(*batches, strict=True),)
    untyped.train_steps_(native, *arguments, *model, 0.5, 1.0, False, keep_grads=False)
    untyped.train_steps_(native, *arguments, *twin, 0.5, 1.0, False)
    _assert_same((model[0], [], model[2]), (twin[0], [], twin[2]), _bits)
    assert model[1][1].isnan().all()
    assert twin[1][1].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, targets: targets.pop(), "ids has 2 tensors and targets 1; they must have as"),
        (lambda ids, targets: (ids.clear(), targets.clear()), "and at least 1"),
        (lambda ids, targets: ids[1].fill_(V), "smaller than num_classes. ids.0, 0. is 7"),
        (
            lambda ids, targets: targets.append(targets.pop()[:, 1:]),
            r"must be int64 \[B, T\] = \[4",
        ),
        (lambda ids, targets: ids.append(ids.pop().int()), "ids is int32"),
        (lambda ids, targets: ids.append(ids.pop()[0]), r"must have 2 dimensions, \[B, T\]"),
        (
            lambda ids, targets: (ids.append(ids.pop()[1:]), targets.append(targets.pop()[1:])),
            r"h is float32 \[4, 12\]; it must be float32 \[B, H\] = \[3, 12\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(change, message):
    ids, targets = (list(each) for each in zip(*_minibatches([T, T]), strict=True))
    change(ids, targets)
    model = _model(B, H, V)
    before = _copy(model)
    with pytest.raises(RuntimeError, match=message):
        untyped.train_steps_(native, ids, targets, *model, 0.5, 1.0, False)
    _assert_same((model[0], [], model[2]), (before[0], [], before[2]), _bits)


def test_version_counters_see_what_steps_change():
    ids, targets = zip(*_minibatches([T, T]), strict=True)
    params, grads, h = _model(B, H, V)
    before = [each._version for each in (*params, *grads, h)]
    untyped.train_steps_(native, ids, targets, params, grads, h, 0.5, 1.0, False)
    for each, version in zip((*params, *grads, h), before, strict=True):
        assert each._version > version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params, grads: params.append(params.pop()[1:]), "params: b_q is float32 .6."),
        (lambda params, grads: grads.append(grads.pop()[1:]), "grads: b_q is float32 .6."),
        (lambda params, grads: grads.__setitem__(1, grads[1].T), "not contiguous"),
        (lambda params, grads: grads.__setitem__(1, params[1]), "share memory"),
    ],
)
def test_what_steps_cannot_write_is_refused(change, message):
    ids, targets = zip(*_minibatches([T, T]), strict=True)
    params, grads, h = _model(B, H, V)
    change(params, grads)
    with pytest.raises(RuntimeError, match=message):
        untyped.train_steps_(native, ids, targets, params, grads, h, 0.5, 1.0, False)


def test_an_epoch_takes_few_calls_and_leaves_what_single_ones_do(calls):
    net, _ = models.pair(V, H)
    twin = models.ours(models.copies(net.params))
    batches = _minibatches([T] * 130)
    perplexity = _train(net, batches)
    assert calls == [64, 64, 2]
    assert _train(twin, iter(batches)) == perplexity
    assert calls[3:] == [1] * 130
    for p, q in zip(net.params, twin.params, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)


def test_the_command_line_hands_over_groups(calls, tmp_path):
    settings = Settings(num_hiddens=8, batch_size=4, num_steps=5, epochs=2, max_tokens=0)
    Run(settings, load_corpus("counting"), torch.device("cpu")).train(tmp_path / "checkpoint")
    assert len(calls) == 2
    assert all(40 < size < 64 for size in calls)


def test_random_minibatches_start_from_states_of_their_own(calls):
    net, _ = models.pair(V, H)
    _train(net, _minibatches([T] * 3), use_random_iter=True)
    assert calls == [1, 1, 1]


def test_a_call_stays_short(calls):
    """Ctrl-C waits for it."""
    net, _ = models.pair(V, 256)
    _train(net, _minibatches([128] * 6, b=64))
    assert calls == [3, 3]


def test_an_error_leaves_the_steps_before_it():
    net, _ = models.pair(V, H)
    twin = models.ours(models.copies(net.params))
    batches = _minibatches([T] * 4)
    _train(twin, batches[:2])
    batches[2][0][1, 3] = V
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        _train(net, batches)
    for p, q in zip(net.params, twin.params, strict=True):
        assert torch.equal(p, q)
        assert p.grad is None


def test_an_error_before_the_first_step_leaves_the_gradients_of_before():
    net, _ = models.pair(V, H)
    _train(net, _minibatches([T]))
    before = [p.grad.clone() for p in net.params]
    batches = _minibatches([T] * 3)
    batches[0][0][1, 3] = V
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        _train(net, batches)
    for p, grad in zip(net.params, before, strict=True):
        assert torch.equal(p.grad, grad)


def test_an_interrupt_leaves_no_gradients_that_nobody_kept(monkeypatch):
    def interrupted(*args):
        several(*args)
        raise KeyboardInterrupt

    net, _ = models.pair(V, H)
    _train(net, _minibatches([T]))
    several = native.train_steps_
    monkeypatch.setattr(native, "train_steps_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(net, _minibatches([T] * 3))
    assert all(p.grad is None for p in net.params)


def test_minibatches_of_several_sizes_are_trained_one_by_one(calls):
    net, _ = models.pair(V, H)
    with pytest.raises(RuntimeError, match=r"a batch of 3; the state h has .* a batch of 4"):
        _train(net, [*_minibatches([T, T]), *_minibatches([T], b=B - 1)])
    assert calls[:3] == [3, 1, 1]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_groups_have_all_batches_and_say_which_is_last(count):
    batches = [(torch.tensor([i]), torch.tensor([i])) for i in range(count)]
    groups = list(training._groups(batches, lambda X: 3))
    assert [batch for group, _ in groups for batch in group] == batches
    assert all(len(group) == 3 for group, _ in groups[:-1])
    assert [is_last for _, is_last in groups] == [False] * (len(groups) - 1) + [True] * bool(groups)
