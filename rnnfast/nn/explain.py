"""What runs the recurrent layers of a model, layer by layer: the part of `rnnfast.explain`."""

from __future__ import annotations

import torch

from rnnfast import dispatch
from rnnfast.backends import Backend, Layer
from rnnfast.nn.rnn import RNN


def explain_layers(model: torch.nn.Module) -> list[str]:
    """A line for each layer of each torch.nn.RNN in a model, and their kernels with their times."""
    lines = []
    for name, module in model.named_modules():
        name = name or "the model"
        if isinstance(module, RNN):
            lines += _explain_one(name, module)
        elif type(module) is torch.nn.RNN:
            lines.append(f"{name}: torch's own; rnnfast.convert makes it ours")
        elif isinstance(module, torch.nn.RNN):
            lines.append(f"{name}: left alone, {type(module).__name__} is its own")
    return lines


def _explain_one(name: str, rnn: RNN) -> list[str]:
    """The kernels follow the layers, which have the same ones: those of H units."""
    (how, kernels), packed = _how(rnn, packed=False), _how(rnn, packed=True)
    both = " in both directions" if rnn.bidirectional else ""
    lines = [f"{name}, layer {i}{both}: {how}" for i in range(rnn.num_layers)] + kernels
    if packed != (how, kernels):
        lines += [f"{name}, packed sequences: {packed[0]}", *packed[1]]
    return lines


def _how(rnn: RNN, packed: bool) -> tuple[str, list[str]]:
    """What runs a layer, and which of its kernels."""
    has_options = rnn.is_more_than_torchs
    asked = rnn.example, rnn.asks(packed, resets=False), has_options
    backend = dispatch.kernels_for(*asked)
    if backend is not None and not backend.is_differentiable:
        return f"the kernels of {backend.name}", _kernels(backend, rnn, packed)
    is_torchs = backend is None and not has_options
    what = "torch's own implementation" if is_torchs else "the reference"
    return f"{what}, since {dispatch.why_no_kernels(*asked)}", []


def _kernels(backend: Backend, rnn: RNN, packed: bool) -> list[str]:
    like, layer = rnn.example, Layer(rnn.hidden_size, rnn.cell, packed, 1 + rnn.bidirectional)
    return [f"  {line}" for line in backend.layer_variants(like.device, like.dtype, layer)]
