"""Training and prediction against the book's own code."""

import copy
import itertools
import math
import random

import pytest
import torch

import rnnfast
from rnnfast import RNNModel, grad_clipping, optim, predict_ch8, train_ch8, train_epoch_ch8
from rnnfast.book import generation, training
from support import book, models

T, B, V, H = 6, 4, 7, 12


class Letters:
    """A vocabulary of the first V letters; anything else is id 0, as <unk> is."""

    idx_to_token = ("<unk>", *"abcdef")

    def __getitem__(self, token: str) -> int:
        return self.idx_to_token.index(token) if token in self.idx_to_token else 0


def _batches(n: int = 5) -> list:
    text = torch.randint(V, (B, n * T + 1))
    return [(text[:, i * T : (i + 1) * T], text[:, i * T + 1 : (i + 1) * T + 1]) for i in range(n)]


def _books_epoch(net, batches, lr, use_random_iter=False, optimizer=None):
    """The notebook's epoch: the loss of each batch, its last gradients, the mean."""
    state, losses = None, []
    for X, Y in batches:
        if state is None or use_random_iter:
            state = net.begin_state(X.shape[0], "cpu")
        else:
            for s in state:
                s.detach_()
        y_hat, state = net(X, state)
        loss = torch.nn.functional.cross_entropy(y_hat, Y.T.reshape(-1)).mean()
        if optimizer:
            optimizer.zero_grad()
        loss.backward()
        book.clip(net.params, 1)
        if optimizer:
            optimizer.step()
        else:
            optim.sgd(net.params, lr, 1)
        losses.append(float(loss) * Y.numel())
    return math.exp(sum(losses) / sum(Y.numel() for _, Y in batches)), losses


def _book_updater(net):
    return lambda batch_size: optim.sgd(net.params, 0.5, batch_size)


@pytest.mark.parametrize("use_random_iter", [False, True])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_epochs_give_the_books_numbers(backend, use_random_iter, with_optimizer):
    net, other = models.pair(V, H)
    batches, loss = _batches(), torch.nn.CrossEntropyLoss()
    optimizers = [torch.optim.SGD(n.params, 0.5) if with_optimizer else None for n in (net, other)]
    updater = optimizers[0] or _book_updater(net)
    for _ in range(5):
        ppl, speed = train_epoch_ch8(net, batches, loss, updater, "cpu", use_random_iter)
        want, _ = _books_epoch(other, batches, 0.5, use_random_iter, optimizers[1])
        assert math.log(ppl) == pytest.approx(math.log(want), abs=1e-5)
        assert speed > 0
    for p, q in zip(net.params, other.params, strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-4)


def test_last_gradients_remain_as_the_book_leaves_them(backend):
    for with_optimizer in (True, False):
        net, other = models.pair(V, H)
        optimizers = [
            torch.optim.SGD(n.params, 0.5) if with_optimizer else None for n in (net, other)
        ]
        updater = optimizers[0] or _book_updater(net)
        batches = _batches(1)
        train_epoch_ch8(net, batches, torch.nn.CrossEntropyLoss(), updater, "cpu", False)
        _books_epoch(other, batches, 0.5, optimizer=optimizers[1])
        for p, q in zip(net.params, other.params, strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_the_epoch_reads_the_losses_once(monkeypatch):
    """No batch waits for the device: one read of all losses, and none of a single one."""
    reads = []
    monkeypatch.setattr(
        torch.Tensor, "__float__", lambda self: pytest.fail("a loss was read by itself")
    )
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(len(self)) or real(self))
    net, _ = models.pair(V, H)
    updater = torch.optim.SGD(net.params, 0.1)
    train_epoch_ch8(net, _batches(7), torch.nn.CrossEntropyLoss(), updater, "cpu", False)
    assert reads == [7]


def test_long_epochs_read_every_thousand_batches():
    losses = training._LossSum()
    for i in range(2500):
        losses.add([torch.tensor(float(i))], [2])
    assert len(losses._losses) == 500
    assert losses.total() == (2 * sum(range(2500)), 5000)


def test_an_epoch_without_batches_is_an_error():
    net, _ = models.pair(V, H)
    updater = torch.optim.SGD(net.params, 0.1)
    with pytest.raises(ValueError, match="gives no batch"):
        train_epoch_ch8(net, [], torch.nn.CrossEntropyLoss(), updater, "cpu", False)


def test_an_interrupted_epoch_leaves_gradients_on():
    net, _ = models.pair(V, H)

    def interrupted():
        yield from _batches(2)
        torch.set_grad_enabled(False)  # where torch.no_grad has come to when Ctrl-C cuts into it
        raise KeyboardInterrupt

    loss, updater = torch.nn.CrossEntropyLoss(), torch.optim.Adam(net.params)
    with torch.enable_grad():
        with pytest.raises(KeyboardInterrupt):
            train_epoch_ch8(net, interrupted(), loss, updater, "cpu", False)
        assert torch.is_grad_enabled()
        train_epoch_ch8(net, _batches(), loss, updater, "cpu", False)


