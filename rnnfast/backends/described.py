"""How an argument is described in an error: which one it is, what it was, and what it must be."""

from __future__ import annotations

import torch


def described(value: object) -> str:
    """A value as a message shows it: "a list", "2.5", "a float32 tensor of shape (3, 4)"."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        layout = "" if value.layout == torch.strided else "sparse "
        return f"a {layout}{dtype} tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"
