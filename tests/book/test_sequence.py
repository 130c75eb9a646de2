"""What section 8.1 takes from chapter 3: minibatches of tensors, and the loss over all of them."""

import pytest
import torch
from torch import nn

from rnnfast import d2l


def test_a_program_of_section_8_1_learns():
    """Four values of a sine predict the fifth better after training than before."""
    time = d2l.arange(1, 201, dtype=d2l.float32)
    x = d2l.sin(0.05 * time) + d2l.normal(0, 0.1, (200,))
    features = d2l.zeros((196, 4))
    for i in range(4):
        features[:, i] = x[i : 196 + i]
    labels = d2l.reshape(x[4:], (-1, 1))
    train_iter = d2l.load_array((features, labels), 16, is_train=True)
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 1))
    loss, trainer = nn.MSELoss(reduction="none"), torch.optim.Adam(net.parameters(), 0.01)
    before = d2l.evaluate_loss(net, train_iter, loss)
    for _ in range(5):
        for X, y in train_iter:
            trainer.zero_grad()
            loss(net(X), y).sum().backward()
            trainer.step()
    assert d2l.evaluate_loss(net, train_iter, loss) < before / 2
    features[:, 0] = d2l.reshape(net(features), -1)
    d2l.plot([time, time[4:]], [d2l.numpy(x), d2l.numpy(features[:, 0])], "time", "x")
    d2l.plt.close("all")


def test_load_array_keeps_rows_together_and_shuffles_only_for_training():
    x = torch.arange(10)
    in_order = list(d2l.load_array((x, x * 2), 4, is_train=False))
    assert [X.tolist() for X, _ in in_order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shuffled = list(d2l.load_array((x, x * 2), 10))
    assert all(torch.equal(Y, X * 2) for X, Y in in_order + shuffled)
    assert shuffled[0][0].tolist() != x.tolist()
    assert sorted(shuffled[0][0].tolist()) == x.tolist()


def test_load_array_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"data_arrays have \[3, 4\] rows"):
        d2l.load_array((torch.zeros(3), torch.zeros(4)), 2)
    with pytest.raises(TypeError, match=r"data_arrays\[1\] is a list, must be a tensor"):
        d2l.load_array((torch.zeros(3), [0, 0, 0]), 2)
    with pytest.raises(ValueError, match="data_arrays have"):
        d2l.load_array((), 2)


def test_evaluate_loss_is_the_mean_over_elements_not_over_minibatches():
    """Minibatches of 3 and of 1; y of another shape than net(X) takes it."""
    batches = [(torch.ones(3, 1), torch.zeros(3)), (torch.full((1, 1), 3.0), torch.zeros(1))]
    loss = nn.MSELoss(reduction="none")
    assert d2l.evaluate_loss(nn.Identity(), batches, loss) == (3 * 1 + 9) / 4
    with pytest.raises(ValueError, match="data_iter gives no minibatch"):
        d2l.evaluate_loss(nn.Identity(), [], loss)
