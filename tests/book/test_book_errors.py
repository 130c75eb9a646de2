"""What the book's functions say of arguments that do not fit, and which odd ones they take."""

import numpy as np
import pytest
import torch

from rnnfast import (
    RNNModel,
    RNNModelScratch,
    d2l,
    get_params,
    init_rnn_state,
    predict_ch8,
    rnn,
    train_ch8,
    train_epoch_ch8,
)
from rnnfast.book.arguments import integer, named
from support import book

V, H, B, T = 6, 4, 3, 5
VOCAB = d2l.Vocab(list("abcde"))
LOSS = torch.nn.CrossEntropyLoss()


@pytest.fixture
def net() -> RNNModelScratch:
    return RNNModelScratch(V, H, "cpu", get_params, init_rnn_state, rnn)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(V, (B, T)), torch.randint(V, (B, T))


def epoch(model, batches, **changes):
    arguments = {
        "net": model,
        "train_iter": batches,
        "loss": LOSS,
        "updater": torch.optim.SGD(model.params, 0.1),
        "device": "cpu",
        "use_random_iter": False,
    }
    return train_epoch_ch8(**arguments | changes)


@pytest.mark.parametrize(
    ("num_preds", "length"), [(-1, 0), (0, 0), (np.int64(2), 2), (torch.tensor(2), 2), (True, 1)]
)
@pytest.mark.parametrize("forward_fn", [rnn, book.rnn])
def test_counts_that_range_takes_are_counts_of_predictions(forward_fn, num_preds, length):
    """As in the book's loop over range(num_preds); whether the kernel or the loop predicts."""
    net = RNNModelScratch(V, H, "cpu", get_params, init_rnn_state, forward_fn)
    ids = predict_ch8("123", num_preds, net, None, "cpu")
    assert ids[:3] == [1, 2, 3]
    assert len(ids) == 3 + length


@pytest.mark.parametrize("num_preds", [2.0, "2", None])
@pytest.mark.parametrize("forward_fn", [rnn, book.rnn])
def test_other_counts_are_named(forward_fn, num_preds):
    net = RNNModelScratch(V, H, "cpu", get_params, init_rnn_state, forward_fn)
    with pytest.raises(TypeError, match=f"num_preds is {num_preds!r}, must be an integer"):
        predict_ch8("ab", num_preds, net, VOCAB, "cpu")


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError)])
def test_a_number_of_epochs_that_trains_nothing_is_named(net, batch, count, error):
    """Before anything is drawn or trained; the book ends in an unbound variable."""
    before = d2l.plt.get_fignums()
    with pytest.raises(error, match=f"num_epochs is {count}, must be an integer of at least 1"):
        train_ch8(net, [batch], VOCAB, 1, count, "cpu")
    assert d2l.plt.get_fignums() == before


def test_a_minibatch_that_is_no_pair_is_named(net, batch):
    X, Y = batch
    with pytest.raises(ValueError, match="train_iter gives a tuple of 3, must give pairs"):
        epoch(net, [(X, Y, Y)])
    with pytest.raises(ValueError, match="train_iter gives an int64 tensor of shape"):
        epoch(net, iter([torch.zeros(3, B, T, dtype=torch.int64)]))
    with pytest.raises(TypeError, match="train_iter gives 5, must give pairs"):
        epoch(net, [5])
    with pytest.raises(TypeError, match="Y of a minibatch of train_iter is a ndarray, must be a"):
        epoch(net, [(X, Y.numpy())])


@pytest.mark.parametrize(
    ("changed", "value", "error"),
    [
        ("net", None, TypeError),
        ("net", lambda X, state: None, TypeError),
        ("train_iter", 3, TypeError),
        ("loss", None, TypeError),
        ("updater", 0.1, TypeError),
        ("device", "toaster", RuntimeError),
        ("device", 1.5, TypeError),
        ("clip", "one", TypeError),
    ],
)
def test_what_is_wrong_in_an_epoch_is_named(net, batch, changed, value, error):
    with pytest.raises(error, match=f"^{changed} is .*, must be "):
        epoch(net, [batch], **{changed: value})


def test_the_concise_model_names_its_layer():
    with pytest.raises(TypeError, match="rnn_layer is a Linear, must be a recurrent layer"):
        RNNModel(torch.nn.Linear(2, 2), V)


def test_an_error_that_no_argument_explains_stays_as_it_is():
    @named(n=integer(1))
    def divide(n: int) -> float:
        return n / 0

    with pytest.raises(ZeroDivisionError):
        divide(1)
    with pytest.raises(ValueError, match="n is 0, must be an integer of at least 1"):
        divide(n=0)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        divide()
