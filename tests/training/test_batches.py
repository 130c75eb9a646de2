"""Minibatches and states of odd shapes: all levels take the same ones, and refuse others alike."""

import re

import pytest
import torch
from torch import Tensor

import rnnfast
from rnnfast import train_epoch_ch8
from support import book

B, T, V, H = 3, 5, 7, 4
LEVELS = {"general": "general", "loss": "loss", "step": "step", "several steps": "step"}


def train(
    level: str, *batches: tuple[Tensor, Tensor], init_state=rnnfast.init_rnn_state
) -> tuple[float, list[Tensor]]:
    """An epoch at that level: its perplexity, and the parameters after it."""
    torch.manual_seed(0)
    forward_fn = book.rnn if level == "general" else rnnfast.rnn
    net = rnnfast.RNNModelScratch(V, H, "cpu", rnnfast.get_params, init_state, forward_fn)
    sgd = torch.optim.SGD(net.params, 0.5)

    def update(batch_size: int) -> None:
        sgd.step()
        sgd.zero_grad()

    # a list is trained in groups, another iterable one by one
    train_iter = list(batches) if level == "several steps" else iter(batches)
    updater = update if level == "loss" else sgd
    loss = torch.nn.CrossEntropyLoss()
    perplexity, _ = train_epoch_ch8(net, train_iter, loss, updater, "cpu", False)
    assert f"level '{LEVELS[level]}'" in str(rnnfast.explain().training)
    return perplexity, [p.detach() for p in net.params]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randint(V, (B, T)), torch.randint(V, (B, T))


SHAPES = {
    "by steps": lambda Y: Y.T.reshape(-1),
    "three axes": lambda Y: Y.unsqueeze(2),
    "int32": lambda Y: Y.int(),
    "as the book has it": lambda Y: Y,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_targets_of_any_shape_with_the_loss_own_order(level, shape, batch):
    X, Y = batch
    wanted, params = train("general", (X, Y), (X, Y))
    odd = SHAPES[shape](Y)
    perplexity, trained = train(level, (X, odd), (X, odd))
    assert perplexity == pytest.approx(wanted, rel=1e-5)
    for one, other in zip(trained, params, strict=True):
        torch.testing.assert_close(one, other)


SHORT = r"Y of a minibatch has shape \(3, 4\), must have 15 targets"
OUTSIDE = r"Y of a minibatch has the target {}, must be in \[0, 7\), or -100 to be ignored"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda Y: Y[:, 1:], ValueError, SHORT),
        (lambda Y: Y.fill_(V), IndexError, OUTSIDE.format(7)),
        (lambda Y: Y.fill_(-1), IndexError, OUTSIDE.format(-1)),
        (
            lambda Y: torch.where(torch.arange(Y.shape[1]) == 0, -100, Y.fill_(V)),
            IndexError,
            OUTSIDE.format(7),
        ),
    ],
    ids=["too few", "too large", "negative", "beside an ignored one"],
)
def test_wrong_targets_are_named_with_the_books_type_of_error(level, spoil, error, message, batch):
    X, Y = batch
    with pytest.raises(error, match=message):
        train(level, (X, Y.clone()), (X, spoil(Y)))


@pytest.mark.parametrize("level", LEVELS)
def test_wrong_ids_have_the_books_type_of_error_whatever_the_targets(level, batch):
    X, Y = batch
    with pytest.raises(RuntimeError, match="Class values must be smaller than num_classes"):
        train(level, (X.fill_(V), Y.fill_(V)))


@pytest.mark.parametrize("level", LEVELS)
def test_a_minibatch_of_three_tensors_is_named(level, batch):
    X, Y = batch
    with pytest.raises(ValueError, match="train_iter gives a tuple of 3, must give pairs"):
        train(level, (X, Y, Y))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (torch.ones(B, H), ValueError, "the state is a bare tensor (3, 4), must be a tuple (H,)"),
        ((torch.ones(B, H), torch.ones(B, H)), ValueError, "the state has 2 tensors, must be"),
        ((), ValueError, "the state has 0 tensors, must be"),
        (None, TypeError, "the state is None, must be"),
        ((torch.ones(H),), RuntimeError, "has shape (4,), must be [B, H] = (3, 4)"),
        ((torch.ones(1, B, H),), RuntimeError, "has shape (1, 3, 4), must be [B, H] = (3, 4)"),
        ((torch.ones(B + 1, H),), RuntimeError, "has shape (4, 4), read as [B, H]: a batch of 4"),
    ],
    ids=["bare", "two", "empty", "none", "one axis", "three axes", "other batch"],
)
def test_a_state_of_another_form_is_refused(level, state, error, message, batch):
    match = None if level == "general" else re.escape(message)  # that one is the book's own
    with pytest.raises(error, match=match):
        train(level, batch, batch, init_state=lambda *_: state)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [(1, 3), (3, 3)], ids=["a first batch of one row", "strided"])
def test_states_that_torch_broadcasts_or_strides(level, rows, batch):
    X, Y = batch
    batches = [(X[: rows[0]], Y[: rows[0]]), (X, Y)]

    def init_state(batch_size, num_hiddens, device):
        return (torch.full((num_hiddens, batch_size), 0.5).T,)

    wanted, params = train("general", *batches, init_state=init_state)
    perplexity, trained = train(level, *batches, init_state=init_state)
    assert perplexity == pytest.approx(wanted, rel=1e-5)
    for one, other in zip(trained, params, strict=True):
        torch.testing.assert_close(one, other)
