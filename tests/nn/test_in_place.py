"""What a caller changes in place between the forward and the backward pass of a layer."""

import pytest
import torch

from rnnfast import nn

T, B, V, H = 5, 3, 4, 6


@pytest.mark.parametrize("bidirectional", [False, True])
def test_ids_may_change_after_the_call(bidirectional, backend_of_module):
    layer = nn.RNN(V, H, bidirectional=bidirectional)
    ids = torch.randint(V, (T, B))
    want = torch.autograd.grad(layer(ids)[0].sin().sum(), list(layer.parameters()))
    loss = layer(ids)[0].sin().sum()
    ids.copy_((ids + 1) % V)
    torch.testing.assert_close(torch.autograd.grad(loss, list(layer.parameters())), want)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("leak", [None, 0.5])
def test_resets_may_change_after_the_call(bidirectional, leak, backend_of_module):
    layer = nn.RNN(V, H, 2, bidirectional=bidirectional, leak=leak)
    x, resets = torch.randn(T, B, V), torch.rand(T, B) < 0.5
    want = torch.autograd.grad(layer(x, resets=resets)[0].sin().sum(), list(layer.parameters()))
    loss = layer(x, resets=resets)[0].sin().sum()
    resets.logical_not_()
    torch.testing.assert_close(torch.autograd.grad(loss, list(layer.parameters())), want)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_changed_output_is_an_error_and_no_wrong_gradient(batch_first):
    """As with cuDNN's layers: the output is all that the backward pass keeps."""
    layer = nn.RNN(V, H, 2, batch_first=batch_first)
    y, _ = layer(torch.randn(T, B, V))
    y.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_changed_input_is_an_error_as_in_torch():
    for cls in (nn.RNN, torch.nn.RNN):
        x = torch.randn(T, B, V)
        y, _ = cls(V, H)(x)
        x.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_states_may_change(num_layers, bidirectional, backend_of_module):
    grads = []
    x, torchs = torch.randn(T, B, V), torch.nn.RNN(V, H, num_layers, bidirectional=bidirectional)
    ours = nn.RNN(V, H, num_layers, bidirectional=bidirectional)
    ours.load_state_dict(torchs.state_dict())
    for layer in (ours, torchs):
        y, h = layer(x)
        h.mul_(2)
        grads.append(torch.autograd.grad((y * 3).sum() + h.sin().sum(), list(layer.parameters())))
    torch.testing.assert_close(*grads)
