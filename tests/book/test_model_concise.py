"""RNNModel: the concise model of the second notebook."""

import pytest
import torch

from rnnfast import RNNModel, RNNModelScratch, get_params, init_rnn_state, rnn

T, B, V, H = 5, 3, 7, 6


@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_states_and_outputs_have_the_books_shapes(kind, layers, bidirectional):
    net = RNNModel(kind(V, H, layers, bidirectional=bidirectional), V)
    directions = 2 if bidirectional else 1
    assert (net.vocab_size, net.num_hiddens, net.num_directions) == (V, H, directions)
    assert net.linear.in_features == directions * H
    state = net.begin_state("cpu", B)
    assert isinstance(state, tuple) == (kind is torch.nn.LSTM)
    for each in state if isinstance(state, tuple) else (state,):
        assert each.shape == (layers * directions, B, H)
    y, new_state = net(torch.randint(V, (B, T)), state)
    assert y.shape == (T * B, V)
    assert type(new_state) is type(state)


def test_it_computes_what_its_layers_do():
    net = RNNModel(torch.nn.RNN(V, H), V)
    X = torch.randint(V, (B, T))
    y, _ = net(X, net.begin_state("cpu", B))
    hidden, _ = net.rnn(torch.nn.functional.one_hot(X.T, V).float())
    torch.testing.assert_close(y, net.linear(hidden.reshape(-1, H)))
    y_of_int32, _ = net(X.int(), net.begin_state("cpu", B))
    assert torch.equal(y_of_int32, y)


def test_the_two_models_take_begin_state_in_opposite_orders():
    concise = RNNModel(torch.nn.RNN(V, H), V)
    scratch = RNNModelScratch(V, H, "cpu", get_params, init_rnn_state, rnn)
    assert concise.begin_state("cpu").shape == (1, 1, H)
    assert concise.begin_state("cpu", 4).shape == (1, 4, H)
    assert scratch.begin_state(4, "cpu")[0].shape == (4, H)
