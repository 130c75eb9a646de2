"""What the Triton backend asks of its arguments, before anything is launched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_recurrence(
    x: Tensor, ids: Tensor | None, W_hh: Tensor, b_h: Tensor | None, h0: Tensor
) -> tuple[int, int]:
    """T and B, once every tensor fits."""
    B, H = h0.shape
    T = (x if ids is None else ids).shape[0]
    check(h0, h0=(h0, (B, H)), W_hh=(W_hh, (H, H)), b_h=(b_h, (H,)))
    check(h0, x=(x, (T, B, H) if ids is None else (x.shape[0], H)))
    check_ids(h0, ids=(ids, (T, B)))
    return T, B


def check_model(ids: Tensor, targets: Tensor, params: Sequence[Tensor], h0: Tensor) -> None:
    check_params(params, h0)
    shape = (ids.shape[0], h0.shape[0])
    check_ids(h0, ids=(ids, shape), targets=(targets, shape))


def check_params(params: Sequence[Tensor], h0: Tensor) -> None:
    W_xh, W_hh, b_h, W_hq, b_q = params
    (B, H), V = h0.shape, W_xh.shape[0]
    check(h0, h0=(h0, (B, H)), W_xh=(W_xh, (V, H)), W_hh=(W_hh, (H, H)), b_h=(b_h, (H,)))
    check(h0, W_hq=(W_hq, (H, V)), b_q=(b_q, (V,)))


def check(like: Tensor, **tensors: tuple[Tensor | None, Sequence[int]]) -> None:
    """Each tensor that is given has its shape, and the dtype and device of `like`."""
    if like.dtype not in DTYPES:
        name = next(iter(tensors))
        raise RuntimeError(f"{name} is {describe(like)}; it must be float32, bfloat16 or float16")
    check_each(like.dtype, like.device, tensors)


def check_ids(like: Tensor, **tensors: tuple[Tensor | None, Sequence[int]]) -> None:
    check_each(torch.int64, like.device, tensors)


def check_gradients(grads: Sequence[Tensor]) -> None:
    """Any shapes, strides and dtypes that the kernels know, on one device."""
    for i, grad in enumerate(grads):
        if grad.dtype not in DTYPES or grad.device != grads[0].device:
            raise RuntimeError(
                f"grads[{i}] is {describe(grad)}; it must be float32, bfloat16 or float16 "
                f"on {grads[0].device}"
            )
        sizes = zip(grad.stride(), grad.shape, strict=True)
        if any(stride == 0 and size > 1 for stride, size in sizes):
            raise RuntimeError(f"grads[{i}] is expanded: its elements share memory")


def check_uniforms(uniforms: Tensor, shape: Sequence[int], device: torch.device) -> None:
    real = uniforms.dtype if uniforms.dtype.is_floating_point else torch.float32
    check_each(real, device, {"uniforms": (uniforms, shape)})


def check_each(
    dtype: torch.dtype,
    device: torch.device,
    tensors: dict[str, tuple[Tensor | None, Sequence[int]]],
) -> None:
    for name, (tensor, shape) in tensors.items():
        if tensor is None:
            continue
        fits = tensor.dtype == dtype and tensor.device == device and tensor.shape == tuple(shape)
        if not fits or tensor.layout != torch.strided:
            raise RuntimeError(
                f"{name} is {describe(tensor)}; it must be {_name(dtype)} {list(shape)} on {device}"
            )


def describe(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f"{_name(tensor.layout)} "
    return f"{layout}{_name(tensor.dtype)} {list(tensor.shape)} on {tensor.device}"


def _name(what: torch.dtype | torch.layout) -> str:
    return str(what).removeprefix("torch.")
