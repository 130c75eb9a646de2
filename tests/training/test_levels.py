"""The three levels of a training step: nobody can see the difference."""

import pytest
import torch

from rnnfast import functional, optim, train_epoch_ch8
from rnnfast.backends.compiled import native
from rnnfast.backends.reference import reference
from rnnfast.training import choose, levels
from support import models, untyped
from support.compare import assert_close_to_f64

T, B, V, H = 6, 4, 7, 12
NAMES = ["W_xh", "W_hh", "b_h", "W_hq", "b_q"]


def _batches(n: int = 4) -> list:
    return [(torch.randint(V, (B, T)), torch.randint(V, (B, T))) for _ in range(n)]


def _opaque(net):
    return lambda batch_size: optim.sgd(net.params, 0.5, batch_size)


def _train(level, net, batches, updater, clip=1.0, use_random_iter=False, epochs=2):
    """Train by one level only; the perplexities."""
    loss = torch.nn.CrossEntropyLoss()
    original = choose.level_for
    choose.level_for = lambda net, loss, updater, clip: (level(net, loss, updater, clip), "")
    try:
        return [
            train_epoch_ch8(net, batches, loss, updater, "cpu", use_random_iter, clip=clip)[0]
            for _ in range(epochs)
        ]
    finally:
        choose.level_for = original


UPDATERS = {
    "optimizer": lambda net: torch.optim.SGD(net.params, 0.5),
    "book": lambda net: optim.SGD(net.params, 0.5),
    "opaque": _opaque,
}


@pytest.mark.parametrize("clip", [None, 0.0, 0.05, 100.0])
@pytest.mark.parametrize("use_random_iter", [False, True])
@pytest.mark.parametrize(
    ("level", "updater"),
    [
        (levels.LossLevel, "optimizer"),
        (levels.LossLevel, "opaque"),
        (levels.StepLevel, "optimizer"),
        (levels.StepLevel, "book"),
    ],
)
def test_every_level_leaves_the_same_behind(level, updater, clip, use_random_iter):
    net, _ = models.pair(V, H, torch.float64)
    twin = models.ours(models.copies(net.params))
    batches, make = _batches(), UPDATERS[updater]
    got = _train(level, net, batches, make(net), clip, use_random_iter)
    want = _train(levels.GeneralLevel, twin, batches, make(twin), clip, use_random_iter)
    assert got == pytest.approx(want, rel=1e-9)
    for name, p, q in zip(NAMES, net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}.grad: {m}")
        assert p.grad.data_ptr() != p.data_ptr()


def test_without_gradients_the_error_is_the_books():
    net, _ = models.pair(V, H)
    before = [p.detach().clone() for p in net.params]
    updater = torch.optim.SGD(net.params, 0.5)
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        train_epoch_ch8(net, _batches(), torch.nn.CrossEntropyLoss(), updater, "cpu", False)
    assert all(map(torch.equal, net.params, before))


