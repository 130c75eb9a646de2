"""The network of a run: chapter 8's from scratch for one layer, its concise one for a stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnfast.book.models import RNNModel, RNNModelScratch, get_params, init_rnn_state, rnn
from rnnfast.nn import RNN
from rnnfast.program.settings import Settings


def build(
    settings: Settings,
    vocab_size: int,
    device: torch.device,
    params: Sequence[Tensor] | None = None,
) -> RNNModelScratch | RNNModel:
    """A network from torch's generator, or with copies of given parameters, on a device.

    params: in the order and of the shapes that `shapes` gives.
    """
    H = settings.num_hiddens
    if settings.layers == 1:
        copies = None if params is None else [p.to(device, copy=True) for p in params]

        def make(*sizes: int) -> list[Tensor]:
            return get_params(*sizes) if copies is None else [p.requires_grad_() for p in copies]

        return RNNModelScratch(vocab_size, H, device, make, init_rnn_state, rnn)
    net = RNNModel(RNN(vocab_size, H, settings.layers), vocab_size)
    if params is not None:
        net.to(params[0].dtype)
        net.load_state_dict(dict(zip(shapes(settings, vocab_size), params, strict=True)))
    return net.to(device)


def parameters(net: RNNModelScratch | RNNModel) -> list[Tensor]:
    """The parameters of a network, in the order of `shapes`."""
    return list(net.parameters()) if isinstance(net, RNNModel) else net.params


def shapes(settings: Settings, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """The parameters of a network by name, with their shapes."""
    V, H = vocab_size, settings.num_hiddens
    if settings.layers == 1:
        return {"W_xh": (V, H), "W_hh": (H, H), "b_h": (H,), "W_hq": (H, V), "b_q": (V,)}
    with torch.device("meta"):
        net = RNNModel(RNN(V, H, settings.layers), V)
    return {name: tuple(param.shape) for name, param in net.named_parameters()}