def test_training_without_clipping_and_with_another_threshold():
    norms = {}
    for clip in (None, 1e-3):
        net, _ = models.pair(V, H)
        torch.manual_seed(1)
        before = [p.detach().clone() for p in net.params]
        updater = torch.optim.SGD(net.params, 1.0)
        loss = torch.nn.CrossEntropyLoss()
        train_epoch_ch8(net, _batches(1), loss, updater, "cpu", False, clip=clip)
        moved = [(p - q).detach().flatten() for p, q in zip(net.params, before, strict=True)]
        norms[clip] = torch.cat(moved).norm().item()
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 1e-2


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "bidirectional"])
def test_concise_models_train(kind):
    layers = {
        "rnn": torch.nn.RNN(V, H),
        "gru": torch.nn.GRU(V, H),
        "lstm": torch.nn.LSTM(V, H),
        "bidirectional": torch.nn.LSTM(V, H, 2, bidirectional=True),
    }
    net = RNNModel(layers[kind], V)
    updater = torch.optim.SGD(net.parameters(), 0.5)
    batches, loss = _batches(), torch.nn.CrossEntropyLoss()
    first, _ = train_epoch_ch8(net, batches, loss, updater, "cpu", False)
    for _ in range(20):
        last, _ = train_epoch_ch8(net, batches, loss, updater, "cpu", False)
    assert last < first
    assert len(predict_ch8("ab", 5, net, Letters(), "cpu").replace("<unk>", "?")) == 7


