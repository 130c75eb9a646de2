"""What runs the recurrent layers of a model, layer by layer: the part of `rnnfast.explain`."""

from __future__ import annotations

import torch

from rnnfast import dispatch
from rnnfast.nn.rnn import RNN


def explain_layers(model: torch.nn.Module) -> list[str]:
    """A line for each layer of each torch.nn.RNN in a model."""
    lines = []
    for name, module in model.named_modules():
        if isinstance(module, RNN):
            how = _how(module, packed=False)
            both = " in both directions" if module.bidirectional else ""
            lines += [
                f"{name or 'the model'}, layer {i}{both}: {how}" for i in range(module.num_layers)
            ]
            if (packed := _how(module, packed=True)) != how:
                lines.append(f"{name or 'the model'}, packed sequences: {packed}")
        elif type(module) is torch.nn.RNN:
            lines.append(f"{name or 'the model'}: torch's own; rnnfast.convert makes it ours")
        elif isinstance(module, torch.nn.RNN):
            lines.append(f"{name or 'the model'}: left alone, {type(module).__name__} is its own")
    return lines


def _how(rnn: RNN, packed: bool) -> str:
    like, features = rnn.example, rnn.asks(packed, resets=False)
    backend = dispatch.kernels_for(like, features)
    if backend is not None and not backend.is_differentiable:
        return f"the kernels of {backend.name}"
    is_torchs = backend is None and not rnn.is_more_than_torchs
    what = "torch's own implementation" if is_torchs else "the reference"
    return f"{what}, since {dispatch.why_no_kernels(like, features)}"
