"""torch.onnx.export of `RNN`: ONNX's own RNN operator, a node for each layer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from rnnfast.nn.rnn import RNN


def is_exporting() -> bool:
    """Whether torch.onnx.export is tracing now."""
    exporter = sys.modules.get("torch.onnx")  # not imported before a program asks for it
    return exporter is not None and exporter.is_in_onnx_export()


is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined] # as in dispatch


def forward(
    rnn: RNN, input: Tensor, hx: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`RNN.forward` of dense sequences, in ONNX's operators.

    Raises NotImplementedError for what its RNN operator cannot express.
    """
    _check(rnn, input, resets)
    is_batched = input.dim() == 3
    x = input if is_batched else input.unsqueeze(1)
    x = x.transpose(0, 1) if is_batched and rnn.batch_first else x
    if hx is None:
        hx = rnn._start(x.shape[1]) if rnn.learns_h0 else None
    elif not is_batched:
        hx = hx.unsqueeze(1)
    last, D = [], 2 if rnn.bidirectional else 1
    for layer in range(rnn.num_layers):
        x = functional.dropout(x, rnn.dropout, rnn.training) if layer else x
        h0 = x.new_zeros(D, x.shape[1], rnn.hidden_size) if hx is None else hx[D * layer :][:D]
        x, h_last = _layer(rnn, layer, x, h0)
        last.append(h_last)
    h_n = torch.cat(last)
    if not is_batched:
        return x.squeeze(1), h_n.squeeze(1)
    return x.transpose(0, 1) if rnn.batch_first else x, h_n


def _check(rnn: RNN, input: Any, resets: Tensor | None) -> None:
    what = ""
    if not isinstance(input, Tensor):
        what = "a PackedSequence"
    elif input.dtype == torch.int64:
        what = "token ids as input of an RNN (give it one-hot vectors)"
    elif rnn.is_leaky or rnn.noise or resets is not None:
        what = "a leaky cell, noise or resets"
    if what:
        raise NotImplementedError(f"ONNX's RNN operator has no {what}")


def _layer(rnn: RNN, layer: int, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, B, I] and h0 [D, B, H] to hs [T, B, D * H] and h_last [D, B, H]."""
    D, H = h0.shape[0], rnn.hidden_size
    weights = rnn._read(D * layer, D * (layer + 1))
    k = len(weights) // D
    W_ih, W_hh, *b = [torch.stack(weights[i::k]) for i in range(k)]
    hs, h_last = torch.onnx.ops.symbolic_multi_out(
        "RNN",
        (x, W_ih, W_hh, torch.cat(b, 1) if b else None, None, h0),
        {
            "activations": [rnn.nonlinearity.capitalize()] * D,
            "direction": "bidirectional" if D == 2 else "forward",
            "hidden_size": H,
        },
        dtypes=(x.dtype, x.dtype),
        shapes=((x.shape[0], D, x.shape[1], H), (D, x.shape[1], H)),
        version=14,
    )
    return hs.transpose(1, 2).flatten(2), h_last