@pytest.mark.parametrize("theta", [0.1, 1e9])
def test_grad_clipping_is_the_books(backend, theta):
    net, other = models.pair(V, H)
    for p, q in zip(net.params, other.params, strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    kept = [p.grad for p in net.params]
    grad_clipping(net, theta)
    book.clip(other.params, theta)
    for p, q, grad in zip(net.params, other.params, kept, strict=True):
        assert p.grad is grad  # in place
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_grad_clipping_of_norms_that_are_not_finite(backend, value):
    net, other = models.pair(V, H)
    for p, q in zip(net.params, other.params, strict=True):
        p.grad = torch.ones_like(p)
        p.grad.flatten()[0] = value
        q.grad = p.grad.clone()
    grad_clipping(net, 1)
    book.clip(other.params, 1)
    for p, q in zip(net.params, other.params, strict=True):
        torch.testing.assert_close(p.grad, q.grad, equal_nan=True)


def test_grad_clipping_takes_mixed_dtypes():
    """float16 beside float32: the reference serves all, and says so."""
    params = [torch.ones(3, dtype=dtype) for dtype in (torch.float32, torch.float16)]
    for p in params:
        p.grad = torch.full_like(p, 10.0)
    net = torch.nn.Module()
    net.a, net.b = (torch.nn.Parameter(p) for p in params)
    for parameter, p in zip(net.parameters(), params, strict=True):
        parameter.grad = p.grad
    with pytest.warns(rnnfast.FallbackWarning, match="float16"):
        grad_clipping(net, 1)
    norm = torch.cat([p.grad.double() for p in params]).norm().item()
    assert norm == pytest.approx(1.0, rel=1e-3)


def test_grad_clipping_of_modules_skips_frozen_parameters(backend):
    net = torch.nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    net.weight.grad = torch.full((2, 3), 10.0)
    grad_clipping(net, 1)
    assert net.weight.grad.norm().item() == pytest.approx(1.0)
    net.weight.grad = None
    with pytest.raises(TypeError, match=r"params\[0\] of shape"):
        grad_clipping(net, 1)


@pytest.mark.parametrize("prefix", ["a", "fade", "a?c", ["b", "e"]])
def test_predictions_are_the_books(backend, prefix):
    net, other = models.pair(V, H)
    rng = torch.get_rng_state(), random.getstate()
    got = predict_ch8(prefix, 30, net, Letters(), "cpu")
    assert (torch.get_rng_state().equal(rng[0]), random.getstate() == rng[1]) == (True, True)
    assert got == book.predict(prefix, 30, other, Letters(), "cpu")


@pytest.mark.parametrize("foreign", [False, True])
def test_every_token_of_a_prefix_counts(foreign):
    net, other = models.pair(V, H)
    if foreign:
        net.forward_fn = lambda *args: book.rnn(*args)
    for prefix in itertools.product("abcdef", repeat=2):
        got = predict_ch8(prefix, 9, net, Letters(), "cpu")
        assert got == book.predict(prefix, 9, other, Letters(), "cpu")


def test_losses_are_rounded_as_the_book_rounds_them():
    losses, total = torch.rand(5), training._LossSum()
    total.add(list(losses), [7] * 5)
    assert total.total() == (sum(float(loss * 7) for loss in losses), 35)


def test_predictions_of_foreign_functions_feed_one_token_at_a_time():
    def forward(inputs, state, params):
        assert inputs.shape[:2] == (1, 1)
        return book.rnn(inputs, state, params)

    net, other = models.pair(V, H)
    net.forward_fn = forward
    want = book.predict("fade", 9, other, Letters(), "cpu")
    assert predict_ch8("fade", 9, net, Letters(), "cpu") == want


def test_prediction_of_nothing_and_from_nothing():
    net, _ = models.pair(V, H)
    assert predict_ch8("ab", 0, net, Letters(), "cpu") == "ab"
    with pytest.raises(IndexError, match="prefix is '', must be a text or a list of tokens, and"):
        predict_ch8("", 5, net, Letters(), "cpu")


@pytest.mark.parametrize("prefix", ["a", "ab"])
def test_prediction_refuses_a_state_of_two_tensors(prefix):
    net, _ = models.pair(V, H)
    net.init_state = lambda *_: (torch.zeros(1, H), torch.zeros(1, H))
    with pytest.raises(ValueError, match="the state has 2 tensors"):
        predict_ch8(prefix, 3, net, Letters(), "cpu")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_the_second_notebooks_predict_takes_digits(device):
    net = RNNModel(torch.nn.RNN(V, H), V)
    out = predict_ch8("123", 4, net, device)
    assert out[:3] == [1, 2, 3]
    assert len(out) == 7
    assert all(type(i) is int for i in out)
    assert predict_ch8("123", 4, net, device=device) == out


@pytest.mark.parametrize("foreign", [False, True])
def test_sampled_text_is_reproducible(foreign):
    net, _ = models.pair(V, H)
    if foreign:
        net.forward_fn = lambda *args: book.rnn(*args)
    texts = [
        generation.generate(
            "ab", 40, net, Letters(), "cpu", temperature=1.5,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]
    cold = generation.generate("ab", 40, net, Letters(), "cpu", temperature=1e-6)
    assert cold == predict_ch8("ab", 40, net, Letters(), "cpu")
    with pytest.raises(ValueError, match="temperature is -1"):
        generation.generate("ab", 1, net, Letters(), "cpu", temperature=-1)
    coldest = generation.generate("ab", 40, net, Letters(), "cpu", temperature=1e-320)
    assert coldest == generation.generate("ab", 40, net, Letters(), "cpu")


@pytest.mark.parametrize("module", [False, True])
def test_train_ch8_prints_the_books_lines(module, capsys):
    net = RNNModel(torch.nn.RNN(V, H), V) if module else models.pair(V, H)[0]
    train_ch8(net, _batches(2), Letters(), 0.1, 20, torch.device("cpu"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("<unk><unk><unk>e<unk>")  # "time ..." in letters that Letters has
    assert lines[2].startswith("perplexity ")
    assert lines[2].endswith(" tokens/sec on cpu")


def test_sgd_is_the_books_and_refuses_missing_gradients():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.full((3,), 4.0)
    optim.sgd([p], 0.5, 2)
    assert torch.equal(p.detach(), torch.zeros(3))
    assert torch.equal(p.grad, torch.zeros(3))
    p.grad = None
    with pytest.raises(TypeError, match=r"params\[0\] of shape"):
        optim.sgd([p], 0.5, 2)


def test_training_is_deterministic(backend):
    results = []
    for _ in range(2):
        torch.manual_seed(4)
        net, _ = models.pair(V, H)
        batches = _batches()
        updater = torch.optim.SGD(net.params, 0.5)
        loss = torch.nn.CrossEntropyLoss()
        for _ in range(3):
            train_epoch_ch8(net, batches, loss, updater, "cpu", False)
        results.append([p.detach().clone() for p in net.params])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_other_losses_and_modules_go_the_general_way():
    """An own nn.Module and an own loss, as programs in public have them."""

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(V, H)
            self.out = torch.nn.Linear(H, V)

        def forward(self, X, state):
            one_hot = torch.nn.functional.one_hot(X.T.long(), V).float()
            y, state = self.gru(one_hot, state)
            return self.out(y).reshape(-1, V), state

        def begin_state(self, device, batch_size=1):
            return torch.zeros(1, batch_size, H, device=device)

    net = Own()
    twin = copy.deepcopy(net)
    for each in (net, twin):
        loss = torch.nn.CrossEntropyLoss(reduction="none")
        updater = torch.optim.Adam(each.parameters(), 0.01)
        torch.manual_seed(2)
        ppl, _ = rnnfast.train_epoch_ch8(each, _batches(), loss, updater, "cpu", True)
        assert 1 < ppl < 2 * V
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