@pytest.mark.parametrize("updater", list(UPDATERS))
def test_ignored_targets_are_left_out_at_every_level(updater):
    net, _ = models.pair(V, H, torch.float64)
    twin = models.ours(models.copies(net.params))
    batches, make = _batches(), UPDATERS[updater]
    batches[1][1][0, :3] = -100
    batches[3][1][1, 0] = -100
    loss = torch.nn.CrossEntropyLoss()
    got = train_epoch_ch8(net, batches, loss, make(net), "cpu", False)[0]
    want = _train(levels.GeneralLevel, twin, batches, make(twin), epochs=1)[0]
    assert got == pytest.approx(want, rel=1e-9)
    for p, q in zip(net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("use_random_iter", [False, True])
@pytest.mark.parametrize("updater", list(UPDATERS))
def test_an_initial_state_that_is_learnt_gets_its_gradient(updater, use_random_iter):
    net, _ = models.pair(V, H)
    learnt = torch.zeros(B, H, requires_grad=True)
    net.init_state = lambda *args: (learnt * 1.0,)
    loss = torch.nn.CrossEntropyLoss()
    # of the first batch, or each from a fresh state: one that is carried over is cut off the graph
    train_epoch_ch8(net, _batches(2), loss, UPDATERS[updater](net), "cpu", use_random_iter)
    assert learnt.grad is not None
    assert learnt.grad.abs().sum() > 0


@pytest.mark.parametrize("before", ["none", "one", "all", "strided"])
def test_the_loss_level_adds_to_gradients_as_autograd_does(before):
    net, _ = models.pair(V, H)
    twin = models.ours(models.copies(net.params))
    for p, q in list(zip(net.params, twin.params, strict=True))[
        : {"none": 0, "one": 1}.get(before)
    ]:
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    if before == "strided":
        net.params[1].grad = net.params[1].grad.T.contiguous().T
    kept = net.params[0].grad
    version = kept._version if kept is not None else None
    for level, each in ((levels.LossLevel, net), (levels.GeneralLevel, twin)):
        torch.manual_seed(2)
        _train(level, each, _batches(1), lambda batch_size: None, clip=None, epochs=1)
    assert kept is None or (net.params[0].grad is kept and kept._version > version)
    for name, p, q in zip(NAMES, net.params, twin.params, strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}.grad: {m}")


def test_the_callers_state_is_never_overwritten():
    net, _ = models.pair(V, H)
    zeros = torch.zeros(B, H)
    net.init_state = lambda *args: (zeros,)
    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.params, 0.5)
    train_epoch_ch8(net, _batches(), loss, updater, "cpu", False)
    assert not zeros.any()


def test_an_error_in_the_middle_leaves_the_last_steps_gradients():
    net, _ = models.pair(V, H)

    def broken():
        yield from _batches(2)
        raise OSError("the disk is gone")

    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.params, 0.5)
    with pytest.raises(OSError, match="the disk is gone"):
        train_epoch_ch8(net, broken(), loss, updater, "cpu", False)
    assert all(p.grad.isfinite().all() for p in net.params)


def _generator(batches):
    yield from batches


def _same_tensors_filled_anew(batches):
    X, Y = (torch.empty_like(t) for t in batches[0])
    for x, y in batches:
        X.copy_(x)
        Y.copy_(y)
        yield X, Y


@pytest.mark.parametrize("kind", [list, tuple, _generator, _same_tensors_filled_anew])
def test_the_last_gradients_are_there_whatever_gives_the_batches(kind):
    def of_one_row():
        torch.manual_seed(1)
        return [(X[:1], Y[:1]) for X, Y in _batches()]

    net, _ = models.pair(V, 64)
    twin = models.ours(models.copies(net.params))
    for each, level, batches in (
        (net, levels.StepLevel, kind(of_one_row())),
        (twin, levels.GeneralLevel, of_one_row()),
    ):
        _train(level, each, batches, torch.optim.SGD(each.params, 0.5), epochs=1)
    for name, p, q in zip(NAMES, net.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}.grad: {m}")


def test_a_batch_that_is_refused_leaves_no_gradients_that_nobody_kept():
    net, _ = models.pair(V, H)
    batches = [*_batches(2), (torch.full((B, T), V), torch.zeros(B, T, dtype=torch.int64))]
    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.params, 0.5)
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        train_epoch_ch8(net, batches, loss, updater, "cpu", False)
    assert all(p.grad is None for p in net.params)


def test_an_epoch_that_fails_at_once_touches_no_gradient():
    net, _ = models.pair(V, H)
    bad = [(torch.full((B, T), V), torch.zeros(B, T, dtype=torch.int64))]
    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.params, 0.5)
    before = [p.detach().clone() for p in net.params]
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        train_epoch_ch8(net, bad, loss, updater, "cpu", False)
    for p, q in zip(net.params, before, strict=True):
        assert p.grad is None
        assert torch.equal(p, q)


