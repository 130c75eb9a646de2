"""Calls of the recurrence with the operator's options, and the plain loop that defines them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

CODES = {"tanh": 0, "relu": 1}
RESULTS = ("hs", "h_last", "x", "W_hh", "b_h", "h0")


@dataclass(frozen=True)
class Call:
    """One forward and one backward call; two directions where W_hh is [2, H, H]."""

    x: Tensor  # [V, H] with ids, else [T, B, H], or [N, H] with batch_sizes
    ids: Tensor | None  # [T, B], or [N]
    W_hh: Tensor  # [H, H]
    b_h: Tensor | None  # [H]
    h0: Tensor  # [B, H]
    grad_hs: Tensor | None  # as hs
    grad_h_last: Tensor | None  # [B, H]
    cell: str = "tanh"
    transposed: bool = False
    reverse: bool = False
    batch_sizes: Tensor | None = None  # [T]

    def to(self, dtype: torch.dtype) -> Call:
        changed = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **changed)


def make(
    T: int,
    B: int,
    H: int,
    V: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    both: bool = False,
    lengths: list[int] | None = None,
    **options: Any,
) -> Call:
    """A random call whose W_hh has a spectral radius near 1; V: ids, lengths: of the sequences."""
    g = torch.Generator().manual_seed(T * 1000003 + B * 10007 + H * 101 + (V or 0))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    directions, width = ((2,), 2 * H) if both else ((), H)
    rows: tuple[int, ...] = (T, B)
    if lengths is not None:
        sizes = [sum(t < length for length in lengths) for t in range(max(lengths))]
        options["batch_sizes"], rows = torch.tensor(sizes), (sum(lengths),)
    return Call(
        x=0.3 * (normal(*rows, width) if V is None else normal(V, H)),
        ids=None if V is None else torch.randint(0, V, rows, generator=g),
        W_hh=normal(*directions, H, H) * (0.99 / H**0.5),
        b_h=0.1 * normal(*directions, H),
        h0=0.5 * normal(*directions, B, H),
        grad_hs=normal(*rows, width),
        grad_h_last=normal(*directions, B, H),
        **options,
    ).to(dtype)


def run(call: Call) -> dict[str, Tensor]:
    """The results of the operators."""
    ops = torch.ops.rnnfast
    options = {name: getattr(call, name) for name in ("transposed", "reverse", "batch_sizes")}
    code = CODES[call.cell]
    hs, h_last = ops.rnn(call.x, call.ids, call.W_hh, call.b_h, call.h0, code, **options)
    V = 0 if call.ids is None else call.x.shape[0]
    grads = ops.rnn_backward(
        call.grad_hs, call.grad_h_last, hs, call.ids, V, call.W_hh, call.h0, code,
        True, True, True, **options,
    )  # fmt: skip
    return dict(zip(RESULTS, (hs, h_last, *grads), strict=True))


def loop(call: Call) -> dict[str, Tensor]:
    """The same by plain torch, step by step, differentiated by autograd."""
    inputs = {
        name: getattr(call, name).detach().requires_grad_() for name in ("x", "W_hh", "b_h", "h0")
    }
    followed = replace(call, **inputs)
    if call.W_hh.dim() == 3:
        hs, h_last = _both_directions(followed)
    else:
        hs, h_last = _one_direction(followed)
    outputs = [(hs, call.grad_hs), (h_last, call.grad_h_last)]
    loss = sum((out * grad).sum() for out, grad in outputs if grad is not None)
    grads = torch.autograd.grad(loss, list(inputs.values()))
    return dict(zip(RESULTS, (hs.detach(), h_last.detach(), *grads), strict=True))


def _both_directions(call: Call) -> tuple[Tensor, Tensor]:
    made = []
    for i, x in enumerate(call.x.chunk(2, -1)):
        weights = {"W_hh": call.W_hh[i], "b_h": call.b_h[i], "h0": call.h0[i]}
        made.append(_one_direction(replace(call, x=x, reverse=i == 1, **weights)))
    return torch.cat([hs for hs, _ in made], -1), torch.stack([h_last for _, h_last in made])


def _one_direction(call: Call) -> tuple[Tensor, Tensor]:
    u = call.x if call.ids is None else call.x[call.ids]
    steps = u.split(call.batch_sizes.tolist()) if call.batch_sizes is not None else u.unbind()
    W = call.W_hh.T if call.transposed else call.W_hh
    act = torch.relu if call.cell == "relu" else torch.tanh
    h, states = call.h0, [torch.empty(0)] * len(steps)
    order = reversed(range(len(steps))) if call.reverse else range(len(steps))
    for t in order:
        rows = len(steps[t])  # the others have ended, or have not begun
        states[t] = act(steps[t] + h[:rows] @ W + call.b_h)
        h = torch.cat((states[t], h[rows:]))
    return (torch.stack(states) if call.batch_sizes is None else torch.cat(states)), h
