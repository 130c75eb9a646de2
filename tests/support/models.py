"""Parameters, inputs and nets that the tests share."""

import torch
from torch import Tensor

from rnnfast import RNNModelScratch, rnn
from support import book


def params(V: int, H: int, dtype=torch.float32, radius: float = 0.99) -> list[Tensor]:
    """W_xh, W_hh, b_h, W_hq, b_q; the spectral radius of W_hh near 1 lets errors live long."""
    W_hh = torch.randn(H, H, dtype=torch.float64)
    W_hh *= radius / torch.linalg.eigvals(W_hh).abs().max()
    shapes = [(V, H), None, (H,), (H, V), (V,)]
    made = [W_hh if s is None else torch.randn(s, dtype=torch.float64) * 0.5 for s in shapes]
    return [p.to(dtype).requires_grad_(True) for p in made]


def copies(tensors: list[Tensor], dtype=None) -> list[Tensor]:
    """Independent leaves with the same values."""
    return [t.detach().to(dtype or t.dtype, copy=True).requires_grad_(True) for t in tensors]


def ours(tensors: list[Tensor]) -> RNNModelScratch:
    """RNNModelScratch around given parameters."""
    V, H = tensors[0].shape

    def init_state(batch_size: int, num_hiddens: int, device: object) -> tuple[Tensor]:
        return (torch.zeros(batch_size, num_hiddens, dtype=tensors[0].dtype),)

    return RNNModelScratch(V, H, None, lambda *_: tensors, init_state, rnn)


def pair(V: int = 7, H: int = 9, dtype=torch.float32) -> tuple[RNNModelScratch, book.Model]:
    """Our net and the book's with equal parameters."""
    made = params(V, H, dtype)
    return ours(made), book.Model(copies(made))