def test_parameters_changed_by_a_step_are_seen_by_version_counters():
    net, _ = models.pair(V, H)
    y, _ = net(torch.randint(V, (B, T)), (torch.zeros(B, H),))
    _train(levels.StepLevel, net, _batches(1), torch.optim.SGD(net.params, 0.5), epochs=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def _loss_inputs(t, b, v, h, dtype):
    p = models.params(v, h, dtype)
    return torch.randint(v, (t, b)), torch.randint(v, (t, b)), torch.randn(b, h, dtype=dtype), p


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("t", "b", "v", "h"), [(1, 1, 2, 1), (5, 3, 7, 9), (35, 2, 28, 65), (3, 33, 61, 17)]
)
def test_loss_and_gradients_against_float64(t, b, v, h, dtype, nonlinearity):
    ids, targets, h0, p = _loss_inputs(t, b, v, h, dtype)
    results = []
    for backend, kind in ((native, dtype), (reference, dtype), (reference, torch.float64)):
        args = [q.detach().to(kind) for q in (*p, h0)]
        results.append(
            untyped.rnn_cross_entropy(
                backend, ids, targets, *args, nonlinearity == "relu", True, True
            )
        )
    for name, *values in zip(["loss", "h_last", *NAMES, "h0"], *results, strict=True):
        assert_close_to_f64(name, *values)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_loss_is_differentiable_once_twice_and_retained(backend, nonlinearity):
    ids, targets, h0, p = _loss_inputs(4, 3, 5, 6, torch.float64)
    h0.requires_grad_(True)

    def run(h0, *p):
        return functional.rnn_cross_entropy(ids, targets, h0, p, nonlinearity=nonlinearity)[0] * 3

    assert torch.autograd.gradcheck(run, (h0, *p))
    loss = run(h0, *p)
    assert not functional.rnn_cross_entropy(ids, targets, h0, p)[1].requires_grad
    first = torch.autograd.grad(loss, p, retain_graph=True)
    again = torch.autograd.grad(loss, p)
    for g, w in zip(again, first, strict=True):
        assert torch.equal(g, w)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, p)


def test_gradients_that_were_handed_out_are_the_callers(backend):
    ids, targets, h0, p = _loss_inputs(4, 3, 5, 6, torch.float64)
    loss, _ = functional.rnn_cross_entropy(ids, targets, h0, p)
    first = torch.autograd.grad(loss, p, retain_graph=True)
    want = [grad.clone() for grad in first]
    torch._foreach_zero_(first)
    torch.testing.assert_close(torch.autograd.grad(loss, p), tuple(want))


@pytest.mark.parametrize("i", range(6))
def test_loss_is_differentiable_in_one_alone(backend, i):
    ids, targets, h0, p = _loss_inputs(4, 3, 5, 6, torch.float64)
    leaves = [h0.requires_grad_(True), *p]
    want = torch.autograd.grad(functional.rnn_cross_entropy(ids, targets, h0, p)[0], leaves)[i]
    h0, *p = [leaf.detach().requires_grad_(k == i) for k, leaf in enumerate(leaves)]
    (got,) = torch.autograd.grad(functional.rnn_cross_entropy(ids, targets, h0, p)[0], [h0, *p][i])
    torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore::rnnfast.FallbackWarning")
def test_loss_has_second_derivatives():
    ids, targets, h0, p = _loss_inputs(3, 2, 4, 5, torch.float64)
    h0.requires_grad_(True)
    assert torch.autograd.gradgradcheck(
        lambda h0, *p: functional.rnn_cross_entropy(ids, targets, h0, p)[0], (h0, *p)
    )


def test_loss_compiles_in_one_graph(backend):
    ids, targets, h0, p = _loss_inputs(4, 3, 5, 6, torch.float32)

    def run(*p):
        return functional.rnn_cross_entropy(ids, targets, h0, p)[0]

    got = torch.compile(run, fullgraph=True, backend="aot_eager")(*p)
    torch.testing.assert_close(got, run(*p))
    for g, w in zip(torch.autograd.grad(got, p), torch.autograd.grad(run(*p), p), strict=True):
        torch.testing.assert_close(g, w)


def test_bad_targets_are_refused(backend):
    ids, targets, h0, p = _loss_inputs(4, 3, 5, 6, torch.float32)
    with pytest.raises(RuntimeError, match=r"targets are an int64"):
        functional.rnn_cross_entropy(ids, targets[:2], h0, p)
    with pytest.raises(RuntimeError, match=r"targets are an int32"):
        functional.rnn_cross_entropy(ids, targets.int(), h0, p)
    for wrong in (5, -1):
        targets[1, 2] = wrong
        with pytest.raises((RuntimeError, IndexError), match=r"[Tt]arget"):
            functional.rnn_cross_entropy(ids, targets, h0, p)
