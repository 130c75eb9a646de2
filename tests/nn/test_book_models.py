"""Chapter 9's models on our layers: the same losses as on torch's, and no one-hot vectors."""

import copy

import pytest
import torch

import rnnfast
from rnnfast import RNNModel, nn, train_epoch_ch8

V, H, B, T = 11, 16, 4, 9


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"nonlinearity": "relu"}]
)
def test_an_epoch_of_a_converted_model_is_the_same(options):
    theirs = RNNModel(torch.nn.RNN(V, H, **options), V)
    ours = rnnfast.convert(copy.deepcopy(theirs))
    batches = [(ids[:, :-1], ids[:, 1:]) for ids in torch.randint(V, (6, B, T + 1))]
    perplexities = []
    for net in (ours, theirs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        loss = torch.nn.CrossEntropyLoss()
        run = (net, batches, loss, optimizer, torch.device("cpu"))
        perplexities.append([train_epoch_ch8(*run, False)[0] for _ in range(3)])
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)
    for got, want in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layer", [nn.RNN(V, H), torch.nn.RNN(V, H), nn.RNN(V + 1, H)])
def test_ids_go_as_they_are_to_our_layer_alone(layer):
    net, given = RNNModel(layer, V), []
    layer.register_forward_pre_hook(lambda _, args: given.append(args[0].dtype))
    if layer.input_size == V:
        net(torch.randint(V, (B, T)), net.begin_state("cpu", B))
    else:
        with pytest.raises(RuntimeError, match="input_size"):
            net(torch.randint(V, (B, T)), net.begin_state("cpu", B))
    is_ours = isinstance(layer, nn.RNN) and layer.input_size == V
    assert given == [torch.int64 if is_ours else torch.float32]
