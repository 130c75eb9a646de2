"""convert and revert: the class of the layers changes, and nothing else."""

import copy

import pytest
import torch
from torch.nn.utils.parametrize import (
    is_parametrized,
    register_parametrization,
    remove_parametrizations,
)

import rnnfast
from rnnfast import nn


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.RNN(3, 4, batch_first=True)
        self.shared = self.encoder
        self.more = torch.nn.ModuleList([torch.nn.RNN(4, 4, 2), torch.nn.GRU(4, 4)])

    def forward(self, x):
        y, _ = self.encoder(x)
        for layer in self.more:
            y, _ = layer(y)
        return y


class Own(torch.nn.RNN):
    """A user's class, whose forward is nobody else's business."""


def test_layers_change_their_class_and_nothing_else():
    model, x = Model(), torch.randn(2, 5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, want = dict(model.named_parameters()), model(x)
    assert rnnfast.convert(model) is model
    assert type(model.encoder) is type(model.more[0]) is nn.RNN
    assert model.shared is model.encoder
    assert type(model.more[1]) is torch.nn.GRU
    torch.testing.assert_close(model(x), want)
    model(x).sum().backward()
    optimizer.step()
    assert all(param is before[name] for name, param in model.named_parameters())
    assert all(param.grad is not None for param in model.parameters())
    trained = model(x)
    assert not torch.equal(trained, want)
    assert rnnfast.revert(model) is model
    assert type(model.encoder) is type(model.more[0]) is torch.nn.RNN
    torch.testing.assert_close(model(x), trained)


def test_a_model_that_is_a_layer():
    layer = torch.nn.RNN(3, 4)
    assert rnnfast.convert(layer) is layer
    assert type(layer) is nn.RNN
    assert type(rnnfast.revert(layer)) is torch.nn.RNN


def test_a_users_class_is_left_alone():
    model = torch.nn.Sequential(Own(3, 4))
    rnnfast.convert(model)
    assert type(model[0]) is Own


def test_a_parametrized_layer_is_converted():
    layer, other = torch.nn.RNN(3, 4), torch.nn.RNN(3, 4)
    for each in (layer, other):
        register_parametrization(each, "weight_hh_l0", torch.nn.Tanh(), unsafe=True)
    x = torch.randn(5, 2, 3)
    want = layer(x)
    rnnfast.convert(layer)
    assert isinstance(layer, nn.RNN)
    assert not isinstance(other, nn.RNN)
    assert is_parametrized(layer)
    torch.testing.assert_close(layer(x), want)
    rnnfast.revert(layer)
    assert not isinstance(layer, nn.RNN)


def test_a_copy_of_a_parametrized_layer_stays_what_it_is():
    layer = torch.nn.RNN(3, 4)
    register_parametrization(layer, "weight_hh_l0", torch.nn.Tanh(), unsafe=True)
    ours = rnnfast.convert(copy.deepcopy(layer))
    assert isinstance(ours, nn.RNN)
    assert not isinstance(layer, nn.RNN)
    again = rnnfast.revert(copy.deepcopy(ours))
    assert isinstance(ours, nn.RNN)
    remove_parametrizations(again, "weight_hh_l0")
    assert type(again) is torch.nn.RNN
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close((ours(x), again(x)), (layer(x), layer(x)))


@pytest.mark.parametrize("options", [{"leak": 0.5}, {"learn_h0": True}, {"noise": 0.1}])
def test_revert_refuses_what_torch_does_not_have(options):
    with pytest.raises(ValueError, match="no leak, learnt h0 or noise"):
        rnnfast.revert(torch.nn.Sequential(nn.RNN(3, 4, **options)))
