"""What is checked once, before any backend runs: every backend relies on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnfast.backends import Params
from rnnfast.cells import CELLS


class StateError(RuntimeError, ValueError):
    """A bare tensor as state: eager raises one or the other, by the batch size."""


def check_nonlinearity(name: str) -> None:
    """ValueError for an unknown one."""
    if name not in CELLS:
        raise ValueError(f"nonlinearity is {name!r}, must be 'tanh' or 'relu'")


def check_ids(ids: Tensor) -> None:
    """Token ids are int64; their range is checked where they are read. Eager's words."""
    if ids.dtype != torch.int64:
        raise RuntimeError(
            "one_hot is only applicable to index tensor of type LongTensor. "
            f"The ids are {ids.dtype}; convert them with .long()"
        )


def check_broadcasts(b_h: Tensor, x: Tensor) -> None:
    """A bias of another shape than [H] must broadcast to the projection x [T, B, H]."""
    B, H = x.shape[1:]
    fits = all(got in (1, want) for got, want in zip(b_h.shape[::-1], (H, B), strict=False))
    if b_h.dim() > 2 or not fits:
        raise RuntimeError(
            f"b_h has shape {tuple(b_h.shape)}, must be ({H},) or broadcast to ({B}, {H})"
        )


def check_targets(targets: Tensor, ids: Tensor) -> None:
    if targets.shape != ids.shape or targets.dtype != torch.int64:
        raise RuntimeError(
            f"targets are {targets.dtype} {tuple(targets.shape)}, must be int64 {tuple(ids.shape)}"
        )


def check_recurrence(inputs: Tensor, h0: Tensor, W_hh: Tensor, x: Tensor) -> None:
    """What every backend relies on. The state comes from the user's hands most often."""
    H = x.shape[-1]
    if inputs.dim() < 2:
        raise RuntimeError(
            f"inputs have shape {tuple(inputs.shape)}, must be ids [T, B] or dense [T, B, V]"
        )
    T, B = inputs.shape[:2]
    if T == 0:
        raise ValueError("inputs have no time step (T = 0): there is no output to give")
    if W_hh.shape != (H, H):
        raise RuntimeError(f"W_hh has shape {tuple(W_hh.shape)}, must be ({H}, {H}) as W_xh says")
    if not isinstance(h0, Tensor):
        raise TypeError(f"the state must hold a tensor, got {type(h0).__name__}")
    if h0.dim() != 2 or h0.shape[1] != H or (h0.shape[0] != B and h0.shape[0] != 1):
        raise RuntimeError(f"the state has shape {tuple(h0.shape)}, must be ({B}, {H})")
    if not x.dtype == W_hh.dtype == h0.dtype:
        raise RuntimeError(
            f"dtypes differ: inputs or W_xh {x.dtype}, W_hh {W_hh.dtype}, state {h0.dtype}"
        )
    if not inputs.device == x.device == W_hh.device == h0.device:
        raise RuntimeError(
            f"devices differ: inputs {inputs.device}, W_xh {x.device}, W_hh {W_hh.device}, "
            f"state {h0.device}"
        )


def check_params(params: Sequence[Tensor]) -> Params:
    W_xh, W_hh, b_h, W_hq, b_q = params
    H, V = W_xh.shape[-1], W_xh.shape[0]
    if W_hq.shape != (H, V) or b_q.shape != (V,) or b_h.shape != (H,):
        raise RuntimeError(
            f"parameters do not fit: W_xh {tuple(W_xh.shape)}, b_h {tuple(b_h.shape)}, "
            f"W_hq {tuple(W_hq.shape)}, b_q {tuple(b_q.shape)}; must be [V, H], [H], [H, V], [V]"
        )
    return Params(W_xh, W_hh, b_h, W_hq, b_q)
