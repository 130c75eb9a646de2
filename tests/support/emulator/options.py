"""The emulated recurrence with lengths, resets and leaky cells, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnfast.backends import Adjoint, Needs, reference_recurrence
from rnnfast.backends.reference import reference
from rnnfast.cells import CELLS
from support.compare import assert_close_to_f64
from support.emulator.params import params
from support.emulator.recurrence import NONE, Launch, unwritten
from support.recurrences import Case

NO_ID = 1 << 40  # where a kernel must not look


class Kernels:
    """The kernels with options, for one call.

    `padded`: sequences of different lengths all have rows for T steps, some of which do not exist.
    """

    def __init__(self, launch: Launch, case: Case, padded: bool = False) -> None:
        self.case = case
        self.call = r = case.call
        self.launch = replace(launch, reverse=r.reverse)
        self.B, self.H = r.h0.shape
        self.lengths = self.starts = None
        sizes = r.batch_sizes
        if sizes is None:
            self.T = (r.x if r.ids is None else r.ids).shape[0]
            self.rows = torch.arange(self.T * self.B)  # of the arrays, which the call's rows have
        else:
            self.T = len(sizes)
            self.lengths = (sizes[:, None] > torch.arange(self.B)).sum(0)
            self.starts = None if padded else sizes.cumsum(0) - sizes
            starts = torch.arange(self.T) * self.B if padded else self.starts
            each = zip(starts.tolist(), sizes.tolist(), strict=True)
            self.rows = torch.cat([first + torch.arange(size) for first, size in each])
        self.count = self.T * self.B if padded else len(self.rows)

    def forward(self, saves: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """hs, h_last and, of a leaky cell, act(z)."""
        r = self.call
        hs, h_last = self._unwritten(), unwritten(self.B, self.H)
        saved = self._unwritten() if saves and r.leak is not None else None
        if r.ids is None:
            table = {"x": self._given(r.x)}
        else:  # not contiguous, beside what is no id
            ids = torch.stack([self._spread(r.ids, NO_ID), torch.full((self.count,), NO_ID)], -1)
            strides = {"ids_stride_t": 2 * self.B, "ids_stride_b": 2}
            table = {"x": r.x, "V": len(r.x), "ids": ids, **strides}
        states = {"b_h": r.b_h, "h0": r.h0, "hs": hs, "h_last": h_last}
        self._run(False, {"saved": saved}, **table, **states)
        return self._written(hs), h_last, None if saved is None else self._written(saved)

    def backward(self, hs: Tensor, saved: Tensor | None, needs: bool = True) -> dict[str, Tensor]:
        """dz, and with `needs` grad_h0 and grad_leak."""
        r, (_, grad_hs, grad_h_last) = self.call, self.case
        dz, options = self._unwritten(), {}
        grad_h0 = unwritten(self.B, self.H) if needs else None
        grad_leak = unwritten(self.B, self.H) if needs and r.leak is not None else None
        if grad_leak is not None:
            states = reference_recurrence._steps(hs, r)
            before = reference_recurrence._joined(reference_recurrence._states_before(r, states), r)
            options = {"before": self._given(before), "grad_leak": grad_leak}
        given = {"hs": self._given(hs if saved is None else saved), "grad_h_last": grad_h_last}
        given["grad_hs"] = None if grad_hs is None else self._given(grad_hs)
        self._run(True, options, **given, dz=dz, grad_h0=grad_h0)
        sums = None if grad_leak is None else grad_leak.sum(0)
        return _those_there_are(dz=self._written(dz), grad_h0=grad_h0, grad_leak=sums)

    def _run(self, backward: bool, others: dict[str, Any], **values: Any) -> None:
        r = self.call
        _, way = self.launch.order(self.T, backward)
        resets = None if r.resets is None else r.resets.to(torch.uint8)
        options = _those_there_are(
            **{"way": way, "starts": self.starts, "lengths": self.lengths},
            **{"resets": resets, "resets_to_h0": r.resets_to_h0, "leak": r.leak, **others},
        )
        sizes = {"T": self.T, "H": self.H, "row": self.launch.row(self.H)}
        options = {"options": params("RecurrenceOptionsParams", **options)}
        self.launch.run(
            CELLS[r.cell].code, backward, self.B, W_hh=r.W_hh, **sizes, **values, **options
        )
        assert self.launch.error.item() == NONE

    def _spread(self, values: Tensor, nothing: float) -> Tensor:
        """The call's rows where the arrays have them, and what nobody may read between them."""
        values = values.flatten(0, 1) if self.call.batch_sizes is None else values
        wide = values.new_full((self.count, *values.shape[1:]), nothing)
        wide[self.rows] = values
        return wide

    def _given(self, values: Tensor) -> Tensor:
        return self.launch.given(self._spread(values, torch.nan))

    def _unwritten(self) -> Tensor:
        return self.launch.unwritten(self.count, self.H)

    def _written(self, wide: Tensor) -> Tensor:
        """The call's rows, which must be the only ones that were written."""
        others = torch.ones(self.count, dtype=torch.bool)
        others[self.rows] = False
        assert wide[others].isnan().all(), "a row was written that does not exist"
        values = wide[self.rows]
        return values.unflatten(0, (-1, self.B)) if self.call.batch_sizes is None else values


def _those_there_are(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def run(launch: Launch, case: Case, padded: bool = False) -> dict[str, Tensor]:
    """All results by their names."""
    kernels = Kernels(launch, case, padded)
    hs, h_last, saved = kernels.forward()
    return _those_there_are(hs=hs, h_last=h_last, saved=saved, **kernels.backward(hs, saved))


def by_the_reference(case: Case) -> dict[str, Tensor]:
    """The same."""
    r = case.call
    if r.ids is not None:
        r = r._replace(x=r.x[r.ids], ids=None)
    hs, h_last, saved = reference.rnn_forward(r, True)
    made = reference.rnn_backward(Adjoint(r, 0, hs, saved, *case[1:], Needs()))
    gradients = {"dz": made.x, "grad_h0": made.h0, "grad_leak": made.leak}
    return _those_there_are(hs=hs, h_last=h_last, saved=saved, **gradients)


def check(launch: Launch, case: Case, seeds: int = 2, padded: bool = False) -> None:
    """As near to float64 as the reference, and the same bits whatever the order of threads."""
    got, same = run(launch, case, padded), by_the_reference(case)
    truth = by_the_reference(case.to(torch.float64))
    assert got.keys() == same.keys()
    for name, value in got.items():
        assert_close_to_f64(name, value, same[name], truth[name])
    for seed in range(1, seeds):
        for name, value in run(launch.with_seed(seed), case, padded).items():
            assert torch.equal(value, got[name]), f"{name} differs with seed {seed}"
