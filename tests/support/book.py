"""The chapter's models as its readers write them, loops over one-hot inputs: what we must match."""

import torch
from torch import Tensor

from rnnfast.book.textbook import Model, clip, rnn

__all__ = ["Model", "clip", "gated_params", "gru", "lstm", "predict", "rnn"]


def gru(inputs: Tensor, state: tuple[Tensor], params: list[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
    W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h, W_hq, b_q = params
    (H,) = state
    outputs = []
    for X in inputs:
        Z = torch.sigmoid(X @ W_xz + H @ W_hz + b_z)
        R = torch.sigmoid(X @ W_xr + H @ W_hr + b_r)
        candidate = torch.tanh(X @ W_xh + (R * H) @ W_hh + b_h)
        H = Z * H + (1 - Z) * candidate
        outputs.append(H @ W_hq + b_q)
    return torch.cat(outputs, dim=0), (H,)


def gated_params(gates: int):
    """get_params of chapter 9's models: `gates` triples (W_x, W_h, b), then the readout."""

    def get_params(V: int, H: int, device: torch.device) -> list[Tensor]:
        params = []
        for _ in range(gates):
            params += [torch.randn(V, H) * 0.01, torch.randn(H, H) * 0.01, torch.zeros(H)]
        params += [torch.randn(H, V) * 0.01, torch.zeros(V)]
        return [p.to(device).requires_grad_(True) for p in params]

    return get_params


def lstm(inputs: Tensor, state: tuple[Tensor, Tensor], params: list[Tensor]):
    W_xi, W_hi, b_i, W_xf, W_hf, b_f, W_xo, W_ho, b_o, W_xc, W_hc, b_c, W_hq, b_q = params
    H, C = state
    outputs = []
    for X in inputs:
        i = torch.sigmoid(X @ W_xi + H @ W_hi + b_i)
        f = torch.sigmoid(X @ W_xf + H @ W_hf + b_f)
        o = torch.sigmoid(X @ W_xo + H @ W_ho + b_o)
        C = f * C + i * torch.tanh(X @ W_xc + H @ W_hc + b_c)
        H = o * torch.tanh(C)
        outputs.append(H @ W_hq + b_q)
    return torch.cat(outputs, dim=0), (H, C)


def predict(prefix: str, num_preds: int, net, vocab, device) -> str:
    state = net.begin_state(batch_size=1, device=device)
    outputs = [vocab[prefix[0]]]
    for y in prefix[1:]:
        _, state = net(torch.tensor([[outputs[-1]]], device=device), state)
        outputs.append(vocab[y])
    for _ in range(num_preds):
        y, state = net(torch.tensor([[outputs[-1]]], device=device), state)
        outputs.append(int(y.argmax(dim=1).reshape(1)))
    return "".join(vocab.idx_to_token[i] for i in outputs)
