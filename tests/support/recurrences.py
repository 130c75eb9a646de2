"""Random calls of the recurrence with every option, run by any backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rnnfast.backends import Adjoint, Backend, Needs, Recurrence
from rnnfast.backends.reference import reference
from support.compare import assert_close_to_f64


class Case(NamedTuple):
    """One call, and the gradients of its results."""

    call: Recurrence
    grad_hs: Tensor | None  # as hs
    grad_h_last: Tensor | None  # as h0

    def to(self, dtype: torch.dtype) -> Case:
        def cast(value: Any) -> Any:
            is_real = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if is_real else value

        call, *grads = self
        return Case(Recurrence(*map(cast, call)), *map(cast, grads))

    def on(self, device: str) -> Case:
        """The batch sizes stay on the CPU, as PackedSequence has them."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        call, *grads = self
        there = Recurrence(*map(moved, call))._replace(batch_sizes=call.batch_sizes)
        return Case(there, *map(moved, grads))


def make(
    T: int,
    B: int,
    H: int,
    V: int | None = None,  # of ids; None: a dense input
    *,
    cell: str = "tanh",
    dtype: torch.dtype = torch.float32,
    both: bool = False,  # directions
    lengths: list[int] | None = None,  # of the sequences, the longest first
    resets: bool = False,
    **options: Any,
) -> Case:
    """W_hh has a spectral radius near 1; a third of the states are reset."""
    g = torch.Generator().manual_seed(T * 1000003 + B * 10007 + H * 101 + (V or 0))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    directions, width = ((2,), 2 * H) if both else ((), H)
    rows: tuple[int, ...] = (T, B)
    if lengths is not None:
        sizes = [sum(t < length for length in lengths) for t in range(T)]
        options["batch_sizes"], rows = torch.tensor(sizes), (sum(lengths),)
    if resets:
        options["resets"] = torch.rand(T, B, generator=g) < 1 / 3
    if cell.startswith("leaky"):
        options["leak"] = 0.05 + 0.9 * torch.rand(*directions, H, generator=g, dtype=torch.float64)
    call = Recurrence(
        cell,
        x=0.3 * (normal(*rows, width) if V is None else normal(V, H)),
        ids=None if V is None else torch.randint(0, V, rows, generator=g),
        W_hh=normal(*directions, H, H) * (0.99 / H**0.5),
        b_h=0.1 * normal(*directions, H),
        h0=0.5 * normal(*directions, B, H),
        **options,
    )
    return Case(call, normal(*rows, width), normal(*directions, B, H)).to(dtype)


def run(backend: Backend, case: Case, needs: Needs | None = None) -> dict[str, Tensor]:
    """All results by their names, those of the backward pass as in `Gradients`."""
    r = case.call
    hs, h_last, saved = backend.rnn_forward(r, True)
    V = 0 if r.ids is None else r.x.shape[0]
    made = backend.rnn_backward(Adjoint(r, V, hs, saved, *case[1:], needs or Needs()))
    results = {"hs": hs, "h_last": h_last, **made._asdict()}
    return {name: value for name, value in results.items() if value is not None}


# What of a call [2, 3, 8] with lengths 2, 2, 1 does not fit, and the error.
WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"batch_sizes": [3, 4]}, r"batch_sizes\[1\] is 4; it must be at least 1 and at most 3"),
    ({"batch_sizes": [3, 0]}, r"batch_sizes\[1\] is 0; it must be at least 1"),
    ({"batch_sizes": [3, 1]}, r"x is float32 \[5, 8\]; it must be float32 \[N, H\] = \[4, 8\]"),
    ({"batch_sizes": []}, "T, the number of steps, is 0"),
    ({"resets": [[1, 0]]}, r"resets is int64 \[1, 2\]; it must be bool \[T, B\] = \[2, 3\]"),
    ({"resets": [[1, 0, 0]] * 2}, r"resets is int64 \[2, 3\]; it must be bool"),
    ({"leak": [0.5] * 8}, "leak is given; it must be None for the cell 0"),
    ({"cell": "leaky_tanh"}, "leak is None; it must be given for the cell 2"),
]


def check_refuses(backend: Backend, wrong: dict[str, Any], message: str) -> None:
    """One of WRONG_OPTIONS raises its error."""
    call = make(2, 3, 8, lengths=[2, 2, 1]).call
    [(name, value)] = wrong.items()
    if name != "cell":
        value = torch.tensor(value, dtype=torch.float32 if name == "leak" else torch.long)
    with pytest.raises(RuntimeError, match=message):
        backend.rnn_forward(call._replace(**{name: value}), True)


def check_gradients_are_optional(backend: Backend, case: Case) -> None:
    """Without one of them the others have the same bits."""
    every = run(backend, case)
    for name in Needs._fields:
        found = run(backend, case, Needs(**{name: False}))
        others = {key: value for key, value in found.items() if value.numel() > 0}
        assert every.keys() - others.keys() == {name}
        for key, value in others.items():
            assert torch.equal(value, every[key]), f"{key} without {name}"


def check(backend: Backend, case: Case, device: str = "cpu") -> None:
    """Every result is as near to float64 as the reference's.

    In float64 the reference is the truth itself: 64 units in the last place are allowed there.
    """
    got, same = run(backend, case.on(device)), run(reference, case)
    got = {name: value.cpu() for name, value in got.items()}
    truth = run(reference, case.to(torch.float64))
    assert got.keys() == same.keys()
    for name, value in truth.items():
        if case.call.x.dtype == torch.float64:
            allowed = 64 * torch.finfo(torch.float64).eps * max(1.0, value.abs().max().item())
            torch.testing.assert_close(got[name], value, rtol=0, atol=allowed)
        else:
            assert_close_to_f64(name, got[name], same[name], value)
